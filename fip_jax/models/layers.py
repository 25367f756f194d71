"""Layers as PyTorch has them, for networks whose attributes are named as there.

The path of every layer in a module is its path in PyTorch's state dict, so that names need no table: `interop/
state_dict.py` translates paths and layouts by rule. An `nnx.Dict` with the indices as keys stands for a Sequential.
"""

import jax.numpy as jnp
from flax import nnx


def conv(a: int, b: int, size: int, stride: int = 1, *, bias: bool = False, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution from `a` to `b` channels with PyTorch's symmetric padding of size // 2."""
    return nnx.Conv(a, b, (size, size), strides=stride, padding=size // 2, use_bias=bias, rngs=rngs)


def norm(features: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """BatchNorm with PyTorch's defaults: its momentum 0.1 is Flax's 0.9."""
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


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


def elu(x):
    """`x` where it is positive, else exp(x) - 1.

    By `exp`, of which XLA's CPU backend computes several at once, and of `expm1`, as in `nnx.elu`, one. Near zero that
    is good to a rounding of 1, not of the result.
    """
    # Where x is zero, as in a black border, the gradient is one; that of `jnp.minimum(x, 0)` would be half of it.
    return jnp.where(x > 0, x, jnp.exp(jnp.where(x > 0, 0, x)) - 1)


def drop(dropout: nnx.Module, x, rngs: nnx.Rngs | None):
    """`dropout(x, rngs=rngs)` of `[N, ...]`, with the mask drawn in two dimensions.

    The mask is the same one; drawn in four, XLA's CPU backend compiles it for ten times as long.
    """
    return dropout(x.reshape(len(x), -1), rngs=rngs).reshape(x.shape)


def flatten_channels_first(x):
    """`[N, H, W, C]` as `[N, C * H * W]`: the order in which PyTorch's weights of the next layer are."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
