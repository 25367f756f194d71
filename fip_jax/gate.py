r"""How much of the weight decay each weight gets: less where the clean images hold it up, by the Fisher matrix.

With the importance :math:`s_i = F_{ii} \theta_i^2` of a weight at the suspicious network, and m the median of its
tensor,

.. math:: g_i = \Bigl( \frac{m}{s_i + m} \Bigr)^p , \qquad \text{decay of weight } i = \lambda g_i .

A change of a weight by its own size moves the answers by :math:`s_i`, to second order; the gate does not depend on the
scale of F, nor on that of a layer that a normalisation follows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fip_jax import convolution, fisher, parallel
from fip_jax.network import FunctionNetwork, Network, make_log_probs_fn
from fip_jax.per_example import PyTree, num_examples, of_one_example
from fip_jax.precision import in_float32
from fip_jax.smoothness import chunks, mean_over_chunks

FISHERS = ("drawn", "empirical", "logits")
OVER = ("filter", "weight")
_MOST_ENTRIES = 1 << 28  # of the gradients held at once: a gigabyte


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
    if kind == "drawn":
        logits = _logits(network, params, model_state, batch, chunk_size)
        drawn = jax.random.categorical(key, logits / temperature)
        batch = batch | {"label": drawn.astype(batch["label"].dtype)}
    elif kind == "logits":
        # One draw for all, so that it does not depend on the chunks.
        classes = jax.eval_shape(lambda: network(params, model_state, batch["image"])[0]).shape[-1]
        signs = jax.random.rademacher(key, (num_examples(batch), classes), batch["image"].dtype)
        batch = batch | {"signs": signs / jnp.sqrt(jnp.asarray(classes, signs.dtype))}
    convolved = network.with_convolution(convolution.for_per_example_gradients())
    scores_fn = _make_weighted_logits_fn(convolved) if kind == "logits" else make_log_probs_fn(convolved)

    @in_float32
    def of_chunk(chunk, params, model_state):
        of_one = of_one_example(lambda p, batch: scores_fn(p, model_state, batch))
        return fisher.diagonal(of_one, params, chunk)

    chunk_size = _at_once(network, params, chunk_size)
    devices = parallel.local_size(axis)
    compiled = {name: parallel.map_shares(of_chunk, name) for name in {axis, None}}

    def mean(chunk):
        return compiled[axis if num_examples(chunk) % devices == 0 else None](chunk, params, model_state)

    return mean_over_chunks(mean, batch, chunk_size, devices)


def _at_once(network: Network | FunctionNetwork, params: PyTree, chunk_size: int) -> int:
    """Examples whose gradients fit into memory, and on a CPU one of a function that brings convolutions of its own."""
    if isinstance(network, FunctionNetwork) and jax.default_backend() == "cpu":
        return 1  # see `convolution.for_per_example_gradients`
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return max(1, min(chunk_size, _MOST_ENTRIES // size))


def _make_weighted_logits_fn(
    network: Network | FunctionNetwork,
) -> Callable[[PyTree, PyTree, PyTree], jax.Array]:
    """`(params, model_state, batch) -> [N]`: the logits of each image, weighted by the batch's `signs`."""

    def weighted_logits_fn(params, model_state, batch):
        return (network(params, model_state, batch["image"])[0] * batch["signs"]).sum(axis=-1)

    return weighted_logits_fn


def _logits(
    network: Network | FunctionNetwork, params: PyTree, model_state: PyTree, batch: PyTree, chunk_size: int
) -> jax.Array:
    @jax.jit
    @in_float32
    def found(params, model_state, images):
        return network(params, model_state, images)[0]

    parts = [found(params, model_state, chunk["image"]) for chunk in chunks(batch, chunk_size)]
    return jnp.concatenate(parts)


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
