"""The block of MobileNetV3 and EfficientNet: an inverted residual with squeeze-and-excitation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from fip_jax.models.layers import chained, conv_norm
from fip_jax.models.naming import Shapes

Activation: TypeAlias = Callable[[jax.Array], jax.Array]


class Sizes(NamedTuple):
    """Of one block.

    Attributes:
      wide: channels between its 1x1 convolutions.
      out: channels that come out.
      kernel: side of the convolution of each channel.
      squeezed: channels in the squeeze-and-excitation, 0 for none.
    """

    wide: int
    out: int
    kernel: int
    squeezed: int


def sizes_of(shapes: Shapes, block: str) -> Sizes:
    """The sizes of the block whose tensors' names begin with `block` and a dot."""
    by_part: dict[int, tuple[int, ...]] = {}
    squeezed = 0
    for name, shape in shapes.items():
        if not name.startswith(f"{block}.") or not name.endswith("weight") or len(shape) != 4:
            continue
        place, layer = name.removeprefix(f"{block}.").split(".")[:2]
        if layer == "fc1":
            squeezed = shape[0]
        elif layer == "0":
            by_part[int(place)] = shape
    (depthwise,) = [shape for shape in by_part.values() if shape[1] == 1 and shape[0] > 1]
    return Sizes(depthwise[0], by_part[max(by_part)][0], depthwise[2], squeezed)


def columns(blocks: Sequence[Sizes]) -> dict[str, tuple[int, ...]]:
    """The sizes of all blocks as arguments of a network: each a number for every block."""
    wide, out, kernels, squeezed = zip(*blocks, strict=True)
    return {"wide": wide, "out": out, "kernels": kernels, "squeezed": squeezed}


class SqueezeExcite(nnx.Module):
    """A weight for each channel, from the means of all."""

    def __init__(self, a: int, squeezed: int, activation: Activation, gate: Activation, *, rngs: nnx.Rngs):
        self.fc1 = nnx.Conv(a, squeezed, (1, 1), rngs=rngs)
        self.fc2 = nnx.Conv(squeezed, a, (1, 1), rngs=rngs)
        self.activation, self.gate = activation, gate

    def __call__(self, x):
        means = jnp.mean(x, axis=(1, 2), keepdims=True)
        return x * self.gate(self.fc2(self.activation(self.fc1(means))))


class MBConv(nnx.Module):
    """1x1 convolution to more channels, a convolution of each channel, squeeze-and-excitation, 1x1 convolution.

    Args:
      a: channels in.
      sizes: of the block; the first convolution is left out where the channels stay the same.
      stride: of the convolution of each channel.
      activation: behind the first two convolutions.
      squeeze: activation and gate of the squeeze-and-excitation.
      epsilon: of BatchNorm.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        a: int,
        sizes: Sizes,
        stride: int,
        activation: Activation,
        squeeze: tuple[Activation, Activation],
        epsilon: float,
        *,
        rngs: nnx.Rngs,
    ):
        wide = sizes.wide
        parts: list[nnx.Module] = []
        if wide != a:
            parts.append(conv_norm(a, wide, 1, epsilon=epsilon, rngs=rngs))
        parts.append(conv_norm(wide, wide, sizes.kernel, stride, groups=wide, epsilon=epsilon, rngs=rngs))
        if sizes.squeezed:
            parts.append(SqueezeExcite(wide, sizes.squeezed, *squeeze, rngs=rngs))
        parts.append(conv_norm(wide, sizes.out, 1, epsilon=epsilon, rngs=rngs))
        self.block = nnx.List(parts)
        self.activation, self.adds = activation, stride == 1 and a == sizes.out

    def __call__(self, x):
        y = x
        for part in self.block[:-1]:
            y = self.activation(chained(part, y)) if isinstance(part, nnx.Dict) else part(y)
        y = chained(self.block[-1], y)
        return x + y if self.adds else y
