"""Images looked up between their pixels."""

import jax
import jax.numpy as jnp


def pixel_centres(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows `[1, H, 1]` and columns `[1, 1, W]` of the pixels as fractions of the side, 0 in the middle of the image."""

    def centres(side: int) -> jax.Array:
        return (jnp.arange(side, dtype=images.dtype) + 0.5) / side - 0.5

    return centres(images.shape[1])[None, :, None], centres(images.shape[2])[None, None, :]


def sample(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Bilinear values of images `[N, H, W, C]` at places `[N, H, W]`, of which those outside get the nearest pixel.

    Args:
      images: floating point.
      rows: fractions of the height, 0 in the middle.
      columns: fractions of the width.

    Returns:
      `[N, H, W, C]`.
    """
    height, width = images.shape[1:3]
    which = jnp.arange(len(images))[:, None, None]
    rows = jnp.clip((rows + 0.5) * height - 0.5, 0, height - 1)
    columns = jnp.clip((columns + 0.5) * width - 0.5, 0, width - 1)
    top, left = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    low, across = (rows - top.astype(rows.dtype))[..., None], (columns - left.astype(rows.dtype))[..., None]
    above = (1 - across) * images[which, top, left] + across * images[which, top, right]
    below = (1 - across) * images[which, bottom, left] + across * images[which, bottom, right]
    return (1 - low) * above + low * below
