r"""The empirical Fisher matrix, never built.

With :math:`l_n(\theta) = \log p(y_n \mid x_n, \theta)` over N examples,

.. math:: F = \frac{1}{N} \sum_{n=1}^{N} \nabla l_n \, \nabla l_n^\top .

Every function but `estimate_trace` takes `log_prob_fn(params, example) -> scalar`, the parameters and a batch, a pytree
whose leaves are `[N, ...]`. All results are means over the batch (the 1/N above). The sign of `log_prob_fn` does
not matter: a loss per example serves as well. A network with BatchNorm has to use its running statistics in
`log_prob_fn`, otherwise the examples are not independent and the matrix means nothing.

Source: Karim et al. (2024), "Fisher Information guided Purification against Backdoor Attacks", ACM CCS,
https://arxiv.org/abs/2409.00863.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import optax

from fip_jax import parallel
from fip_jax.per_example import (
    BatchFn,
    ExampleFn,
    PyTree,
    num_examples,
    per_example_gradients,
    sum_over_chunks,
)


def trace(log_prob_fn: ExampleFn, params: PyTree, batch: PyTree, chunk_size: int | None = None) -> jax.Array:
    r"""Exact trace, :math:`\mathrm{Tr} F = \frac{1}{N} \sum_n \lVert \nabla l_n \rVert^2`.

    Args:
      log_prob_fn: log-likelihood of one example.
      params: pytree of floating-point arrays.
      batch: pytree of arrays `[N, ...]`.
      chunk_size: per-example gradients held at once (each has the size of `params`); None holds all N.

    Returns:
      A scalar, >= 0.
    """

    def sum_of_squares(chunk):
        return optax.tree.norm(per_example_gradients(log_prob_fn, params, chunk), squared=True)

    return sum_over_chunks(sum_of_squares, batch, chunk_size) / num_examples(batch)


def estimate_trace(
    log_probs_fn: BatchFn,
    params: PyTree,
    batch: PyTree,
    key: jax.Array,
    num_probes: int = 1,
    axis: str | None = None,
) -> jax.Array:
    r"""Unbiased estimate of `trace` with the memory of one ordinary gradient.

    .. math:: \mathrm{Tr} F = \mathbb{E}_r \frac{1}{N} \Bigl\lVert \sum_n r_n \nabla l_n \Bigr\rVert^2,
       \quad r_n \in \{-1, +1\} \text{ independent and fair,}

    because the cross terms have mean zero. Differentiating the estimate gives an unbiased estimate of the
    gradient of the trace.

    Args:
      log_probs_fn: `(params, batch) -> [N]`, log-likelihood of each example, which depends on that example alone. A
        batch as a whole is faster here than `vmap` of a function of one example: no gradient is taken per example.
      params: pytree of floating-point arrays.
      batch: pytree of arrays `[N, ...]`.
      key: PRNG key of the probes.
      num_probes: probes averaged; the variance falls as 1 / num_probes, the cost grows with it.
      axis: of the devices that `batch` is spread over (see `parallel`); the result is that of the whole batch.

    Returns:
      A scalar, >= 0.
    """
    count = num_examples(batch) * parallel.size(axis)

    def weighted_log_prob(params, signs):
        log_probs = log_probs_fn(params, batch)
        return jnp.vdot(signs.astype(log_probs.dtype), log_probs)

    def one_probe(probe_key):
        signs = parallel.share(jax.random.rademacher(probe_key, (count,)), axis)
        gradient = parallel.total(jax.grad(weighted_log_prob)(params, signs), axis)
        return optax.tree.norm(gradient, squared=True) / count

    if num_probes == 1:
        return one_probe(key)
    # No loop for the compiler: XLA's CPU convolutions are many times slower inside of one.
    return jnp.stack([one_probe(k) for k in jax.random.split(key, num_probes)]).mean()


def diagonal(log_prob_fn: ExampleFn, params: PyTree, batch: PyTree, chunk_size: int | None = None) -> PyTree:
    r"""Diagonal, :math:`F_{ii} = \frac{1}{N} \sum_n (\partial l_n / \partial \theta_i)^2`.

    Args:
      log_prob_fn: log-likelihood of one example.
      params: pytree of floating-point arrays.
      batch: pytree of arrays `[N, ...]`.
      chunk_size: per-example gradients held at once; None holds all N.

    Returns:
      A pytree like `params`, entries >= 0; their sum is the trace.
    """

    def sum_of_squares(chunk):
        gradients = per_example_gradients(log_prob_fn, params, chunk)
        return jax.tree.map(lambda g: jnp.square(g).sum(axis=0), gradients)

    total = sum_over_chunks(sum_of_squares, batch, chunk_size)
    return jax.tree.map(lambda leaf: leaf / num_examples(batch), total)


def gram(first: PyTree, second: PyTree) -> jax.Array:
    r"""Products of per-example gradients, :math:`\langle \nabla l_n, \nabla l_m \rangle`.

    Of all N with each other and divided by N, their matrix has the eigenvalues of F that are not zero, and its trace:
    with a few examples, the whole spectrum for the price of N gradients.

    Args:
      first: pytree of arrays `[n, ...]`, from `per_example.per_example_gradients`.
      second: pytree of arrays `[m, ...]`.

    Returns:
      `[n, m]`.
    """
    parts = jax.tree.map(lambda a, b: a.reshape(len(a), -1) @ b.reshape(len(b), -1).T, first, second)
    return functools.reduce(jnp.add, jax.tree.leaves(parts))


def product(
    log_prob_fn: ExampleFn,
    params: PyTree,
    batch: PyTree,
    vector: PyTree,
    chunk_size: int | None = None,
    log_probs_fn: BatchFn | None = None,
) -> PyTree:
    r"""Fisher-vector product :math:`F v = \frac{1}{N} \sum_n \nabla l_n (\nabla l_n \cdot v)`.

    One forward-mode and one reverse-mode pass through the map from `params` to the N log-likelihoods; no
    per-example gradient is ever formed.

    Args:
      log_prob_fn: log-likelihood of one example.
      params: pytree of floating-point arrays.
      batch: pytree of arrays `[N, ...]`.
      vector: pytree like `params`, in shapes and dtypes; anything else is an AssertionError.
      chunk_size: examples passed through the network at once; None takes all N.
      log_probs_fn: the same for a batch, `(params, batch) -> [N]`, where there is a form of it that is faster in the
        reverse-mode pass, which alone uses it.

    Returns:
      A pytree like `params`.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(params, vector)

    def unscaled(chunk):
        def log_probs(p):
            return jax.vmap(log_prob_fn, in_axes=(None, 0))(p, chunk)

        _, along_vector = jax.jvp(log_probs, (params,), (vector,))
        _, pull_back = jax.vjp(lambda p: log_probs_fn(p, chunk) if log_probs_fn else log_probs(p), params)
        return pull_back(along_vector)[0]

    total = sum_over_chunks(unscaled, batch, chunk_size)
    return jax.tree.map(lambda leaf: leaf / num_examples(batch), total)
