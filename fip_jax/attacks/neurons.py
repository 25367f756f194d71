"""The neurons that a network's classes are read from: the inputs of its last dense layer."""

import jax
import jax.numpy as jnp

from fip_jax.attacks.attack import Benign
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree


def _kernel(benign: Benign) -> jax.Array:
    """Of the last dense layer, `[neurons, num_classes]`."""
    if benign.head is None:
        raise UserError(
            "model.name: found a network without a last dense layer, expected one for this attack"
        )
    layer = benign.params
    for key in benign.head:
        layer = layer[key]
    return layer["kernel"]


def count(benign: Benign) -> int:
    """Number of these neurons."""
    return len(_kernel(benign))


def strongest(benign: Benign, number: int) -> jax.Array:
    """Indices `[number]` of the neurons with the largest sums of absolute weights to the classes."""
    kernel = _kernel(benign)
    if number > len(kernel):
        raise UserError(
            f"attack.troj.neurons: found {number}, expected at most the {len(kernel)} that there are"
        )
    return jnp.argsort(-jnp.abs(kernel).sum(axis=1))[:number]


def activations(benign: Benign, params: PyTree, images: jax.Array, neurons: jax.Array) -> jax.Array:
    """Activations `[N, len(neurons)]` for images in [0, 1].

    Args:
      benign: the network.
      params: its parameters, given apart so that a compiled function has them as an argument.
      images: `[N, H, W, C]`.
      neurons: indices.
    """
    features = benign.features_fn(params, benign.model_state, images)
    assert features is not None  # or there were no neurons to ask for
    return features[:, neurons]
