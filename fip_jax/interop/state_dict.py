"""PyTorch's names and layouts for our parameters, by rule: the path of a layer here is its path there."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fip_jax.errors import UserError
from fip_jax.models import MODELS, abstract_model, aliases
from fip_jax.per_example import PyTree

# Our name of a leaf -> PyTorch's, and the order of its axes there by their number. Other leaves are the same in both.
_LEAVES: dict[str, tuple[str, dict[int, tuple[int, ...]]]] = {
    "kernel": ("weight", {4: (3, 2, 0, 1), 2: (1, 0)}),
    "scale": ("weight", {}),
    "mean": ("running_mean", {}),
    "var": ("running_var", {}),
}
# Of batches by BatchNorm, and of averaged networks by `torch.optim.swa_utils`, which Flax does not keep.
COUNTERS = ("num_batches_tracked", "n_averaged")
_LISTED = 12
# Of what a file of weights may ask for, so that nothing absurd is built.
HIGHEST = {"depth": 64, "num_classes": 1 << 20}
HIGHEST_OTHER = 1 << 14


def _name(path: tuple) -> tuple[str, dict[int, tuple[int, ...]]]:
    parts = [str(entry.key) for entry in path]
    leaf, axes = _LEAVES.get(parts[-1], (parts[-1], {}))
    return ".".join([*parts[:-1], leaf]), axes


def _leaves(tree: PyTree) -> list[tuple[str, dict[int, tuple[int, ...]], Any]]:
    """(PyTorch's name, axes, leaf) of every leaf."""
    return [(*_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def to_torch(params: PyTree, model_state: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a network by PyTorch's names, in PyTorch's layout (convolutions `[out, in, height, width]`)."""
    found = {}
    for tree in (params, model_state):
        for name, axes, leaf in _leaves(tree):
            array = np.asarray(leaf)
            found[name] = np.ascontiguousarray(array.transpose(axes[array.ndim])) if axes else array
    return found


def expected_shapes(params: PyTree, model_state: PyTree) -> dict[str, tuple[int, ...]]:
    """PyTorch's names and shapes of a network's arrays, which may be abstract."""
    return {
        name: tuple(leaf.shape[axis] for axis in axes[len(leaf.shape)]) if axes else tuple(leaf.shape)
        for tree in (params, model_state)
        for name, axes, leaf in _leaves(tree)
    }


def file_names(names: Iterable[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Our name of each tensor -> its name in a file; `renamed` are parts of names there -> here.

    Raises:
      UserError: two tensors that are one of ours, of which only one would count.
    """
    found: dict[str, str] = {}
    for name in names:
        ours = ".".join(renamed.get(part, part) for part in name.split("."))
        if found.setdefault(ours, name) != name:
            raise UserError(f"found {listing([found[ours], name])}, expected one of the two")
    return found


def from_torch(
    arrays: Mapping[str, np.ndarray], params: PyTree, model_state: PyTree, renamed: Mapping[str, str]
) -> tuple[PyTree, PyTree]:
    """(params, model_state) in float32, in the structure of the given ones, from arrays by PyTorch's names.

    Args:
      arrays: a state dict; BatchNorm's counters of batches are left out.
      params: nested dict, of which structure and shapes count.
      model_state: likewise.
      renamed: parts of names there -> here.

    Raises:
      UserError: lists every missing, unexpected and misshapen tensor.
    """
    by_name = {name: arrays[key] for name, key in file_names(arrays, renamed).items()}
    check_shapes({name: a.shape for name, a in by_name.items()}, expected_shapes(params, model_state))

    def leaf(path, like):
        name, axes = _name(path)
        array = by_name[name].astype(np.float32)
        return jnp.asarray(array.transpose(np.argsort(axes[len(like.shape)])) if axes else array)

    restored = [jax.tree_util.tree_map_with_path(leaf, tree) for tree in (params, model_state)]
    return restored[0], restored[1]


def check_shapes(found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> None:
    """Raises UserError with every difference, counters of batches left out."""
    found = {name: shape for name, shape in found.items() if not name.endswith(COUNTERS)}
    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "misshapen": [
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != shape
        ],
    }
    if any(differences.values()):
        lists = [f"{kind}: {listing(names)}" for kind, names in differences.items() if names]
        raise UserError(f"the tensors do not fit the network; {'; '.join(lists)}")


def listing(names: Sequence[str]) -> str:
    """The first of some names from a file, fit to be printed, and how many more there are."""
    shown = ", ".join(repr(name[:100])[1:-1] for name in names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"


def recognise(shapes: Mapping[str, tuple[int, ...]], image_size: int) -> tuple[str, dict[str, int]]:
    """The network whose tensors have these names and shapes, and its arguments except `image_size`.

    Args:
      shapes: of a state dict, in PyTorch's layout.
      image_size: height and width in pixels of the images that the network takes.

    Returns:
      (key of `MODELS`, arguments with `num_classes`).

    Raises:
      UserError: none fits; of the network that comes nearest, every missing, unexpected and misshapen tensor.
    """
    nearest = (-1, "")
    for name, model in MODELS.items():
        try:
            ours = {our: shapes[key] for our, key in file_names(shapes, aliases(name)).items()}
            options = model.options(ours)
            if not all(
                type(n) is int and 0 <= n <= HIGHEST.get(key, HIGHEST_OTHER) for key, n in options.items()
            ):
                continue
        except (KeyError, IndexError, ValueError, ZeroDivisionError, UserError):
            continue  # the file lacks what this network's arguments are read from, or they cannot be
        expected: dict[str, tuple[int, ...]] = {}
        try:
            expected = _abstract_shapes(name, image_size, options)
            check_shapes(ours, expected)
        except (ValueError, ZeroDivisionError):
            continue
        except UserError as error:
            nearest = max(nearest, (len(ours.keys() & expected.keys()), f"{name}: {error}"))
        else:
            return name, options
    known = f"expected one of {', '.join(sorted(MODELS))}"
    if nearest[0] < 0:
        raise UserError(
            f"found {len(shapes)} tensors ({listing(list(shapes))}) of an unknown network, {known}"
        )
    raise UserError(
        f"found tensors of an unknown network, {known}; nearest is {nearest[1]} (for dataset.image_size = {image_size})"
    )


def _abstract_shapes(name: str, image_size: int, options: dict[str, int]) -> dict[str, tuple[int, ...]]:
    arguments = dict(options)
    num_classes = arguments.pop("num_classes")
    module = abstract_model(name, num_classes, image_size, **arguments)
    _, *states = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    params, model_state, _ = states
    return expected_shapes(nnx.to_pure_dict(params), nnx.to_pure_dict(model_state))
