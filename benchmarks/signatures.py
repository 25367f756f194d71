"""Makes `fip_jax/interop/signatures.csv`, the index of published networks; needs torchvision and timm.

    python -m benchmarks.signatures

Networks are built without numbers (PyTorch's meta device). Of those with the same tensors the first by name is kept,
torchvision's before timm's.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
import torchvision

from fip_jax.interop import signatures

_PLACE = Path(signatures.__file__).with_name("signatures.csv")


def networks() -> Iterator[tuple[str, Callable[[], torch.nn.Module]]]:
    """(name, what builds it) of every image classifier of both libraries."""
    for name in sorted(torchvision.models.list_models(module=torchvision.models)):
        yield f"torchvision's {name}", functools.partial(torchvision.models.get_model, name, weights=None)
    for name in sorted(timm.list_models()):
        yield f"timm's {name}", functools.partial(timm.create_model, name, pretrained=False)


def main() -> None:
    """Writes the index."""
    found: dict[str, str] = {}
    for name, build in networks():
        try:
            with torch.device("meta"):
                state = build().state_dict()
        except Exception as error:  # some need packages of their own, or numbers
            print(f"{name}: left out ({type(error).__name__})")
            continue
        found.setdefault(signatures.signature({k: tuple(v.shape) for k, v in state.items()}), name)
        if len(found) % 50 == 0:
            print(len(found), flush=True)
            _write(found)
    _write(found)


def _write(found: dict[str, str]) -> None:
    _PLACE.write_text("".join(f"{key},{name}\n" for key, name in sorted(found.items())))


if __name__ == "__main__":
    main()
