"""The convolution as XLA's CPU backend likes it: where its own derivatives are slow, others of the same value.

On other platforms XLA's own is the faster one everywhere.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def for_per_example_gradients() -> Callable[..., jax.Array]:
    """The convolution to differentiate under `vmap`, with the signature of `jax.lax.conv_general_dilated`.

    There the weight gradients of XLA's convolution become grouped convolutions, which its CPU backend runs
    a hundred times slower than batched matrix products.
    """
    return convolve_by_patches if jax.default_backend() == "cpu" else jax.lax.conv_general_dilated


def for_batches() -> Callable[..., jax.Array]:
    """The convolution for gradients, of any order, of sums over a batch; signature as above.

    Not for `jax.jvp`, and slow under `vmap` with respect to the weights.
    """
    return convolve_in_three_ways if jax.default_backend() == "cpu" else jax.lax.conv_general_dilated


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
        return jax.linear_transpose(functools.partial(convolve, x), kernel)(g)[0]

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
    grouped = options.get("feature_group_count", 1) != 1
    dilated = any(d != 1 for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or ())
    if grouped or dilated:
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
    height, width, channels, features = kernel.shape
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:3], (height, width), strides, padding)
    (top, bottom), (left, right) = padding
    padded = jnp.pad(inputs, ((0, 0), (top, bottom), (left, right), (0, 0)))
    last_row = max(0, padded.shape[1] - height + 1)
    last_column = max(0, padded.shape[2] - width + 1)
    shifted = [
        padded[:, y : y + last_row : strides[0], x : x + last_column : strides[1]]
        for y in range(height)
        for x in range(width)
    ]
    patches = jnp.concatenate(shifted, axis=-1)
    return patches @ kernel.reshape(height * width * channels, features)
