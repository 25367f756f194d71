"""Pictures of any size and kind as square RGB arrays of one size."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from fip_jax import plain
from fip_jax.errors import UserError

CROPS = ("auto", "whole", "center")
# What Pillow may read a user's image as; its other formats include interpreters of page descriptions.
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "WEBP", "TIFF")
_MAX_PIXELS = 1 << 26
_MAX_FILE = 1 << 28  # bytes: 67 million pixels without compression
_MAX_GROWTH = 16  # of a side


def to_square(picture: Image.Image, size: int, crop: str) -> np.ndarray:
    """uint8 `[size, size, 3]`: an image cropped, converted to RGB and resized (bilinear) where it is not so already.

    Args:
      picture: of 8 bits a channel, any mode and size.
      size: pixels.
      crop: "center" takes the largest centred square; otherwise the whole image is squeezed into the square.
    """
    picture = to_rgb(picture)
    if crop == "center":
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """An image without its transparency: what lies under it is shown, as in torchvision."""
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # straight to RGB, Pillow warns of transparent colours
    return picture.convert("RGB")


def check_growth(where: str, width: int, height: int, size: int) -> None:
    """Refuses images that would be enlarged beyond all sense, and beyond the memory.

    Raises:
      UserError: a side is less than a sixteenth of what it shall be.
    """
    if min(width, height) * _MAX_GROWTH < size:
        raise UserError(
            f"{where}: found images of {width} x {height} pixels, expected at least {-(-size // _MAX_GROWTH)}, a "
            f"sixteenth of dataset.image_size = {size}"
        )


def to_bytes(where: str, images: np.ndarray) -> np.ndarray:
    """uint8 images of uint8 ones, or of float ones in [0, 1], which are rounded to the nearest 255th.

    Raises:
      UserError: of another type or range.
    """
    if images.dtype.kind == "f" and images.size and images.min() >= 0 and images.max() <= 1:
        return np.rint(images * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        found = (
            f" from {images.min():g} to {images.max():g}" if images.dtype.kind == "f" and images.size else ""
        )
        raise UserError(
            f"{where} is {images.dtype} {list(images.shape)}{found}, expected uint8, or float in [0, 1]"
        )
    return images


def open_picture(path: Path) -> Image.Image:
    """An image file, read whole; of several frames, the first.

    Raises:
      UserError: not an image of a usual format, damaged, of more than 67 million pixels, or not of 8 bits a channel.
    """
    try:
        plain.check_file(path, _MAX_FILE)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > _MAX_PIXELS:  # before anything is decoded
                    raise ValueError(f"{picture.width} x {picture.height} pixels")
                if picture.mode[0] in "IF":  # Pillow cuts these off at 255
                    raise ValueError(f"mode {picture.mode}, not 8 bits a channel")
                picture.load()
                return picture
    except Exception as error:  # Pillow raises many types over damaged files
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: expected an image ({', '.join(FORMATS)}), found something else ({reason})"
        ) from error
