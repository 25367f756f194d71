r"""How much of the weight decay each weight gets: less where the clean images hold it up, by the Fisher matrix.

With the importance :math:`s_i = F_{ii} \theta_i^2` of a weight at the suspicious network, and m the median of its
tensor,

.. math:: g_i = \Bigl( \frac{m}{s_i + m} \Bigr)^p , \qquad \text{decay of weight } i = \lambda g_i .

A change of a weight by its own size moves the answers by :math:`s_i`, to second order; the gate does not depend on the
scale of F, nor on that of a layer that a normalisation follows.
"""

import jax
import jax.numpy as jnp

from fip_jax import fisher
from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import PyTree
from fip_jax.scores import make_scores, mean_over_examples

OVER = ("filter", "weight")


def fisher_diagonal(
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    batch: PyTree,
    key: jax.Array,
    *,
    kind: str,
    temperature: float = 1.0,
    chunk_size: int,
    axis: str | None = None,
) -> PyTree:
    r"""Diagonal of a Fisher matrix over examples, exact but for what is drawn, with the running statistics.

    Args:
      network: the network.
      params: its parameters.
      model_state: its BatchNorm statistics.
      batch: `{"image": float32 [N, H, W, C] in [0, 1], "label": int32 [N]}`.
      key: of what is drawn, once for each example.
      kind: whose gradients are squared. "empirical": of the log-likelihood of the data's labels, which vanishes where
        the network is sure. "drawn": of labels drawn from the softmax of its logits over `temperature`. "logits": of
        :math:`\sum_c r_c z_c / \sqrt{C}` with random signs r, so that the mean is that over all logits alone.
      temperature: of "drawn".
      chunk_size: examples whose gradients a device holds at once, at most; fewer where they would take a gigabyte.
      axis: to spread the examples over this host's devices (see `parallel`); None for one device.

    Returns:
      A pytree like `params`, entries >= 0.
    """
    scores = make_scores(
        network,
        params,
        model_state,
        batch,
        key,
        kind=kind,
        temperature=temperature,
        chunk_size=chunk_size,
        axis=axis,
    )
    return mean_over_examples(fisher.diagonal, network, scores, params, model_state, chunk_size, axis)


def gates(
    params: PyTree, diagonal: PyTree, decayed: PyTree, over: str = "weight", power: float = 1.0
) -> PyTree:
    """The share of the weight decay that each weight gets.

    Args:
      params: of the suspicious network.
      diagonal: of its Fisher matrix, a pytree like `params`.
      decayed: a pytree like `params` of truth values: which leaves decay at all.
      over: "weight"; "filter" has one gate for all weights into a unit (the last axis), by their mean importance.
      power: p above.

    Returns:
      A pytree like `params`, of arrays in [0, 1] that broadcast to its leaves: 0 for those that do not decay.
    """

    def gate(weights: jax.Array, curvature: jax.Array, decays: bool) -> jax.Array:
        if not decays:
            return jnp.zeros((1,) * weights.ndim, weights.dtype)
        importance = curvature * jnp.square(weights)
        if over == "filter" and weights.ndim > 1:
            importance = importance.mean(axis=tuple(range(weights.ndim - 1)), keepdims=True)
        middle = jnp.median(importance)
        total = importance + middle
        # Where more than half are not used at all, the median is 0, and so is the gate of what is used.
        return jnp.where(total > 0, middle / jnp.where(total > 0, total, 1), 1) ** power

    return jax.tree.map(gate, params, diagonal, decayed)
