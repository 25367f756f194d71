"""A trigger that is known as a picture: a pattern, a mask, and how they are applied."""

from pathlib import Path

import numpy as np

from fip_jax.data.npz import read_npy
from fip_jax.data.pixels import open_picture
from fip_jax.errors import UserError

WAYS = ("replace", "add", "blend")


def pattern(
    image_shape: tuple[int, int, int],
    *,
    file: str = "",
    mask: str = "",
    apply: str = "replace",
    alpha: float = 1.0,
):
    """Stamps a given pattern p through a mask m on an image x, all in [0, 1].

    "replace": (1 - m) x + m p; "add": x + m p, clipped to [0, 1]; "blend": (1 - alpha m) x + alpha m p.

    Args:
      image_shape: (H, W, C).
      file: the pattern: an image, or an `.npy` of [H, W], [H, W, C] or [C, H, W], uint8 or float in [0, 1].
      mask: likewise, uint8 counting as 255ths; empty: where any channel of the pattern is not 0 for "replace",
        everywhere for the others.
      apply: one of `WAYS`.
      alpha: strength of "blend", in (0, 1]; 1 for the others.

    Raises:
      UserError: a file that is missing, unreadable or of another size, or an option out of range.
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

    def stamp(images: np.ndarray) -> np.ndarray:
        kept = images.astype(np.float64) / 255
        if apply != "add":
            kept = kept * (1 - weight)
        return np.rint(255 * np.clip(kept + weight * picture, 0, 1)).astype(np.uint8)

    return stamp


def _read(option: str, name: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """A pattern or mask as float64 [H, W, C] in [0, 1]."""
    path = Path(name).expanduser()
    if not name or not path.is_file():
        raise UserError(f"attack.pattern.{option}: found no file {name!r}, expected an image or .npy")
    array = read_npy(path) if path.suffix == ".npy" else np.asarray(open_picture(path).convert("RGB"))
    if array.ndim == 2:
        array = np.repeat(array[..., None], image_shape[-1], axis=-1)
    if array.shape != image_shape and array.shape == (image_shape[-1], *image_shape[:-1]):
        array = array.transpose(1, 2, 0)
    if array.shape != image_shape:
        raise UserError(
            f"attack.pattern.{option}: {path} is {list(array.shape)}, expected {list(image_shape)}, as the images "
            "that the network takes"
        )
    scaled = array / 255 if array.dtype == np.uint8 else array.astype(np.float64)
    if not np.isfinite(scaled).all() or scaled.min() < 0 or scaled.max() > 1:
        raise UserError(f"attack.pattern.{option}: {path} goes beyond [0, 1], expected that range, or uint8")
    return scaled
