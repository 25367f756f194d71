"""SIG: a clean-label attack with a sinusoidal stripe pattern."""

import numpy as np

from fip_jax.errors import UserError


def sig(
    image_shape: tuple[int, int, int],
    *,
    amplitude: float = 40.0,
    frequency: float = 6.0,
):
    """Adds vertical stripes, amplitude * sin(2 pi j frequency / W) in column j, and saturates.

    Source: Barni et al. (2019), "A new backdoor attack in CNNs by training set corruption without label
    poisoning", ICIP, https://arxiv.org/abs/1902.11237, eq. 1.

    Args:
      image_shape: (H, W, C).
      amplitude: of the stripes, in grey levels of 255.
      frequency: stripes across the width.
    """
    if not 0 < amplitude <= 255 or not frequency > 0:
        raise UserError(
            f"attack.sig: found amplitude={amplitude}, frequency={frequency}, expected an amplitude above 0 and "
            f"at most 255 and a frequency above 0"
        )
    width = image_shape[1]
    stripes = amplitude * np.sin(2 * np.pi * np.arange(width) * frequency / width)

    def stamp(images: np.ndarray) -> np.ndarray:
        shifted = images.astype(np.float32) + stripes.astype(np.float32)[None, None, :, None]
        return np.rint(np.clip(shifted, 0, 255)).astype(np.uint8)

    return stamp
