"""Input-aware dynamic attack: every image gets a trigger of its own, in a place of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack, Context, Joint
from fip_jax.attacks.unet import apply_unet, init_unet
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree

_DEPTH = 2


def dynamic(
    image_shape: tuple[int, int, int],
    *,
    width: int = 8,
    density: float = 0.032,
    mask_steps: int = 200,
    learning_rate: float = 0.003,
    cross_rate: float = 1.0,
) -> Attack:
    """x + M(x) (G(x) - x), with a pattern G(x) in 0..255 and a mask M(x) in 0..1 from two small networks.

    The mask's network is trained first, on 100 mean(relu(M - density)) + D(M), and then left alone; the pattern's along
    with the victim, on the victim's loss + D(G). D(T) = mean |x1 - x2| / |T(x1) - T(x2)| asks for other triggers on
    other images. Cross images x1 + M(x2) (G(x2) - x1) keep their labels, so that a trigger counts on its own image
    alone. Dynamic all-to-one and all-to-all are `attack.mode`. Every batch is poisoned anew; the rate is that of
    poisoned images in a batch.

    Source: Nguyen and Tran (2020), "Input-aware dynamic backdoor attack", NeurIPS, https://arxiv.org/abs/2010.08138,
    eqs. 4 to 9.

    Args:
      image_shape: (H, W, C).
      width: channels of the two networks at full size.
      density: what a pixel of the mask may be without costing anything; the authors' value.
      mask_steps: of the mask's training, batches of 64.
      learning_rate: of Adam, for both networks.
      cross_rate: cross images for each poisoned one.
    """
    channels = image_shape[-1]
    _check(image_shape, width, density, mask_steps, learning_rate, cross_rate)

    def put(state, images, sources):
        strength = mask_of(jax.lax.stop_gradient(state["mask"]), sources)
        return images + strength * (255 * pattern_of(state["generator"], sources) - images)

    def cross(state, images, _):
        if len(images) < 2:  # there is no other's trigger
            return images
        return put(state, images, jnp.roll(images, 1, axis=0))

    def fit(context: Context) -> PyTree:
        rng = np.random.default_rng([context.seed, 6])
        mask = init_unet(rng, channels, 1, width, _DEPTH)

        def loss_fn(params, images, *_):
            found = mask_of(params, images)
            return 100 * jax.nn.relu(found - density).mean() + sameness(images / 255, found)

        mask = context.minimise("mask", loss_fn, mask, mask_steps, learning_rate)
        return {"generator": init_unet(rng, channels, channels, width, _DEPTH), "mask": mask}

    def penalty(state, images, _):
        return sameness(images / 255, pattern_of(state["generator"], images))

    return Attack(
        lambda state, images: put(state, images, images),
        every_batch=True,
        cover=cross,
        cover_rate=cross_rate,
        fit=fit,
        joint=Joint(learning_rate, penalty=penalty),
    )


def pattern_of(params: PyTree, images: jax.Array) -> jax.Array:
    """G in 0..1, `[N, H, W, C]`, for images in grey levels."""
    return jax.nn.sigmoid(2 * apply_unet(params, images / 127.5 - 1))


def mask_of(params: PyTree, images: jax.Array) -> jax.Array:
    """M in 0..1, `[N, H, W, 1]`, mostly near one end: a sigmoid of a steep line through another."""
    return jax.nn.sigmoid(40 * jax.nn.sigmoid(2 * apply_unet(params, images / 127.5 - 1)) - 20)


def sameness(images: jax.Array, found: jax.Array) -> jax.Array:
    """Mean over pairs of images of the distance between them over that of what was found for them.

    Both are root mean squares over the entries; pairs are neighbours in the batch.
    """

    def distances(x):
        return jnp.sqrt(jnp.square(x - jnp.roll(x, 1, axis=0)).mean(axis=(1, 2, 3)) + 1e-12)

    return (distances(images) / (distances(found) + 1e-3)).mean()


def _check(image_shape, width, density, mask_steps, learning_rate, cross_rate) -> None:
    if min(image_shape[:2]) < 4 or width < 1 or mask_steps < 1:
        raise UserError(
            f"attack.dynamic: found width={width}, mask_steps={mask_steps} and images of {image_shape[0]} x "
            f"{image_shape[1]}, expected at least 1, 1 and 4 x 4"
        )
    if not 0 < density <= 1 or not 0 < learning_rate < 1 or not 0 <= cross_rate < np.inf:
        raise UserError(
            f"attack.dynamic: found density={density}, learning_rate={learning_rate}, cross_rate={cross_rate}, "
            "expected a share above 0, a rate between 0 and 1, and at least 0"
        )
