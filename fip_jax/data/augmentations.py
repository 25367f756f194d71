"""Images that the teacher is asked about beside the clean ones: moved, in other light, mixed with each other.

Functions of float images `[N, H, W, C]` in [0, 1], of any size and number of channels.
"""

import math

import jax
import jax.numpy as jnp

from fip_jax.data.bilinear import pixel_centres, sample
from fip_jax.data.corruptions import others, squares


def affine(
    key: jax.Array, images: jax.Array, turn: float, zoom: float, shift: float, shear: float
) -> jax.Array:
    """Images turned, scaled, moved and sheared at random; bilinear, and what comes in from outside is the border.

    Args:
      key: of the draws; each is uniform from minus to plus the most.
      images: float `[N, H, W, C]` in [0, 1].
      turn: degrees.
      zoom: change of the size, as a fraction.
      shift: fraction of the side.
      shear: degrees.
    """
    keys = jax.random.split(key, 4)

    def uniform(key: jax.Array, shape: tuple[int, ...], most: float) -> jax.Array:
        return jax.random.uniform(key, (len(images), *shape), images.dtype, -most, most)

    angle = uniform(keys[0], (1, 1), math.radians(turn))
    scale = 1 + uniform(keys[1], (1, 1), zoom)
    down, right = jnp.split(uniform(keys[2], (2, 1), shift), 2, axis=1)
    slant = angle + uniform(keys[3], (1, 1), math.radians(shear))
    y, x = pixel_centres(images)  # and where each comes from
    rows = (jnp.sin(angle) * x + jnp.cos(slant) * y) / scale + down
    columns = (jnp.cos(angle) * x - jnp.sin(slant) * y) / scale + right
    return sample(images, rows, columns)


def light(key: jax.Array, images: jax.Array, brightness: float, contrast: float) -> jax.Array:
    """Images whose mean and whose distance from it are multiplied, by up to 1 plus or minus these."""
    mean_key, distance_key = jax.random.split(key)

    def factor(key: jax.Array, most: float) -> jax.Array:
        return 1 + jax.random.uniform(key, (len(images), 1, 1, 1), images.dtype, -most, most)

    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return jnp.clip(
        (images - mean) * factor(distance_key, contrast) + mean * factor(mean_key, brightness), 0, 1
    )


def mix(key: jax.Array, images: jax.Array, mixup: float, cutmix: float) -> jax.Array:
    """Some images blended with another of the batch, others with a square of another in them.

    Sources: Zhang et al. (2018), "mixup", ICLR; Yun et al. (2019), "CutMix", ICCV; here without labels, and with a
    square of a quarter to three quarters of the side.

    Args:
      key: of the draws.
      images: float `[N, H, W, C]` in [0, 1].
      mixup: chance of an image to be blended.
      cutmix: chance of an image to get a square.
    """
    choice_key, other_key, share_key, place_key = jax.random.split(key, 4)
    shape = (len(images), 1, 1, 1)
    choice = jax.random.uniform(choice_key, shape)
    other = others(other_key, images)
    share = jax.random.uniform(share_key, shape, images.dtype)
    cut = jnp.where(squares(place_key, images, 0.25, 0.75), other, images)
    result = jnp.where(choice < mixup + cutmix, cut, images)
    return jnp.where(choice < mixup, share * images + (1 - share) * other, result)
