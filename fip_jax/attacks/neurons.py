"""The neurons that a network's classes are read from: the inputs of its last dense layer."""

from typing import Any

import jax
import jax.numpy as jnp

from fip_jax.attacks.attack import Benign
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree


def kernel(params: PyTree, head: tuple[Any, ...] | None) -> jax.Array:
    """Of the last dense layer, `[neurons, num_classes]`; `head` is where `params` has that layer.

    Raises:
      UserError: there is none.
    """
    if head is None:
        raise UserError(
            "model.name: found a network without a last dense layer, expected one for this attack"
        )
    layer = params
    for key in head:
        layer = layer[key]
    return layer["kernel"]


def check(params: PyTree, head: tuple[Any, ...] | None, number: int) -> None:
    """Raises UserError for a network that has fewer neurons than an attack drives."""
    found = len(kernel(params, head))
    if number > found:
        raise UserError(f"attack.troj.neurons: found {number}, expected at most the {found} that there are")


def strongest(benign: Benign, number: int | None = None) -> jax.Array:
    """Indices `[number]` of the neurons with the largest sums of absolute weights to the classes, or of all."""
    return jnp.argsort(-jnp.abs(kernel(benign.params, benign.head)).sum(axis=1))[:number]


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
