r"""The loss of a purification: the labels, and the suspicious network as a teacher that sees another image.

.. math:: L = w_y\, \mathrm{CE}(f(c(x)), y)
          + w_t\, T^2\, \mathrm{KL}(g(x) \,\|\, f(c(x)))
          + w_m\, T^2\, \mathrm{KL}(g(x') \,\|\, f(c(x')))

with the student f, the teacher g (the suspicious network with its running statistics, whose answers are constants),
softmax at temperature T in both KL terms, a corruption c, and a second batch x' of changed and mixed images, which has
no labels. All are means over their batch. The teacher holds the function up where a few hundred labels cannot; what is
on the student's image alone, the likes of a trigger, it learns to overlook.

Source: Hinton et al. (2015), "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531, for T
and its square.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fip_jax.network import FunctionNetwork, Network, make_objective
from fip_jax.objective import Anchor, Objective
from fip_jax.per_example import PyTree


class Teaching(NamedTuple):
    """Weights of the terms.

    Attributes:
      labels: of the cross-entropy.
      smoothing: share of each label that is spread over all classes, in [0, 1).
      teacher: of the teacher's answers to the batch.
      mixed: of the teacher's answers to the second batch.
      temperature: what logits are divided by in both.
    """

    labels: float = 1.0
    smoothing: float = 0.0
    teacher: float = 0.0
    mixed: float = 0.0
    temperature: float = 1.0

    @property
    def asks(self) -> bool:
        """Whether there is a teacher."""
        return bool(self.teacher or self.mixed)


def make_taught_objective(
    network: Network | FunctionNetwork, teaching: Teaching, *, batch_statistics: bool
) -> Objective:
    """As `network.make_objective`, without dropout, with the loss above; for batches of `pairs.make_pairs_draw`."""
    objective = make_objective(network, batch_statistics=batch_statistics, dropout=False)

    def divergence(logits: jax.Array, told: jax.Array) -> jax.Array:
        student, teacher = (jax.nn.log_softmax(x / teaching.temperature) for x in (logits, told))
        return teaching.temperature**2 * optax.losses.kl_divergence_with_log_targets(student, teacher).mean()

    def loss_fn(params, model_state, batch, key):
        images = [batch["image"]]
        if teaching.mixed:
            images.append(batch["mixed"]["image"])
        # One pass: both batches are normalised by their statistics together, and the step is compiled once.
        logits, model_state = network(
            params, model_state, jnp.concatenate(images), batch_statistics=batch_statistics
        )
        of_batch, *of_mixed = jnp.split(logits, len(images))
        loss = teaching.labels * _cross_entropy(of_batch, batch["label"], teaching.smoothing)
        if teaching.teacher:
            loss += teaching.teacher * divergence(of_batch, batch["told"])
        if teaching.mixed:
            loss += teaching.mixed * divergence(of_mixed[0], batch["mixed"]["told"])
        return loss, model_state

    def ask_fn(anchor: Anchor, batch: PyTree) -> PyTree:
        asked = [batch] if teaching.teacher else []
        if teaching.mixed:
            asked.append(batch["mixed"])
        # One pass: with running statistics no image has a part in another's answer.
        plain = jnp.concatenate([part["plain"] for part in asked])
        logits = jax.lax.stop_gradient(network(anchor.params, anchor.model_state, plain)[0])
        told = jnp.split(logits, len(asked))
        taught = batch | {"told": told[0]} if teaching.teacher else batch
        return taught | {"mixed": batch["mixed"] | {"told": told[-1]}} if teaching.mixed else taught

    return objective._replace(loss_fn=loss_fn, ask_fn=ask_fn if teaching.asks else None)


def _cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()
