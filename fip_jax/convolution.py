"""The convolution as one matrix product, for where XLA's own is slow: per-example gradients on a CPU."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def for_per_example_gradients() -> Callable[..., jax.Array]:
    """The convolution to differentiate under `vmap`, with the signature of `jax.lax.conv_general_dilated`.

    There the weight gradients of XLA's convolution become grouped convolutions, which its CPU backend runs
    a hundred times slower than batched matrix products. Everywhere else XLA's own is the faster one.
    """
    return convolve_by_patches if jax.default_backend() == "cpu" else jax.lax.conv_general_dilated


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
