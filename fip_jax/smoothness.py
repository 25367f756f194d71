"""How sharp a network's minimum is: the top eigenvalue and the trace of its Fisher matrix."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax

from fip_jax import convolution, eigen, fisher
from fip_jax.network import FunctionNetwork, Network, make_log_probs_fn
from fip_jax.per_example import PyTree, num_examples, of_one_example


def chunks(batch: PyTree, chunk_size: int) -> Iterator[PyTree]:
    """Consecutive parts of `batch` of nearly equal size, at most `chunk_size` each.

    A loop over these on the host, where `per_example.sum_over_chunks` loops on the device: XLA's CPU
    convolutions are many times slower inside of a compiled loop.
    """
    total = num_examples(batch)
    parts = -(-total // chunk_size)
    edges = [total * part // parts for part in range(parts + 1)]
    for start, end in itertools.pairwise(edges):
        yield jax.tree.map(lambda leaf, start=start, end=end: leaf[start:end], batch)


def mean_over_chunks(fn: Any, batch: PyTree, chunk_size: int) -> PyTree:
    """Mean over examples of `fn(chunk)`, itself a mean over the examples of a chunk."""
    total, result = num_examples(batch), None
    for chunk in chunks(batch, chunk_size):
        share = num_examples(chunk) / total
        part = jax.tree.map(lambda leaf, share=share: share * leaf, fn(chunk))
        result = part if result is None else jax.tree.map(jax.numpy.add, result, part)
    return result


class Smoothness:
    """The Fisher matrix of a network over given examples, with its compiled parts.

    Args:
      network: the network.
      batch: `{"image": float32 [N, H, W, C] in [0, 1], "label": int32 [N]}`.
      chunk_size: examples whose gradients are held at once.
    """

    def __init__(self, network: Network | FunctionNetwork, batch: PyTree, chunk_size: int):
        self._batch, self._chunk_size = batch, chunk_size
        for_gradients = network.with_convolution(convolution.for_per_example_gradients())

        @functools.partial(jax.jit, static_argnums=0)
        def jitted(quantity, params, model_state, chunk, *rest):
            chosen = network if quantity is fisher.product else for_gradients
            log_probs_fn = make_log_probs_fn(chosen)
            of_one = of_one_example(lambda p, batch: log_probs_fn(p, model_state, batch))
            return quantity(of_one, params, chunk, *rest)

        self._jitted = jitted

    def _mean(self, quantity: Any, params: PyTree, model_state: PyTree, *rest: PyTree) -> PyTree:
        return mean_over_chunks(
            lambda chunk: self._jitted(quantity, params, model_state, chunk, *rest),
            self._batch,
            self._chunk_size,
        )

    def trace(self, params: PyTree, model_state: PyTree) -> float:
        """Exact trace (a mean over the examples)."""
        return float(self._mean(fisher.trace, params, model_state))

    def diagonal(self, params: PyTree, model_state: PyTree) -> PyTree:
        """Diagonal, a pytree like `params`."""
        return self._mean(fisher.diagonal, params, model_state)

    def top_eigenvalues(
        self, params: PyTree, model_state: PyTree, key: jax.Array, **options: Any
    ) -> eigen.EigenPairs:
        """Leading eigenpairs; `options` as of `eigen.power_iteration`."""
        return eigen.power_iteration(
            lambda vector: self._mean(fisher.product, params, model_state, vector), params, key, **options
        )
