"""The score of each example whose gradients make up a Fisher matrix: a log-likelihood, or a sum of logits."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fip_jax import compiled, convolution, parallel
from fip_jax.network import FunctionNetwork, Network, make_log_probs_fn
from fip_jax.per_example import PyTree, num_examples, of_one_example
from fip_jax.precision import in_float32
from fip_jax.smoothness import chunks, mean_over_chunks

FISHERS = ("drawn", "empirical", "logits")
_MOST_ENTRIES = 1 << 28  # of the gradients held at once: a gigabyte


class Scores(NamedTuple):
    """What is differentiated.

    Attributes:
      fn: `(params, model_state, batch) -> [N]`, with the running statistics, good for `vmap` of its gradient.
      batch: the images with what `fn` needs of each besides.
    """

    fn: Callable[[PyTree, PyTree, PyTree], jax.Array]
    batch: dict[str, jax.Array]


def make_scores(
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    kind: str,
    temperature: float = 1.0,
    chunk_size: int,
    axis: str | None = None,
) -> Scores:
    r"""Scores of a kind of Fisher matrix.

    Args:
      network: the network.
      params: its parameters.
      model_state: its BatchNorm statistics.
      batch: `{"image": float32 [N, H, W, C] in [0, 1], "label": int32 [N]}`.
      key: of what is drawn, once for each example.
      kind: "empirical", "drawn" or "logits", see `gate.fisher_diagonal`.
      temperature: of "drawn".
      chunk_size: images that are answered at once.
      axis: of the devices that the examples will be spread over (see `parallel`).
    """
    platform = parallel.platform_of(axis)
    convolved = network.with_convolution(convolution.for_per_example_gradients(platform))
    if kind == "logits":
        # One draw for all, so that it does not depend on the chunks.
        classes = jax.eval_shape(lambda: network(params, model_state, batch["image"])[0]).shape[-1]
        signs = jax.random.rademacher(key, (num_examples(batch), classes), batch["image"].dtype)
        signs /= jnp.sqrt(jnp.asarray(classes, signs.dtype))
        return Scores(_make_weighted_logits_fn(convolved), batch | {"signs": signs})
    if kind == "drawn":
        logits = answers(network, params, model_state, batch, chunk_size)
        drawn = jax.random.categorical(key, logits / temperature)
        batch = batch | {"label": drawn.astype(batch["label"].dtype)}
    return Scores(make_log_probs_fn(convolved), batch)


def mean_over_examples(
    quantity: Callable[..., PyTree],
    network: Network | FunctionNetwork,
    scores: Scores,
    params: PyTree,
    model_state: PyTree,
    chunk_size: int,
    axis: str | None = None,
    *rest: Any,
) -> PyTree:
    """Mean over the examples of a quantity of the gradients of their scores, a bounded number of them at a time.

    Args:
      quantity: `(score_fn, params, chunk, *rest) -> pytree`, a mean over a chunk, with `score_fn(params, example)`.
      network: whose scores they are.
      scores: from `make_scores`.
      params: the network's parameters.
      model_state: its BatchNorm statistics.
      chunk_size: examples whose gradients a device holds at once, at most; fewer where they would take a gigabyte.
      axis: to spread the examples over this host's devices (see `parallel`); None for one device.
      *rest: further arguments, pytrees of arrays.
    """

    @in_float32
    def of_chunk(chunk, params, model_state, *rest):
        of_one = of_one_example(lambda p, batch: scores.fn(p, model_state, batch))
        return quantity(of_one, params, chunk, *rest)

    size = _at_once(network, params, chunk_size, axis)
    devices = parallel.local_size(axis)
    # A few runs of each program do not pay for much compiling.
    options = compiled.with_little_effort(parallel.platform_of(axis))
    program = functools.cache(lambda name: parallel.map_shares(of_chunk, name, options))

    def mean(chunk):
        whole = num_examples(chunk) % devices == 0
        return program(axis if whole else None)(chunk, params, model_state, *rest)

    return mean_over_chunks(mean, scores.batch, size, devices)


def answers(
    network: Network | FunctionNetwork, params: PyTree, model_state: PyTree, batch: PyTree, chunk_size: int
) -> jax.Array:
    """Logits `[N, num_classes]` of a batch, with the running statistics, `chunk_size` images at a time."""

    @jax.jit
    @in_float32
    def found(params, model_state, images):
        return network(params, model_state, images)[0]

    parts = [found(params, model_state, chunk["image"]) for chunk in chunks(batch, chunk_size)]
    return jnp.concatenate(parts)


def _at_once(network: Network | FunctionNetwork, params: PyTree, chunk_size: int, axis: str | None) -> int:
    """Examples whose gradients fit into memory, and on a CPU one of a function that brings convolutions of its own."""
    if isinstance(network, FunctionNetwork) and parallel.platform_of(axis) == "cpu":
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
