"""What an attack learns, without the learning: for tests of everything else."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack, Benign, Context, Goal
from fip_jax.data.split import Split

CLASSES = 4


def linear_network(shape, scale=0.01):
    """A benign network of one dense layer, `Benign`, whose weights are normal with this deviation."""
    height, width, channels = shape
    kernel = scale * jax.random.normal(jax.random.key(1), (height * width * channels, CLASSES))

    def logits_fn(params, _, images):
        layer = params["head"]
        return images.reshape(len(images), -1) @ layer["kernel"] + layer["bias"][None]

    def features_fn(params, _, images):
        return images.reshape(len(images), -1)

    params = {"head": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}}
    return Benign(logits_fn, features_fn, ("head",), params, {})


def context_of(shape, num=8, rate=0.5, minimise=None):
    """A `Context` with `num` random images, the labels 0 to 3 in turn, target 0, and nothing that is minimised."""
    images = np.random.default_rng(2).integers(0, 256, (num, *shape), dtype=np.uint8)
    split = Split(images, (np.arange(num) % CLASSES).astype(np.int32))
    return Context(
        training=split,
        goal=Goal("all_to_one", 0, CLASSES),
        rate=rate,
        seed=0,
        benign=lambda *_: linear_network(shape),
        minimise=minimise or (lambda _, loss_fn, params, num_steps, learning_rate: params),
    )


def untrained(attack: Attack, shape):
    """The state of an attack that has learnt nothing; None for one without a state."""
    return None if attack.fit is None else jax.tree.map(np.asarray, attack.fit(context_of(shape)))
