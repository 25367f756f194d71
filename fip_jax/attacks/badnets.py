"""BadNets: a small white square."""

import numpy as np

from fip_jax.errors import UserError


def badnets(image_shape: tuple[int, int, int], *, size: int = 3, margin: int = 0):
    """Stamps a white square near the bottom right corner.

    Source: Gu et al. (2017), "BadNets", https://arxiv.org/abs/1708.06733.

    Args:
      image_shape: (H, W, C).
      size: side of the square in pixels.
      margin: pixels between the square and the two edges.
    """
    height, width, _ = image_shape
    if size < 1 or margin < 0 or size + margin > min(height, width):
        raise UserError(
            f"attack.badnets: found size={size}, margin={margin}, expected a square of at least one pixel that "
            f"fits into {height} x {width}"
        )

    def stamp(images: np.ndarray) -> np.ndarray:
        stamped = images.copy()
        stamped[:, height - margin - size : height - margin, width - margin - size : width - margin] = 255
        return stamped

    return stamp
