"""The neurons that a network's classes are read from: the inputs of its last layer."""

import jax
import jax.numpy as jnp

from fip_jax.attacks.attack import Benign
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree


def _head(benign: Benign) -> tuple[str, ...]:
    """The path of the last layer in the parameters: a matrix with a column for each class."""
    found = [
        tuple(part.key for part in path[:-1])
        for path, leaf in jax.tree_util.tree_leaves_with_path(benign.params)
        if path[-1].key == "kernel" and leaf.ndim == 2 and leaf.shape[1] == benign.num_classes
    ]
    if not found:
        raise UserError(
            "model.name: found a network without a last dense layer, expected one for this attack"
        )
    return found[-1]


def count(benign: Benign) -> int:
    """Number of these neurons."""
    return len(_at(benign.params, _head(benign))["kernel"])


def strongest(benign: Benign, number: int) -> jax.Array:
    """Indices `[number]` of the neurons with the largest sums of absolute weights to the classes."""
    kernel = _at(benign.params, _head(benign))["kernel"]
    if number > len(kernel):
        raise UserError(
            f"attack.troj.neurons: found {number}, expected at most the {len(kernel)} that there are"
        )
    return jnp.argsort(-jnp.abs(kernel).sum(axis=1))[:number]


def activations(benign: Benign, params: PyTree, images: jax.Array, neurons: jax.Array) -> jax.Array:
    """Activations `[N, len(neurons)]` for images in [0, 1].

    They are the logits of the network whose last layer hands these neurons through.

    Args:
      benign: the network.
      params: its parameters, given apart so that a compiled function has them as an argument.
      images: `[N, H, W, C]`.
      neurons: indices.
    """
    path = _head(benign)
    layer = _at(params, path)
    through = jnp.zeros((len(layer["kernel"]), len(neurons)), layer["kernel"].dtype)
    through = through.at[neurons, jnp.arange(len(neurons))].set(1)
    changed = {key: jnp.zeros(len(neurons), leaf.dtype) for key, leaf in layer.items()} | {"kernel": through}
    return benign.logits_fn(_with(params, path, changed), benign.model_state, images)


def _at(tree: PyTree, path: tuple[str, ...]) -> PyTree:
    for key in path:
        tree = tree[key]
    return tree


def _with(tree: PyTree, path: tuple[str, ...], value: PyTree) -> PyTree:
    if not path:
        return value
    return {**tree, path[0]: _with(tree[path[0]], path[1:], value)}
