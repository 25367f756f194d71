"""Per-example quantities, a bounded number of examples at a time.

Everything here works on any pytree of parameters and any pytree of examples whose leaves share their leading
axis: an image, a clip, a point cloud, a sentence.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
ExampleFn = Callable[[PyTree, PyTree], jax.Array]  # (params, example) -> scalar
BatchFn = Callable[[PyTree, PyTree], jax.Array]  # (params, batch) -> [N], each from its own example


def of_one_example(fn: BatchFn) -> ExampleFn:
    """The same function of a single example."""
    return lambda params, example: fn(params, jax.tree.map(lambda leaf: leaf[None], example))[0]


def num_examples(batch: PyTree) -> int:
    """Length of the leading axis that all leaves of `batch` share.

    Raises:
      ValueError: `batch` has no leaves, no examples, or leaves of different lengths.
    """
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"batch: expected leaves with one common length of at least 1, found {sorted(lengths)}"
        )
    return lengths.pop()


def sum_over_chunks(fn: Callable[[PyTree], PyTree], batch: PyTree, chunk_size: int | None = None) -> PyTree:
    """Sum of `fn(chunk)` over consecutive chunks of `batch`, with the memory of one chunk.

    Args:
      fn: maps a batch of at most `chunk_size` examples to a pytree that is itself a sum over these examples.
      batch: pytree of arrays `[N, ...]`.
      chunk_size: examples a chunk; None takes all N at once. The last chunk may be shorter.

    Returns:
      A pytree like `fn`'s result, equal to `fn(batch)` up to rounding.
    """
    total, chunk_size = num_examples(batch), _chunk_size(batch, chunk_size)
    if chunk_size >= total:
        return fn(batch)
    num_whole, ragged = divmod(total, chunk_size)
    head = jax.tree.map(
        lambda leaf: leaf[: num_whole * chunk_size].reshape(num_whole, chunk_size, *leaf.shape[1:]), batch
    )
    first = jax.tree.map(lambda leaf: leaf[0], head)
    zero = jax.tree.map(lambda out: jnp.zeros(out.shape, out.dtype), jax.eval_shape(fn, first))
    result, _ = jax.lax.scan(lambda carry, chunk: (jax.tree.map(jnp.add, carry, fn(chunk)), None), zero, head)
    if ragged:
        tail = jax.tree.map(lambda leaf: leaf[-ragged:], batch)
        result = jax.tree.map(jnp.add, result, fn(tail))
    return result


def per_example_gradients(
    fn: ExampleFn, params: PyTree, batch: PyTree, chunk_size: int | None = None
) -> PyTree:
    """Gradient of `fn(params, example)` for every example.

    Args:
      fn: scalar function of `(params, example)`; `example` is `batch` without its leading axis.
      params: pytree of floating-point arrays.
      batch: pytree of arrays `[N, ...]`.
      chunk_size: examples differentiated at once; bounds the memory of the forward and backward pass. The
        result itself always takes N times the memory of `params`.

    Returns:
      A pytree like `params` whose leaves have shape `[N, *leaf.shape]`.
    """
    size = _chunk_size(batch, chunk_size)

    def gradient(example):
        return jax.grad(fn)(params, example)

    if size >= num_examples(batch):
        return jax.vmap(gradient)(batch)
    return jax.lax.map(gradient, batch, batch_size=size)


def _chunk_size(batch: PyTree, chunk_size: int | None) -> int:
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: expected at least 1, found {chunk_size}")
    return num_examples(batch) if chunk_size is None else chunk_size
