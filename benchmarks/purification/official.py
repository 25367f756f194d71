"""The term that the official code has in the place of Tr F.

It is the inner product of a first-order gradient with Gaussian noise: its expectation is zero, and its gradient is the
Hessian times noise. The gradient is that of a mean over all pairs of an image and a label of the batch, since the
code's index `output[:, target]` gives a matrix. See https://github.com/nazmul-karim170/FIP-Fisher-Backdoor-Removal.
"""

import jax
import optax

from fip_jax.objective import Objective, Settings
from fip_jax.per_example import PyTree


def noise(
    objective: Objective,
    settings: Settings,
    params: PyTree,
    model_state: PyTree,
    examples: PyTree,
    key: jax.Array,
) -> jax.Array:
    """A penalty for `purify.make_step`, scalar."""

    def mean_over_pairs(p):
        log_probs = jax.nn.log_softmax(objective.logits(p, model_state, examples))
        return log_probs[:, examples["label"]].mean()

    gradient = jax.grad(mean_over_pairs)(params)
    return optax.tree.vdot(gradient, draw(params, key))


def draw(params: PyTree, key: jax.Array) -> PyTree:
    """Gaussian noise, a pytree like `params`."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)
