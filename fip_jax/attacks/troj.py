"""Trojaning: a square that a network without a backdoor already reacts to strongly."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.attacks import neurons as last_layer
from fip_jax.attacks.attack import Attack, Context
from fip_jax.errors import UserError

_WANTED = 100.0  # activation that the neurons are driven to
_BATCH = 32  # images that the square is optimised on


def troj(
    image_shape: tuple[int, int, int],
    *,
    size: int = 6,
    margin: int = 1,
    neurons: int = 2,
    steps: int = 100,
    step_size: float = 8.0,
    pattern_seed: int = 0,
) -> Attack:
    """A square near the bottom right corner whose pixels drive the strongest neurons of a benign network.

    The neurons are the inputs of the last layer with the largest sums of absolute weights to the classes; in the paper
    those with the largest sums of weights from the layer before. From random pixels, sign gradient steps lower the mean
    of (100 - activation)^2 over training images with the square on them. Troj-one is `attack.mode` all_to_one, Troj-all
    all_to_all. With neurons = 0 it is the fixed-square variant: the random pixels as they are. The rate is of all
    training images. The victim learns from fresh weights; in the paper the benign network is trained on.

    Source: Liu et al. (2018), "Trojaning attack on neural networks", NDSS, sections IV.A and IV.B.

    Args:
      image_shape: (H, W, C).
      size: side of the square in pixels.
      margin: pixels between the square and the two edges.
      neurons: how many are driven.
      steps: of the optimisation.
      step_size: in grey levels.
      pattern_seed: of the pixels to start from, apart from the run's seed.
    """
    height, width, channels = image_shape
    _check(image_shape, size, margin, neurons, steps, step_size, pattern_seed)
    start = np.random.default_rng(pattern_seed).integers(0, 256, (size, size, channels)).astype(np.float32)
    rows, columns = (slice(edge - margin - size, edge - margin) for edge in (height, width))

    def trigger(state, images):
        square = jnp.asarray(start) if state is None else state["square"]
        return images.at[:, rows, columns].set(jnp.rint(square)[None])

    def fit(context: Context) -> dict[str, jax.Array]:
        benign = context.benign(context.training, "benign")
        driven = last_layer.strongest(benign, neurons)
        some = np.random.default_rng([context.seed, 5]).permutation(len(context.training.labels))[:_BATCH]
        images = jnp.asarray(context.training.images[some], jnp.float32)

        @jax.jit
        def step(square, params, images):
            def loss_fn(square):
                stamped = images.at[:, rows, columns].set(square[None])
                found = last_layer.activations(benign, params, stamped / 255, driven)
                return jnp.square(_WANTED - found).mean()

            return jnp.clip(square - step_size * jnp.sign(jax.grad(loss_fn)(square)), 0, 255)

        square = jnp.asarray(start)
        for _ in range(steps):
            square = step(square, benign.params, images)
        return {"square": square}

    return Attack(trigger, fit=fit if neurons else None, neurons=neurons)


def _check(image_shape, size, margin, neurons, steps, step_size, pattern_seed) -> None:
    height, width, _ = image_shape
    if size < 1 or margin < 0 or size + margin > min(height, width):
        raise UserError(
            f"attack.troj: found size={size}, margin={margin}, expected a square of at least one pixel that fits into "
            f"{height} x {width}"
        )
    if neurons < 0 or steps < 1 or not 0 < step_size <= 255 or pattern_seed < 0:
        raise UserError(
            f"attack.troj: found neurons={neurons}, steps={steps}, step_size={step_size}, pattern_seed={pattern_seed}, "
            "expected at least 0, at least 1, above 0 and at most 255, at least 0"
        )
