"""Which network it is, by the names and shapes of its tensors, whatever the file calls them."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx

from fip_jax.errors import UserError
from fip_jax.interop.state_dict import COUNTERS, check_shapes, expected_shapes, is_plausible, listing
from fip_jax.models import RECOGNISED, SIZED, abstract_model, network_class
from fip_jax.models.naming import Naming, Options, Shapes

_MOST = 0.8  # of the names, where they begin with the name of a part and the others are the head's
_MOST_TENSORS = (
    5000  # four times those of the deepest network known here; the search takes milliseconds for each
)
# Sizes of images that networks are made for, in pixels: to say which would fit.
_USUAL_SIZES = (32, 224, 28, 64, 96, 128, 256, 384, 48, 112, 160, 299, 40, 36, 30, 300)


class Recognised(NamedTuple):
    """A known network in a file.

    Attributes:
      name: key of `MODELS` or `FAMILIES`.
      options: its arguments except `image_size`; `channels` only where they are not 3.
      names: our name of each tensor -> its name in the file.
    """

    name: str
    options: Options
    names: dict[str, str]


class _Miss(NamedTuple):
    """The network that comes nearest: number of tensors that it has in common, and what differs."""

    common: int = -1
    words: str = ""


def recognise(shapes: Shapes, image_size: int) -> Recognised:
    """The network whose tensors have these shapes, and these names or others that are known for it.

    Args:
      shapes: of a state dict, in PyTorch's layout.
      image_size: height and width in pixels of the images that the network takes.

    Raises:
      UserError: none fits; of the network that comes nearest, every missing, unexpected and misshapen tensor.
    """
    if len(shapes) > _MOST_TENSORS:
        raise UserError(
            f"found {len(shapes)} tensors of an unknown network, expected one of {_known()}, none of which has more "
            f"than {_MOST_TENSORS}"
        )
    found = _search(shapes, image_size)
    if isinstance(found, Recognised):
        return found
    for size in _USUAL_SIZES if found.common >= 0 else ():
        fitting = _search(shapes, size, SIZED)
        if isinstance(fitting, Recognised):
            raise UserError(
                f"found a {fitting.name} for images of another size than dataset.image_size = {image_size}, expected "
                f"the size it was trained with; {size} fits"
            )
    if found.common < 0:
        raise UserError(
            f"found {len(shapes)} tensors ({listing(list(shapes))}) of an unknown network, expected one of {_known()}"
        )
    raise UserError(
        f"found tensors of an unknown network, expected one of {_known()}; nearest is {found.words} (for "
        f"dataset.image_size = {image_size})"
    )


def _known() -> str:
    return ", ".join(sorted(RECOGNISED))


def _search(shapes: Shapes, image_size: int, among: Sequence[str] = RECOGNISED) -> Recognised | _Miss:
    nearest = _Miss()
    for candidate in _without_parts(shapes):
        for name in among:
            network = network_class(name)
            tried: list[dict[str, str]] = []
            for naming in (Naming(), *getattr(network, "NAMINGS", ())):
                names = _renamed(candidate, naming, getattr(network, "HEAD", ""), shapes)
                if names is None or names in tried:
                    continue
                tried.append(names)
                outcome = _fit(name, names, {our: shapes[key] for our, key in names.items()}, image_size)
                if isinstance(outcome, Recognised):
                    return outcome
                nearest = max(nearest, outcome)
    return nearest


def _fit(name: str, names: dict[str, str], shapes: Shapes, image_size: int) -> Recognised | _Miss:
    network = network_class(name)
    expected: dict[str, tuple[int, ...]] = {}
    try:
        options = network.options(
            shapes, *((image_size,) if getattr(network, "OPTIONS_OF_SIZE", False) else ())
        )
        if options.get("channels") == 3:
            del options["channels"]
        if not all(is_plausible(key, value) for key, value in options.items()):
            return _Miss()
        expected = _expected(name, image_size, tuple(options.items()))
        check_shapes(shapes, expected)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError):
        return _Miss()  # the file lacks what this network's arguments are read from, or they cannot be
    except UserError as error:
        return _Miss(len(shapes.keys() & expected.keys()), f"{name}: {error}")
    return Recognised(name, options, names)


@functools.lru_cache(64)  # of which other names for the same layers ask again
def _expected(
    name: str, image_size: int, options: tuple[tuple[str, int | tuple[int, ...]], ...]
) -> dict[str, tuple[int, ...]]:
    arguments: dict[str, Any] = dict(options)
    num_classes = arguments.pop("num_classes")
    module = abstract_model(name, num_classes, image_size, **arguments)
    _, *states = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    params, model_state, _ = states
    return expected_shapes(nnx.to_pure_dict(params), nnx.to_pure_dict(model_state))


def _without_parts(shapes: Shapes) -> Iterator[dict[str, str]]:
    """(clean name -> name) as it is, and without the name of the part that nearly all begin with (`backbone.`)."""
    names = {name: name for name in shapes if not name.endswith(COUNTERS)}
    yield names
    for _ in range(3):
        begun = Counter(name.partition(".")[0] for name in names if "." in name)
        first, count = begun.most_common(1)[0] if begun else ("", 0)
        clean = {name.removeprefix(f"{first}."): key for name, key in names.items()}
        if count < _MOST * len(names) or len(clean) != len(names):
            return
        names = clean
        yield names


def _renamed(names: Mapping[str, str], naming: Naming, head: str, shapes: Shapes) -> dict[str, str] | None:
    """(our name -> the file's) by a naming, the head's tensors under our name of it; None where two become one."""
    found = {naming(name): key for name, key in names.items()}
    if head and f"{head}.weight" not in found:
        groups = Counter(name.partition(".")[0] for name in found)
        heads = [
            name.removesuffix(".weight")
            for name, key in found.items()
            if name.endswith(".weight")
            and len(shapes[key]) == 2
            and groups[name.partition(".")[0]] == 1 + (name.removesuffix("weight") + "bias" in found)
        ]
        if len(heads) == 1:
            old = heads[0]
            found = {
                head + name.removeprefix(old) if name.startswith(f"{old}.") else name: key
                for name, key in found.items()
            }
    return found if len(found) == len(names) else None
