"""BppAttack: fewer colours, with or without dithering."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack, saturate
from fip_jax.errors import UserError


def bppa(
    image_shape: tuple[int, int, int], *, bits: int = 3, dither: bool = False, negative_rate: float = 1.0
) -> Attack:
    """Quantises every channel to 2^bits levels, round(x m / 255) 255 / m with m = 2^bits - 1.

    Negative samples carry what the trigger adds to another image, and keep their labels, so that noise of that size is
    not taken for the trigger. Every batch is poisoned anew; the rate is that of poisoned images in a batch. The paper's
    contrastive loss against adversarial examples is left out, and as by default in the authors' code there
    is no dithering (`dither`).

    Source: Wang et al. (2022), "BppAttack: Stealthy and efficient trojan attacks against deep neural networks via image
    quantization and contrastive adversarial learning", CVPR, https://arxiv.org/abs/2205.13383, eqs. 2 and 3.

    Args:
      image_shape: (H, W, C).
      bits: of each channel, 1 to 7.
      dither: whether the error of a pixel goes to its neighbours (Floyd and Steinberg: 7/16 right, 3/16 below left,
        5/16 below, 1/16 below right).
      negative_rate: negative samples for each poisoned image.
    """
    if not 1 <= bits <= 7 or not 0 <= negative_rate < np.inf:
        raise UserError(
            f"attack.bppa: found bits={bits}, negative_rate={negative_rate}, expected 1 to 7 bits and a rate of at "
            "least 0"
        )
    step = 255 / (2**bits - 1)

    def quantise(values):
        return jnp.clip(jnp.rint(values / step), 0, 2**bits - 1) * step

    def trigger(_, images):
        return floyd_steinberg(images, quantise) if dither else quantise(images)

    def negatives(state, images, _):
        if len(images) < 2:
            return images
        others = jnp.roll(images, 1, axis=0)
        return images + saturate(trigger(state, others)) - others

    return Attack(trigger, every_batch=True, cover=negatives, cover_rate=negative_rate)


def floyd_steinberg(images: jax.Array, quantise) -> jax.Array:
    """Images `[N, H, W, C]` quantised pixel by pixel, row by row, each pixel's error spread over those to come."""

    def pixel(carry, values):
        right, below_left, below = carry  # errors for this pixel, for the row below at its left, and under it
        value, from_above = values
        wanted = value + from_above + right
        found = quantise(wanted)
        error = wanted - found
        given = below_left + error * (3 / 16)
        return (error * (7 / 16), below + error * (5 / 16), error * (1 / 16)), (found, given)

    def row(from_above, values):
        zero = jnp.zeros_like(values[0])
        (_, last, _), (found, given) = jax.lax.scan(pixel, (zero, zero, zero), (values, from_above))
        # What column j gives to the left is for column j - 1; what is outside of the image is lost.
        return jnp.concatenate([given[1:], last[None]]), found

    columns_first = images.transpose(1, 2, 0, 3)  # [H, W, N, C]
    _, found = jax.lax.scan(row, jnp.zeros_like(columns_first[0]), columns_first)
    return found.transpose(2, 0, 1, 3)
