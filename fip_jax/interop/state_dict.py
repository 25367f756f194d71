"""PyTorch's names and layouts for our parameters, by rule: the path of a layer here is its path there."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.errors import UserError
from fip_jax.models import LONGEST
from fip_jax.per_example import PyTree

# Our name of a leaf -> PyTorch's, and the order of its axes there by their number. Other leaves are the same in both.
_LEAVES: dict[str, tuple[str, dict[int, tuple[int, ...]]]] = {
    "kernel": ("weight", {4: (3, 2, 0, 1), 2: (1, 0)}),
    "scale": ("weight", {}),
    "mean": ("running_mean", {}),
    "var": ("running_var", {}),
}
# Of batches by BatchNorm, of averaged networks by `torch.optim.swa_utils`, of operations by thop; Flax keeps none.
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
_LISTED = 12
# Of what a file of weights may ask for, so that nothing absurd is built.
HIGHEST = {"depth": 64, "num_classes": 1 << 20, "blocks": 64}
HIGHEST_OTHER = 1 << 14


def is_plausible(option: str, value: Any) -> bool:
    """Whether an argument of a network is a number, or some, of no absurd size."""
    numbers = value if isinstance(value, list | tuple) else [value]
    highest = HIGHEST.get(option, HIGHEST_OTHER)
    return len(numbers) <= LONGEST and all(type(n) is int and 0 <= n <= highest for n in numbers)




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


def from_torch(
    arrays: Mapping[str, np.ndarray], params: PyTree, model_state: PyTree
) -> tuple[PyTree, PyTree]:
    """(params, model_state) in float32, in the structure of the given ones, from arrays by PyTorch's names.

    Args:
      arrays: a state dict; BatchNorm's counters of batches are left out.
      params: nested dict, of which structure and shapes count.
      model_state: likewise.

    Raises:
      UserError: lists every missing, unexpected and misshapen tensor.
    """
    check_shapes({name: a.shape for name, a in arrays.items()}, expected_shapes(params, model_state))

    def leaf(path, like):
        name, axes = _name(path)
        array = arrays[name].astype(np.float32)
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
