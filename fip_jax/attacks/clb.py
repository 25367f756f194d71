"""Clean label with adversarial examples: images that are hard to recognise but for the trigger on them."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fip_jax.attacks.attack import Attack, Benign, Context
from fip_jax.attacks.poison import choose
from fip_jax.errors import UserError

_BATCH = 64


def clb(
    image_shape: tuple[int, int, int],
    *,
    epsilon: float = 16.0,
    step_size: float = 2.0,
    steps: int = 30,
    size: int = 3,
) -> Attack:
    """Images of the target class, perturbed against a benign network by PGD, with checkerboards in the four corners.

    PGD raises the cross-entropy within an l-infinity ball: x <- clip(x + step_size sign(grad), x0 - epsilon,
    x0 + epsilon). Labels stay as they are. At test time the corners alone are the trigger. The rate is
    `attack.clean_label_rate`, of the images of the target class.

    Source: Turner et al. (2019), "Label-consistent backdoor attacks", https://arxiv.org/abs/1912.02771, section 4.2.

    Args:
      image_shape: (H, W, C).
      epsilon: radius of the ball in grey levels.
      step_size: of PGD in grey levels.
      steps: of PGD.
      size: side of the checkerboards in pixels, white in their own corners.
    """
    height, width, _ = image_shape
    if not 0 < epsilon <= 255 or not 0 < step_size <= 255 or steps < 1:
        raise UserError(
            f"attack.clb: found epsilon={epsilon}, step_size={step_size}, steps={steps}, expected sizes above 0 and at "
            "most 255 and at least one step"
        )
    if not 1 <= size <= min(height, width) // 2:
        raise UserError(f"attack.clb.size: found {size}, expected 1 to {min(height, width) // 2} pixels")
    corners = checkerboards(height, width, size)

    def trigger(_, images):
        square = jnp.asarray(corners)[None, :, :, None]
        return jnp.where(square < 0, images, square)

    attack = Attack(trigger, clean_label=True)

    def fit(context: Context) -> dict[str, np.ndarray]:
        chosen = choose(context.training.labels, True, context.goal, context.rate, context.seed)
        part = context.training.take(chosen)
        hard = perturb(
            context.benign(context.training, "benign"), part.images, part.labels, epsilon, step_size, steps
        )
        return {"indices": chosen.astype(np.int32), "images": hard, "of": _digest(part.images)}

    def implant(state, indices: np.ndarray, images: np.ndarray) -> np.ndarray:
        hard = np.asarray(state.get("images"))
        # Folders of earlier versions have no digest.
        same = "of" not in state or np.array_equal(state["of"], _digest(images))
        fit_in = (hard.shape, hard.dtype) == (images.shape, images.dtype)
        if not same or not fit_in or not np.array_equal(state.get("indices"), indices):
            raise UserError(
                "attack.state: found perturbed images of other training images than those to poison, expected the same "
                "data, seed, target and rate"
            )
        return attack.stamp(hard)

    return attack._replace(fit=fit, implant=implant)


def _digest(images: np.ndarray) -> np.ndarray:
    """SHA-256 of uint8 images, uint8 `[32]`."""
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(images).data).digest(), np.uint8)


def checkerboards(height: int, width: int, size: int) -> np.ndarray:
    """float32 `[height, width]`: grey levels 0 and 255 in the four corners, -1 where the image shows."""
    corners = np.full((height, width), -1.0, np.float32)
    rows, columns = np.ogrid[:size, :size]
    corners[:size, :size] = 255.0 * ((rows + columns) % 2 == 0)
    for flipped in (corners[::-1], corners[:, ::-1]):
        np.maximum(corners, flipped.copy(), out=corners)
    return corners


def perturb(
    benign: Benign, images: np.ndarray, labels: np.ndarray, epsilon: float, step_size: float, steps: int
) -> np.ndarray:
    """uint8 images `[N, H, W, C]` made hard for a network by PGD; in whole grey levels at most `epsilon` away."""

    @jax.jit
    def step(current, start, labels, params, model_state):
        def loss_fn(x):
            logits = benign.logits_fn(params, model_state, x / 255)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

        moved = current + step_size * jnp.sign(jax.grad(loss_fn)(current))
        return jnp.clip(jnp.clip(moved, start - epsilon, start + epsilon), 0, 255)

    hard = np.empty_like(images)
    for first in range(0, len(images), _BATCH):
        part = slice(first, first + _BATCH)
        missing = _BATCH - len(images[part])
        start = jnp.asarray(np.pad(images[part], ((0, missing), (0, 0), (0, 0), (0, 0))), jnp.float32)
        known = jnp.asarray(np.pad(labels[part], (0, missing)), jnp.int32)
        current = start
        for _ in range(steps):
            current = step(current, start, known, benign.params, benign.model_state)
        found = np.asarray(current)[: len(images[part])].astype(np.float64)
        # Towards the image as it was, so that the ball still holds.
        rounded = np.where(found > images[part], np.floor(found), np.ceil(found))
        hard[part] = rounded
    return hard
