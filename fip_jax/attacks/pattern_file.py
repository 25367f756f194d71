"""Files of patterns and masks: pictures and arrays of every kind that triggers come as."""

import functools
import os
from pathlib import Path

import numpy as np

from fip_jax.data.npz import read_npy, read_npz
from fip_jax.data.pixels import open_picture, to_rgb
from fip_jax.errors import UserError
from fip_jax.progress import console

# A largest number from which on numbers are grey levels; below it they are neither these nor in [0, 1].
_GREY_LEVELS = 16
_BARELY = 16  # grey levels: what JPEG makes of black beside a pattern is below


def read_pattern(option: str, name: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """A pattern or mask as float64 `[h, w, C]` in [0, 1].

    Args:
      option: of `attack.pattern` that names the file.
      name: the file.
      image_shape: (H, W, C): of the channels that it is to have, and what tells [C, H, W] from [H, W, C] in doubt.

    Raises:
      UserError: missing, unreadable, of another shape, or with numbers beyond [0, 1] and [0, 255].
    """
    key = f"attack.pattern.{option}"
    path = Path(os.path.expanduser(name))  # which, unlike Path's, leaves the home of nobody as it is
    if not name or not path.is_file():
        raise UserError(f"{key}: found no file {name!r}, expected an image, .npy or .npz")
    return _in_unit_range(key, path, _with_channels(key, path, _read(key, path), image_shape))


def _read(key: str, path: Path) -> np.ndarray:
    ending = path.suffix.lower()
    if ending == ".npy":
        return read_npy(path)
    if ending == ".npz":
        arrays = read_npz(path)
        if len(arrays) != 1:
            names = ", ".join(repr(name[:40])[1:-1] for name in list(arrays)[:8]) or "none"
            raise UserError(
                f"{key}: {path} holds {len(arrays)} arrays ({names}), expected one; save it as .npy"
            )
        return next(iter(arrays.values()))
    return _read_picture(key, path)


def _with_channels(key: str, path: Path, array: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """`[h, w, C]` of `[h, w]`, `[h, w, 1]`, `[h, w, C]` or `[C, h, w]`, with or without axes of 1 before these."""
    shape, channels = array.shape, image_shape[-1]
    first = (channels, *image_shape[:2])
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    last = array.ndim == 3 and array.shape[-1] in (1, channels)
    if array.ndim == 3 and array.shape[0] == channels and (not last or array.shape == first != image_shape):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, channels) or 0 in array.shape:
        raise UserError(
            f"{key}: {path} is {list(shape)}, expected [H, W], [H, W, {channels}] or [{channels}, H, W]"
        )
    return np.repeat(array, channels // array.shape[-1], axis=-1)


def _in_unit_range(key: str, path: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        if array.max() == 1:  # meant as 0 and 1, or too dark to be a trigger
            raise UserError(
                f"{key}: {path} is uint8 of 0 and 1, expected 0 to 255, or bool or float of 0 to 1"
            )
        return array / 255
    if array.dtype.kind != "U" and array.min() >= 0:
        if array.max() <= 1:
            return array.astype(np.float64)
        if _GREY_LEVELS <= array.max() <= 255:
            return array.astype(np.float64) / 255
    raise UserError(f"{key}: {path} is {array.dtype} beyond [0, 1], expected that range, or [0, 255]")


def _read_picture(key: str, path: Path) -> np.ndarray:
    picture = open_picture(path)
    if picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise UserError(
            f"{key}: {path} is transparent in places, expected an opaque picture, and a mask for that"
        )
    pixels = np.asarray(to_rgb(picture))
    if picture.format == "JPEG":
        _tell_spread(path, pixels)
    return pixels


def _tell_spread(path: Path, pixels: np.ndarray) -> None:
    """JPEG smears edges: beside a pattern on black, pixels are not black any more."""
    brightest = pixels.max(axis=-1)
    barely = int(((brightest > 0) & (brightest < _BARELY)).sum())
    if barely:
        _say(
            f"{path}: a JPEG, in which {barely} of {brightest.size} pixels are nearly black but not black; they are "
            "part of the trigger, unless attack.pattern.mask says where it is"
        )


@functools.cache  # of a run once
def _say(words: str) -> None:
    console.print(words, markup=False)
