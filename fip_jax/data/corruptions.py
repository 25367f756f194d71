"""What triggers are made of, drawn at random and laid over clean images; a purified network has to overlook it.

Nothing here knows the attack of a run. A kind is a function `(key, images, **options) -> images` of float images
`[N, H, W, C]` in [0, 1], of any size and number of channels, with sizes as fractions of the side; a new one is such a
function, a line in `KINDS`, and its rate and options in `defense.corruption`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fip_jax.data.bilinear import pixel_centres, sample

FAINTEST = 0.6  # opacity of a known trigger, at least


def corrupt(key: jax.Array, images: jax.Array, kinds: Mapping[str, Mapping[str, Any]]) -> jax.Array:
    """Images of which each has one kind of corruption, or none.

    Args:
      key: of all draws.
      images: float `[N, H, W, C]` in [0, 1].
      kinds: for each of `KINDS`, or some, its `rate`, the chance of an image to get it, and its options. The rates
        sum to at most 1; what is left stays as it is.

    Returns:
      `[N, H, W, C]` in [0, 1].
    """
    choice = jax.random.uniform(key, (len(images), 1, 1, 1))
    result, below = images, 0.0
    for index, (name, kind) in enumerate(KINDS.items(), 1):
        options = dict(kinds.get(name, {"rate": 0.0}))
        rate = options.pop("rate")
        if rate:
            corrupted = kind(jax.random.fold_in(key, index), images, **options)
            result = jnp.where((below <= choice) & (choice < below + rate), corrupted, result)
        below += rate
    return result


def patch(
    key: jax.Array, images: jax.Array, smallest: float, largest: float, contents: Sequence[str]
) -> jax.Array:
    """A square of random content on each image, its centre anywhere.

    Sources: DeVries and Taylor (2017), "Cutout", https://arxiv.org/abs/1708.04552, for the place; Zhong et al. (2020),
    "Random erasing data augmentation", AAAI, for the colour.

    Args:
      key: of the draws.
      images: float `[N, H, W, C]` in [0, 1].
      smallest: side of the smallest square over the image's height.
      largest: side of the largest.
      contents: of `CONTENTS`, each as likely as the others.
    """
    place_key, kind_key, content_key = jax.random.split(key, 3)
    kind = jax.random.randint(kind_key, (len(images), 1, 1, 1), 0, len(contents))
    filled = images
    for index, name in enumerate(contents):
        content = CONTENTS[name](jax.random.fold_in(content_key, index), images)
        filled = jnp.where(kind == index, content, filled)
    return jnp.where(squares(place_key, images, smallest, largest), filled, images)


def squares(key: jax.Array, images: jax.Array, smallest: float, largest: float) -> jax.Array:
    """Masks `[N, H, W, 1]`, bool, of a square in each image: its side a whole number of pixels, its centre anywhere."""
    count, height, width, _ = images.shape
    size_key, row_key, column_key = jax.random.split(key, 3)
    low, high = (max(1, round(side * height)) for side in (smallest, largest))
    size = jax.random.randint(size_key, (count, 1), low, high + 1)

    def near(key: jax.Array, side: int) -> jax.Array:
        centre = jax.random.randint(key, (count, 1), 0, side)
        return (jnp.arange(side)[None] - centre + size // 2) // size == 0

    return near(row_key, height)[:, :, None, None] & near(column_key, width)[:, None, :, None]


def wave(key: jax.Array, images: jax.Array, amplitude: float, frequency: float) -> jax.Array:
    """A plane wave added to each image, of any direction and phase, the same in all channels.

    Args:
      key: of the draws.
      images: float `[N, H, W, C]` in [0, 1].
      amplitude: largest; uniform from 0.
      frequency: most cycles over the image's side; uniform from 1.
    """
    count, height, width, _ = images.shape
    keys = jax.random.split(key, 4)

    def uniform(key: jax.Array, low: float, high: float) -> jax.Array:
        return jax.random.uniform(key, (count, 1, 1, 1), images.dtype, low, high)

    cycles, angle = uniform(keys[0], 1.0, frequency), uniform(keys[1], 0.0, 2 * math.pi)
    phase, strength = uniform(keys[2], 0.0, 2 * math.pi), uniform(keys[3], 0.0, amplitude)
    rows = (jnp.arange(height, dtype=images.dtype) / height)[None, :, None, None]
    columns = (jnp.arange(width, dtype=images.dtype) / width)[None, None, :, None]
    along = jnp.cos(angle) * columns + jnp.sin(angle) * rows
    return jnp.clip(images + strength * jnp.sin(2 * math.pi * cycles * along + phase), 0, 1)


def overlay(key: jax.Array, images: jax.Array, opacity: float) -> jax.Array:
    """Another image of the batch or noise blended into each.

    Args:
      key: of the draws.
      images: float `[N, H, W, C]` in [0, 1].
      opacity: largest share of what is laid over; uniform from 0.
    """
    share_key, kind_key, noise_key, other_key = jax.random.split(key, 4)
    shape = (len(images), 1, 1, 1)
    share = jax.random.uniform(share_key, shape, images.dtype, 0.0, opacity)
    is_noise = jax.random.bernoulli(kind_key, 0.5, shape)
    other = jnp.where(is_noise, _noise(noise_key, images), others(other_key, images))
    return (1 - share) * images + share * other


def warp(key: jax.Array, images: jax.Array, strength: float, points: int) -> jax.Array:
    """Images drawn out of shape by a smooth flow.

    Args:
      key: of the draws.
      images: float `[N, H, W, C]` in [0, 1].
      strength: most that a control point is moved each way, as a fraction of the side.
      points: control points along a side; between them the flow is cubic.
    """
    count, height, width, _ = images.shape
    moves = jax.random.uniform(key, (count, points, points, 2), images.dtype, -strength, strength)
    flow = jax.image.resize(moves, (count, height, width, 2), "cubic")
    rows, columns = pixel_centres(images)
    return sample(images, rows + flow[..., 0], columns + flow[..., 1])


def posterize(key: jax.Array, images: jax.Array, fewest: int, most: int) -> jax.Array:
    """Images rounded to a few levels in each channel.

    Args:
      key: of the draws.
      images: float `[N, H, W, C]` in [0, 1].
      fewest: levels, at least 2; of each image a number from this to `most`.
      most: levels.
    """
    levels = jax.random.randint(key, (len(images), 1, 1, 1), fewest, most + 1)
    steps = (levels - 1).astype(images.dtype)
    return jnp.round(images * steps) / steps


def stamped(key: jax.Array, images: jax.Array, mask: jax.Array, pattern: jax.Array) -> jax.Array:
    """A known trigger on each image, more or less opaque.

    Args:
      key: of the draws.
      images: float `[N, H, W, C]` in [0, 1].
      mask: float `[K, H, W, 1]` in [0, 1]; each image gets one of the K.
      pattern: float `[K, H, W, C]` in [0, 1].
    """
    which_key, opacity_key = jax.random.split(key)
    which = jax.random.randint(which_key, (len(images),), 0, len(mask))
    opacity = jax.random.uniform(opacity_key, (len(images), 1, 1, 1), images.dtype, FAINTEST, 1.0)
    return images + opacity * mask[which] * (pattern[which] - images)


def others(key: jax.Array, images: jax.Array) -> jax.Array:
    """The images in another order."""
    return images[jax.random.permutation(key, len(images))]


def _colour(key: jax.Array, images: jax.Array) -> jax.Array:
    return jax.random.uniform(key, (len(images), 1, 1, images.shape[-1]), images.dtype)


def _noise(key: jax.Array, images: jax.Array) -> jax.Array:
    return jax.random.uniform(key, images.shape, images.dtype)


def _binary(key: jax.Array, images: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.5, (*images.shape[:3], 1)).astype(images.dtype)


Content = Callable[[jax.Array, jax.Array], jax.Array]  # (key, images) -> what broadcasts to images
# Of a patch: one colour, noise in every pixel and channel, black and white pixels, a piece of another image.
CONTENTS: dict[str, Content] = {"colour": _colour, "noise": _noise, "binary": _binary, "image": others}
KINDS: dict[str, Callable[..., jax.Array]] = {
    "patch": patch,
    "wave": wave,
    "overlay": overlay,
    "warp": warp,
    "posterize": posterize,
}
