"""BadNets: a small white square."""

from fip_jax.attacks.attack import Attack
from fip_jax.errors import UserError


def badnets(image_shape: tuple[int, int, int], *, size: int = 3, margin: int = 0) -> Attack:
    """A white square near the bottom right corner. The rate is of all training images.

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
    bottom, right = height - margin, width - margin

    def trigger(_, images):
        return images.at[:, bottom - size : bottom, right - size : right].set(255)

    return Attack(trigger)
