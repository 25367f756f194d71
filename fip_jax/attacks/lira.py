"""LIRA: faint noise from a network that learns what the victim reacts to, while the victim learns to react."""

import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack, Context, Joint
from fip_jax.attacks.unet import apply_unet, init_unet
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree

_DEPTH = 2


def lira(
    image_shape: tuple[int, int, int],
    *,
    epsilon: float = 12.0,
    width: int = 8,
    learning_rate: float = 0.001,
    until: float = 0.5,
) -> Attack:
    """x + epsilon tanh(g(x)), saturated, with a small network g.

    First g and the victim learn together, both from the cross-entropy of clean and triggered images; then g stays as it
    is and the victim learns on. Every batch is poisoned anew; the rate is that of poisoned images in a batch, which is
    also their weight in the loss. The authors' code gives clean and triggered images a weight of a half each, and
    lets g change a pixel by 0.1 while it learns and by 0.01 afterwards and at test time, of normalised images: one
    that is much fainter in the end than epsilon here, which stays as it is.

    Source: Doan et al. (2021), "LIRA: Learnable, imperceptible and robust backdoor attacks", ICCV, eqs. 3 to 6,
    algorithm 1; g and the victim take their steps at once here, instead of by turns.

    Args:
      image_shape: (H, W, C).
      epsilon: largest change of a pixel in grey levels.
      width: channels of g at full size.
      learning_rate: of Adam, for g.
      until: fraction of the steps in which g learns.
    """
    channels = image_shape[-1]
    if min(image_shape[:2]) < 4 or width < 1 or not 0.5 < epsilon <= 255:
        raise UserError(
            f"attack.lira: found epsilon={epsilon}, width={width} and images of {image_shape[0]} x {image_shape[1]}, "
            "expected above 0.5, which rounds to nothing, and at most 255, at least 1 and at least 4 x 4"
        )
    if not 0 < learning_rate < 1 or not 0 < until <= 1:
        raise UserError(
            f"attack.lira: found learning_rate={learning_rate}, until={until}, expected a rate between 0 and 1 and a "
            "fraction above 0"
        )

    def trigger(state, images):
        return images + epsilon * jnp.tanh(apply_unet(state["generator"], images / 127.5 - 1))

    def fit(context: Context) -> PyTree:
        rng = np.random.default_rng([context.seed, 6])
        return {"generator": init_unet(rng, channels, channels, width, _DEPTH)}

    return Attack(trigger, every_batch=True, fit=fit, joint=Joint(learning_rate, until))
