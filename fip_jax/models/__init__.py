"""The networks by name."""

import inspect
from typing import Any

from flax import nnx

from fip_jax.errors import UserError
from fip_jax.models.preact_resnet18 import PreActResNet18
from fip_jax.models.small_vgg import SmallVgg

MODELS: dict[str, Any] = {
    "preact_resnet18": PreActResNet18,
    "small_vgg": SmallVgg,
}


def create_model(name: str, num_classes: int, image_size: int, seed: int, **options) -> nnx.Module:
    """A network with fresh weights.

    Args:
      name: key of `MODELS`.
      num_classes: length of the logits.
      image_size: height and width of the images in pixels.
      seed: of the initial weights.
      **options: keyword arguments of the network, such as `width`.

    Raises:
      UserError: unknown name or option, or an option that the network cannot have.
    """
    if name not in MODELS:
        raise UserError(f"model.name: found {name!r}, expected one of {', '.join(sorted(MODELS))}")
    known = set(inspect.signature(MODELS[name].__init__).parameters) - {
        "self",
        "num_classes",
        "image_size",
        "rngs",
    }
    for option, value in options.items():
        if option not in known:
            raise UserError(f"model.{option}: the network {name} has no such option")
        if type(value) is not int or value < 1:
            raise UserError(f"model.{option}: found {value!r}, expected a whole number of at least 1")
    return MODELS[name](num_classes, image_size, **options, rngs=nnx.Rngs(seed))
