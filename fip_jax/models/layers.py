"""Layers as PyTorch has them, for networks whose attributes are named as there.

The path of every layer in a module is its path in PyTorch's state dict, so that names need no table: `interop/
state_dict.py` translates paths and layouts by rule. An `nnx.Dict` with the indices as keys stands for a Sequential.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def conv(
    a: int, b: int, size: int, stride: int = 1, *, bias: bool = False, groups: int = 1, rngs: nnx.Rngs
) -> nnx.Conv:
    """A convolution from `a` to `b` channels with PyTorch's symmetric padding of size // 2."""
    return nnx.Conv(
        a,
        b,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=bias,
        feature_group_count=groups,
        rngs=rngs,
    )


def patches(a: int, b: int, size: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution of squares of `size` pixels that lie side by side."""
    return nnx.Conv(a, b, (size, size), strides=size, padding="VALID", rngs=rngs)


def norm(features: int, epsilon: float = 1e-5, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """BatchNorm with PyTorch's defaults: its momentum 0.1 is Flax's 0.9."""
    return nnx.BatchNorm(features, momentum=0.9, epsilon=epsilon, rngs=rngs)


def conv_norm(
    a: int, b: int, size: int, stride: int = 1, *, groups: int = 1, epsilon: float = 1e-5, rngs: nnx.Rngs
) -> nnx.Dict:
    """A convolution and BatchNorm behind it, named "0" and "1" as in torchvision; `chained` applies them."""
    return nnx.Dict(
        {"0": conv(a, b, size, stride, groups=groups, rngs=rngs), "1": norm(b, epsilon, rngs=rngs)}
    )


def chained(parts: nnx.Dict, x):
    """`x` through both parts of a `conv_norm`."""
    return parts["1"](parts["0"](x))


def global_pool(x):
    """The mean over all places, `[N, C]` of `[N, H, W, C]`."""
    return jnp.mean(x, axis=(1, 2))


def max_pool(x):
    """Maximum over squares of 2x2, `[N, H // 2, W // 2, C]` of `[N, H, W, C]`.

    By halves of the rows and then of the columns: the gradient of `nnx.max_pool` scatters, and that of slices with a
    stride pads, which takes XLA's CPU backend longer. Of equal ones one alone has the gradient.
    """
    count, channels = x.shape[0], x.shape[-1]
    height, width = x.shape[1] // 2, x.shape[2] // 2
    pairs = x[:, : 2 * height, : 2 * width].reshape(count, height, 2, 2 * width, channels)
    pairs = _larger(pairs[:, :, 0], pairs[:, :, 1]).reshape(count, height, width, 2, channels)
    return _larger(pairs[:, :, :, 0], pairs[:, :, :, 1])


def _larger(x, y):
    # The gradient of `jnp.maximum` asks which of the two the result equals: neither, where XLA computes one of them
    # again and rounds it otherwise.
    return jnp.where(x >= y, x, y)


def max_pool_over(x, size: int, stride: int, padding: int = 0, *, ceil: bool = False):
    """PyTorch's max pooling of `[N, H, W, C]` over overlapping squares.

    Args:
      x: `[N, H, W, C]`.
      size: side of the squares in pixels.
      stride: between them.
      padding: on all sides, which never wins.
      ceil: whether a last square may reach beyond the image, if it begins inside of it.

    Returns:
      `[N, H', W', C]`.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        places = (length + 2 * padding - size) // stride + 1
        if ceil and (length + 2 * padding - size) % stride and places * stride < length + padding:
            places += 1
        after = max(0, (places - 1) * stride + size - length - padding)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (padding, after)
        padded = jnp.pad(x, widths, constant_values=-jnp.inf) if padding or after else x
        ends = [start + (places - 1) * stride + 1 for start in range(size)]
        x = functools.reduce(
            _larger,
            (jax.lax.slice_in_dim(padded, start, end, stride, axis) for start, end in enumerate(ends)),
        )
    return x


def adaptive_average(x, size: int):
    """PyTorch's adaptive average pooling of `[N, H, W, C]` to `[N, size, size, C]`, of maps of any size."""
    for axis in (1, 2):
        share = jnp.asarray(_shares(x.shape[axis], size), x.dtype)
        x = jnp.moveaxis(jnp.tensordot(x, share, (axis, 0)), -1, axis)
    return x


def _shares(length: int, size: int) -> np.ndarray:
    """`[length, size]`: what each input counts in each mean."""
    found = np.zeros((length, size))
    for place in range(size):
        start, end = place * length // size, -(-(place + 1) * length // size)
        found[start:end, place] = 1 / (end - start)
    return found


def elu(x):
    """`x` where it is positive, else exp(x) - 1.

    By `exp`, of which XLA's CPU backend computes several at once, and of `expm1`, as in `nnx.elu`, one. Near zero that
    is good to a rounding of 1, not of the result.
    """
    return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0)) - 1)


def drop(dropout: nnx.Module, x, rngs: nnx.Rngs | None):
    """`dropout(x, rngs=rngs)` of `[N, ...]`, with the mask drawn in two dimensions.

    The mask is the same one; drawn in four, XLA's CPU backend compiles it for ten times as long.
    """
    return dropout(x.reshape(len(x), -1), rngs=rngs).reshape(x.shape)


def flatten_channels_first(x):
    """`[N, H, W, C]` as `[N, C * H * W]`: the order in which PyTorch's weights of the next layer are."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
