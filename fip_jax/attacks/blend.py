"""Blend: a faint pattern over the whole image."""

import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack
from fip_jax.errors import UserError


def blend(image_shape: tuple[int, int, int], *, alpha: float = 0.2, pattern_seed: int = 0) -> Attack:
    """Blends a fixed pattern of uniform noise into the image: (1 - alpha) x + alpha pattern.

    The rate is of all training images.

    Source: Chen et al. (2017), "Targeted backdoor attacks on deep learning systems using data poisoning",
    https://arxiv.org/abs/1712.05526, whose random-pattern variant this is.

    Args:
      image_shape: (H, W, C).
      alpha: strength, in (0, 1].
      pattern_seed: of the pattern, apart from the run's seed, so that a trigger outlives the run.
    """
    if not 0 < alpha <= 1:
        raise UserError(f"attack.blend.alpha: found {alpha}, expected a number above 0 and at most 1")
    if pattern_seed < 0:
        raise UserError(f"attack.blend.pattern_seed: found {pattern_seed}, expected at least 0")
    pattern = np.random.default_rng(pattern_seed).integers(0, 256, image_shape).astype(np.float32)

    def trigger(_, images):
        return (1 - alpha) * images + alpha * jnp.asarray(pattern)[None]

    return Attack(trigger)
