"""The convolution as XLA's CPU backend likes it: where its own derivatives are slow, others of the same value.

On other platforms XLA's own is the faster one everywhere.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def for_per_example_gradients(platform: str) -> Callable[..., jax.Array]:
    """The convolution to differentiate under `vmap`, with the signature of `jax.lax.conv_general_dilated`.

    There the weight gradients of XLA's convolution become grouped convolutions, which its CPU backend runs
    a hundred times slower than batched matrix products.

    Args:
      platform: that the program is compiled for, "cpu" or another (see `parallel.platform_of`).
    """
    return convolve_by_patches if platform == "cpu" else jax.lax.conv_general_dilated


def for_batches(platform: str) -> Callable[..., jax.Array]:
    """The convolution for gradients, of any order, of sums over a batch; signature and `platform` as above.

    Not for `jax.jvp`, and slow under `vmap` with respect to the weights.
    """
    return convolve_in_three_ways if platform == "cpu" else jax.lax.conv_general_dilated


def convolve_in_three_ways(inputs, kernel, strides, padding, **options) -> jax.Array:
    """`jax.lax.conv_general_dilated` whose derivatives of every order are three kernels alone.

    A convolution, its transpose towards the inputs and its transpose towards the kernel are bilinear, and the
    derivatives of each are the other two. Differentiated twice by the general rule, XLA meets convolutions in layouts
    that its CPU backend has no fast kernel for: the gradient of the estimated Tr F takes three times as long.

    Args:
      inputs: `[N, H, W, C]`.
      kernel: `[h, w, C, O]`.
      strides: as there.
      padding: as there.
      **options: as there.

    Returns:
      `[N, H', W', O]`.
    """

    def convolve(inputs, kernel):
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)

    @jax.custom_vjp
    def forward(x, k):
        return convolve(x, k)

    @jax.custom_vjp
    def to_inputs(g, k):
        return jax.linear_transpose(lambda x: convolve(x, k), inputs)(g)[0]

    @jax.custom_vjp
    def to_kernel(x, g):
        if _is_special(options):
            return jax.linear_transpose(functools.partial(convolve, x), kernel)(g)[0]
        return _towards_kernel(x, g, kernel.shape, strides, padding)

    forward.defvjp(
        lambda x, k: (convolve(x, k), (x, k)), lambda r, c: (to_inputs(c, r[1]), to_kernel(r[0], c))
    )
    to_inputs.defvjp(
        lambda g, k: (to_inputs(g, k), (g, k)), lambda r, c: (forward(c, r[1]), to_kernel(c, r[0]))
    )
    to_kernel.defvjp(
        lambda x, g: (to_kernel(x, g), (x, g)), lambda r, c: (to_inputs(r[1], c), forward(r[0], c))
    )
    return forward(inputs, kernel)


def convolve_by_patches(inputs, kernel, strides, padding, **options) -> jax.Array:
    """Convolution of `[N, H, W, C]` with `[h, w, C, O]` as one matrix product of its patches.

    Args:
      inputs: `[N, H, W, C]`.
      kernel: `[h, w, C, O]`.
      strides: (rows, columns).
      padding: ((top, bottom), (left, right)) or "SAME" / "VALID".
      **options: as of `jax.lax.conv_general_dilated`, to which grouped and dilated convolutions are handed on.
        Otherwise they are what Flax passes: the layout above, default precision.

    Returns:
      `[N, H', W', O]`.
    """
    if _is_special(options):
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
    height, width, channels, features = kernel.shape
    patches = _patches(_padded(inputs, kernel.shape, strides, padding), kernel.shape, strides)
    return patches @ kernel.reshape(height * width * channels, features)


ROWS_AT_ONCE = 2048  # of patches: these and their products stay in the cache of a core


def _towards_kernel(inputs, cotangent, shape, strides, padding) -> jax.Array:
    """Transpose of the convolution towards its kernel: products of patches, a few images at a time.

    XLA's own is a convolution with a kernel as large as the image, whose patches for all images at once lie in memory
    far from the core: on one core it takes three times as long.
    """
    features = shape[-1]
    rows = cotangent.shape[1] * cotangent.shape[2]
    count = max(
        c for c in range(1, len(inputs) + 1) if len(inputs) % c == 0 and c * rows <= max(rows, ROWS_AT_ONCE)
    )
    padded = _padded(inputs, shape, strides, padding)

    def add(total, part):
        x, g = part
        patches = _patches(x, shape, strides)
        return total + g.reshape(-1, features).T @ patches.reshape(-1, patches.shape[-1]), None

    parts = jax.tree.map(lambda a: a.reshape(-1, count, *a.shape[1:]), (padded, cotangent))
    zero = jnp.zeros((features, math.prod(shape[:-1])), inputs.dtype)
    total, _ = jax.lax.scan(add, zero, parts)
    return total.T.reshape(shape)


def _is_special(options) -> bool:
    """Whether a convolution is grouped or dilated, which nothing here is written for."""
    grouped = options.get("feature_group_count", 1) != 1
    return grouped or any(
        d != 1 for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or ()
    )


def _padded(inputs, shape, strides, padding) -> jax.Array:
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:3], shape[:2], strides, padding)
    return jnp.pad(inputs, ((0, 0), *padding, (0, 0)))


def _patches(padded, shape, strides) -> jax.Array:
    """`[N, H', W', h * w * C]`: what each place of the result sees."""
    height, width = shape[:2]
    last_row = max(0, padded.shape[1] - height + 1)
    last_column = max(0, padded.shape[2] - width + 1)
    shifted = [
        padded[:, y : y + last_row : strides[0], x : x + last_column : strides[1]]
        for y in range(height)
        for x in range(width)
    ]
    return jnp.concatenate(shifted, axis=-1)
