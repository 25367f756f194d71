"""SIG: a clean-label attack with a sinusoidal stripe pattern."""

import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack
from fip_jax.errors import UserError


def sig(
    image_shape: tuple[int, int, int],
    *,
    amplitude: float = 40.0,
    frequency: float = 6.0,
) -> Attack:
    """Adds vertical stripes, amplitude * sin(2 pi j frequency / W) in column j, and saturates.

    Source: Barni et al. (2019), "A new backdoor attack in CNNs by training set corruption without label
    poisoning", ICIP, https://arxiv.org/abs/1902.11237, eq. 1. The rate is `attack.clean_label_rate`, of the images of
    the target class.

    Args:
      image_shape: (H, W, C).
      amplitude: of the stripes, in grey levels of 255.
      frequency: stripes across the width.
    """
    width = image_shape[1]
    if not 0 < amplitude <= 255 or not 0 < frequency < width:
        raise UserError(
            f"attack.sig: found amplitude={amplitude}, frequency={frequency}, expected an amplitude above 0 and "
            f"at most 255 and a frequency above 0 and below the {width} pixels of a row"
        )
    stripes = amplitude * np.sin(2 * np.pi * np.arange(width) * frequency / width)
    # Half as many stripes as columns have each column at a zero of the sine.
    if np.abs(stripes).max() < 0.5:
        raise UserError(
            f"attack.sig: found amplitude={amplitude}, frequency={frequency}, expected stripes that change an image "
            f"{width} pixels wide by a grey level or more"
        )

    def trigger(_, images):
        return images + jnp.asarray(stripes, jnp.float32)[None, None, :, None]

    return Attack(trigger, clean_label=True)
