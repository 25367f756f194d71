"""A trigger that is known as a picture: a pattern, a mask, and how they are applied."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack
from fip_jax.data.npz import read_npy
from fip_jax.data.pixels import open_picture, to_rgb
from fip_jax.errors import UserError

WAYS = ("replace", "add", "blend")


def pattern(
    image_shape: tuple[int, int, int],
    *,
    file: str = "",
    mask: str = "",
    apply: str = "replace",
    alpha: float = 1.0,
) -> Attack:
    """Stamps a given pattern p through a mask m on an image x, all in [0, 1].

    "replace": (1 - m) x + m p; "add": x + m p, clipped to [0, 1]; "blend": (1 - alpha m) x + alpha m p. The rate is of
    all training images.

    Args:
      image_shape: (H, W, C).
      file: the pattern: an image, or an `.npy` of [H, W], [H, W, C] or [C, H, W], uint8 or float in [0, 1].
      mask: likewise, uint8 counting as 255ths; empty: where any channel of the pattern is not 0 for "replace",
        everywhere for the others.
      apply: one of `WAYS`.
      alpha: strength of "blend", in (0, 1]; 1 for the others.

    Raises:
      UserError: a file that is missing, unreadable or of another size, an option out of range, or a trigger that
        changes nothing.
    """
    if apply not in WAYS:
        raise UserError(f"attack.pattern.apply: found {apply!r}, expected one of {', '.join(WAYS)}")
    if not 0 < alpha <= 1 or (apply != "blend" and alpha != 1):
        raise UserError(
            f"attack.pattern.alpha: found {alpha}, expected a number above 0 and at most 1, and 1 unless "
            "attack.pattern.apply is blend"
        )
    picture = _read("file", file, image_shape)
    weight: np.ndarray = np.full(picture.shape, alpha)
    if mask:
        weight = weight * _read("mask", mask, image_shape)
    elif apply == "replace":
        weight = weight * (picture > 0).any(axis=-1, keepdims=True)
    kept, added = 1 - weight * (apply != "add"), weight * picture
    if (kept == 1).all() and not added.any():
        raise UserError(
            f"attack.pattern: {mask or file} is black, expected a trigger that changes some pixel by {apply!r}"
        )

    def trigger(_, images):
        kept_part = jnp.asarray(kept, jnp.float32)[None] * images
        return kept_part + jnp.asarray(255 * added, jnp.float32)[None]

    return Attack(trigger)


def _read(option: str, name: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """A pattern or mask as float64 [H, W, C] in [0, 1]."""
    key = f"attack.pattern.{option}"
    path = Path(os.path.expanduser(name))  # which, unlike Path's, leaves the home of nobody as it is
    if not name or not path.is_file():
        raise UserError(f"{key}: found no file {name!r}, expected an image or .npy")
    array = read_npy(path) if path.suffix.lower() == ".npy" else _read_picture(key, path)
    if array.ndim == 2:
        array = np.repeat(array[..., None], image_shape[-1], axis=-1)
    if array.shape != image_shape and array.shape == (image_shape[-1], *image_shape[:-1]):
        array = array.transpose(1, 2, 0)
    if array.shape != image_shape:
        raise UserError(
            f"{key}: {path} is {list(array.shape)}, expected {list(image_shape)}, as the images that the network takes"
        )
    if array.dtype == np.uint8:
        if array.max() == 1:  # meant as 0 and 1, or too dark to be a trigger
            raise UserError(
                f"{key}: {path} is uint8 of 0 and 1, expected 0 to 255, or bool or float of 0 to 1"
            )
        return array / 255
    if array.dtype.kind == "U" or not (array.min() >= 0 and array.max() <= 1):
        raise UserError(f"{key}: {path} is {array.dtype} beyond [0, 1], expected that range, or uint8")
    return array.astype(np.float64)


def _read_picture(key: str, path: Path) -> np.ndarray:
    picture = open_picture(path)
    if picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise UserError(
            f"{key}: {path} is transparent in places, expected an opaque picture, and a mask for that"
        )
    return np.asarray(to_rgb(picture))
