"""Where a pattern goes on an image: resized, and padded with what changes nothing."""

import re

import numpy as np
from PIL import Image

from fip_jax.errors import UserError

_CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right", "center")


def placed(
    pattern: np.ndarray, image_shape: tuple[int, int, int], at: str, size: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """A pattern on a black image, and where it is.

    Args:
      pattern: float64 `[h, w, C]` in [0, 1].
      image_shape: (H, W, C).
      at: one of the corners, "center", or row and column of the first pixel; empty: as large as the image.
      size: of the longer side in pixels; 0: as it is.
      name: of the file, for messages.

    Returns:
      (pattern float64 `[H, W, C]`, 1 where it is and 0 elsewhere `[H, W, 1]`).

    Raises:
      UserError: a size or place that is none, or a pattern that does not fit.
    """
    if type(size) is not int or not 0 <= size <= max(image_shape[:2]):
        raise UserError(
            f"attack.pattern.size: found {size!r}, expected pixels from 1 to the {max(image_shape[:2])} of the image, "
            "or 0 for the pattern as it is"
        )
    pattern = _resized(pattern, size) if size else pattern
    height, width = pattern.shape[:2]
    if not at:
        if pattern.shape != image_shape:
            raise UserError(
                f"attack.pattern: {name} is {list(pattern.shape)}, expected {list(image_shape)}, as the images that "
                "the network takes; attack.pattern.at places a smaller one, and attack.pattern.size = "
                f"{max(image_shape[:2])} resizes it"
            )
        return pattern, np.ones((*image_shape[:2], 1))
    row, column = _corner(at, image_shape[0] - height, image_shape[1] - width)
    if not (0 <= row <= image_shape[0] - height and 0 <= column <= image_shape[1] - width):
        raise UserError(
            f"attack.pattern.at: {name} of {height} x {width} pixels at {at} leaves the image of {image_shape[0]} x "
            f"{image_shape[1]}, expected a place inside, or attack.pattern.size for a smaller one"
        )
    whole, inside = np.zeros(image_shape), np.zeros((*image_shape[:2], 1))
    whole[row : row + height, column : column + width] = pattern
    inside[row : row + height, column : column + width] = 1
    return whole, inside


def _corner(at: str, rows: int, columns: int) -> tuple[int, int]:
    """Row and column of the first pixel, of which there are so many more than the pattern has."""
    if at in _CORNERS:
        if at == "center":
            return rows // 2, columns // 2
        vertical, horizontal = at.split("_")
        return rows * (vertical == "bottom"), columns * (horizontal == "right")
    found = re.fullmatch(r"\s*(\d{1,4})\s*,\s*(\d{1,4})\s*", at)
    if not found:
        raise UserError(
            f"attack.pattern.at: found {at!r}, expected one of {', '.join(_CORNERS)}, or row and column such as 27,27"
        )
    return int(found[1]), int(found[2])


def _resized(pattern: np.ndarray, size: int) -> np.ndarray:
    """With a longer side of `size` pixels, by bilinear interpolation."""
    height, width = pattern.shape[:2]
    longer = max(height, width)
    new = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    if new == (width, height):
        return pattern
    channels = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize(new, Image.Resampling.BILINEAR))
        for channel in pattern.transpose(2, 0, 1)
    ]
    return np.clip(np.stack(channels, axis=-1).astype(np.float64), 0, 1)
