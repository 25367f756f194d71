"""The networks by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from fip_jax import compiled
from fip_jax.errors import UserError
from fip_jax.models.convnext import ConvNeXt
from fip_jax.models.densenet import DenseNet
from fip_jax.models.efficientnet import EfficientNet
from fip_jax.models.mobilenet_v2 import MobileNetV2
from fip_jax.models.mobilenet_v3 import MobileNetV3
from fip_jax.models.preact_resnet import PreActResNet, PreActResNet18
from fip_jax.models.resnet import ResNet, ResNet18
from fip_jax.models.small_vgg import SmallVgg
from fip_jax.models.vgg import Vgg, Vgg19Bn
from fip_jax.models.vit import VisionTransformer
from fip_jax.models.wrn_16_1 import WideResNet16

# What `model.name` can be: networks that are trained here, and that files have as well.
MODELS: dict[str, Any] = {
    "preact_resnet18": PreActResNet18,
    "resnet18": ResNet18,
    "small_vgg": SmallVgg,
    "vgg19_bn": Vgg19Bn,
    "vit_small": VisionTransformer,
    "wrn_16_1": WideResNet16,
}
# Families that come in files alone, each of any size.
FAMILIES: dict[str, Any] = {
    "resnet": ResNet,
    "preact_resnet": PreActResNet,
    "vgg": Vgg,
    "densenet": DenseNet,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "efficientnet": EfficientNet,
    "convnext": ConvNeXt,
}
# Those with tensors whose shapes depend on the size of the images.
SIZED = ("small_vgg", "vgg19_bn", "vit_small", "vgg")

_OWN = {"self", "num_classes", "image_size", "channels", "rngs"}
_LOWEST = {"width": 1, "patch_size": 1, "depth": 1, "channels": 1, "kernels": 1, "groups": 1, "inner": 1, "stem": 1}
LONGEST = 512  # of an option with several numbers


def network_class(name: str) -> Any:
    """The class of a network of `MODELS` or `FAMILIES`."""
    return MODELS[name] if name in MODELS else FAMILIES[name]


def known_options(name: str) -> dict[str, Any]:
    """The options of a network with their defaults."""
    parameters = inspect.signature(network_class(name).__init__).parameters
    return {key: value.default for key, value in parameters.items() if key not in _OWN}


def create_model(name: str, num_classes: int, image_size: int, seed: int, **options) -> nnx.Module:
    """A network with fresh weights.

    Args:
      name: key of `MODELS` or `FAMILIES`.
      num_classes: length of the logits.
      image_size: height and width of the images in pixels.
      seed: of the initial weights.
      **options: keyword arguments of the network, such as `width`.

    Raises:
      UserError: unknown name or option, or an option that the network cannot have.
    """
    made = _constructor(name, num_classes, image_size, options)  # refuses, before True is looked up as a width of 1
    graphdef, draw = _program(made.func, num_classes, image_size, tuple(sorted(made.keywords.items())))
    return nnx.merge(graphdef, draw(jax.random.key(seed)))


def abstract_model(name: str, num_classes: int, image_size: int, **options) -> nnx.Module:
    """The network of `create_model` with shapes in the place of variables, which takes no time to draw."""
    constructor = _constructor(name, num_classes, image_size, options)
    return nnx.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))


def _constructor(
    name: str, num_classes: int, image_size: int, options: dict[str, Any]
) -> functools.partial[nnx.Module]:
    """What makes the network of `create_model` from `rngs`; raises what that does."""
    if name not in MODELS and name not in FAMILIES:
        raise UserError(f"model.name: found {name!r}, expected one of {', '.join(sorted(MODELS))}")
    network = network_class(name)
    known = known_options(name)
    if "channels" in inspect.signature(network.__init__).parameters:
        known["channels"] = 3
    for option, value in options.items():
        if option not in known:
            raise UserError(f"model.{option}: the network {name} has no such option")
        _check_option(option, value, known[option])
    numbers = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return functools.partial(network, num_classes, image_size, **numbers)


def _check_option(option: str, value: Any, default: Any) -> None:
    """Refuses a value of another kind than the default: a whole number or several."""
    several = isinstance(default, tuple)
    numbers = value if several and isinstance(value, list | tuple) else [value]
    lowest = _LOWEST.get(option, 0)
    if not all(type(n) is int and n >= lowest for n in numbers) or len(numbers) > LONGEST:
        expected = f"{LONGEST} whole numbers at most" if several else "a whole number"
        raise UserError(f"model.{option}: found {value!r}, expected {expected} of at least {lowest}")


@functools.cache
def _program(
    network: Callable[..., nnx.Module],
    num_classes: int,
    image_size: int,
    options: tuple[tuple[str, Any], ...],
) -> tuple[nnx.GraphDef, Callable[[jax.Array], nnx.State]]:
    """A network without its variables, and the compiled program that draws these from a key."""
    constructor = functools.partial(network, num_classes, image_size, **dict(options))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: constructor(rngs=nnx.Rngs(0))))
    # Without one, every draw of every shape would be a program of its own, and Flax compiles them with all effort.
    draw = jax.jit(
        lambda key: nnx.state(constructor(rngs=nnx.Rngs(key))), compiler_options=compiled.with_little_effort()
    )
    return graphdef, draw
