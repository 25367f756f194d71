"""The networks by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from fip_jax import compiled, parallel
from fip_jax.errors import UserError
from fip_jax.models.preact_resnet18 import PreActResNet18
from fip_jax.models.resnet18 import ResNet18
from fip_jax.models.small_vgg import SmallVgg
from fip_jax.models.vgg19_bn import Vgg19Bn
from fip_jax.models.vit_small import VisionTransformer
from fip_jax.models.wrn_16_1 import WideResNet16

MODELS: dict[str, Any] = {
    "preact_resnet18": PreActResNet18,
    "resnet18": ResNet18,
    "small_vgg": SmallVgg,
    "vgg19_bn": Vgg19Bn,
    "vit_small": VisionTransformer,
    "wrn_16_1": WideResNet16,
}

_OWN = {"self", "num_classes", "image_size", "rngs"}
_LOWEST = {"hidden": 0, "heads": 0}


def known_options(name: str) -> dict[str, int]:
    """The options of a network with their defaults."""
    parameters = inspect.signature(MODELS[name].__init__).parameters
    return {key: value.default for key, value in parameters.items() if key not in _OWN}


def aliases(name: str) -> dict[str, str]:
    """Parts of names that files have for layers of a network -> ours."""
    return getattr(MODELS[name], "ALIASES", {})


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
    _constructor(name, num_classes, image_size, options)  # refuses, before True is looked up as a width of 1
    graphdef, draw = _program(MODELS[name], num_classes, image_size, tuple(sorted(options.items())))
    return nnx.merge(graphdef, draw(jax.random.key(seed)))


def abstract_model(name: str, num_classes: int, image_size: int, **options) -> nnx.Module:
    """The network of `create_model` with shapes in the place of variables, which takes no time to draw."""
    constructor = _constructor(name, num_classes, image_size, options)
    return nnx.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))


def _constructor(
    name: str, num_classes: int, image_size: int, options: dict[str, Any]
) -> Callable[..., nnx.Module]:
    """What makes the network of `create_model` from `rngs`; raises what that does."""
    if name not in MODELS:
        raise UserError(f"model.name: found {name!r}, expected one of {', '.join(sorted(MODELS))}")
    known = known_options(name)
    for option, value in options.items():
        if option not in known:
            raise UserError(f"model.{option}: the network {name} has no such option")
        lowest = _LOWEST.get(option, 1)
        if type(value) is not int or value < lowest:
            raise UserError(f"model.{option}: found {value!r}, expected a whole number of at least {lowest}")
    return functools.partial(MODELS[name], num_classes, image_size, **options)


@functools.cache
def _program(
    network: Callable[..., nnx.Module],
    num_classes: int,
    image_size: int,
    options: tuple[tuple[str, int], ...],
) -> tuple[nnx.GraphDef, Callable[[jax.Array], nnx.State]]:
    """A network without its variables, and the compiled program that draws these from a key."""
    constructor = functools.partial(network, num_classes, image_size, **dict(options))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: constructor(rngs=nnx.Rngs(0))))
    # Without one, every draw of every shape would be a program of its own, and Flax compiles them with all effort.
    options_of_jit = compiled.with_little_effort(parallel.platform_of(None))
    draw = jax.jit(lambda key: nnx.state(constructor(rngs=nnx.Rngs(key))), compiler_options=options_of_jit)
    return graphdef, draw
