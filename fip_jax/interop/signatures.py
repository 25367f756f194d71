"""Networks of torchvision and timm by the names and shapes of their tensors, also those that are not known here.

`signatures.csv` has a line for each: a hash and a name. `python -m benchmarks.signatures` makes it anew.
"""

import functools
import hashlib
from importlib import resources

from fip_jax.interop.state_dict import COUNTERS
from fip_jax.models.naming import Shapes

_DIGITS = 12


def signature(shapes: Shapes) -> str:
    """A hash of names and shapes, the same for any number of classes.

    Args:
      shapes: of a state dict, in its order. The layer that comes last counts by its names alone.
    """
    names = [name for name in shapes if not name.endswith(COUNTERS)]
    last = names[-1].rpartition(".")[0] if names else ""
    lines = [
        name if name.rpartition(".")[0] == last else f"{name} {'x'.join(map(str, shapes[name]))}"
        for name in names
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:_DIGITS]


def published_name(shapes: Shapes) -> str:
    """What torchvision or timm call the network with these tensors, or ""."""
    return _index().get(signature(shapes), "")


@functools.cache
def _index() -> dict[str, str]:
    text = resources.files("fip_jax.interop").joinpath("signatures.csv").read_text()
    return dict(line.split(",", 1) for line in text.splitlines() if line)
