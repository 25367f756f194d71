"""FIP's first move, before any step: kernels without the part that the clean images do not hold up, in one shot.

Every kernel has a gate in the eigenbasis of its Fisher matrix (`eigenbasis`). All are shrunk at once, and the
statistics of normalisation layers move along with their inputs (`statistics`); the decay in the steps that follow takes
the same gates.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fip_jax import eigenbasis, purify
from fip_jax.eigenbasis import KernelFisher, KernelGate
from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import ExampleFn, PyTree
from fip_jax.scores import answers, make_scores, mean_over_examples

Kernels = dict[str, jax.Array]


def gates(
    options: ConfigDict,
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    batch: dict[str, jax.Array],
    key: jax.Array,
    chunk_size: int,
    axis: str | None = None,
) -> dict[str, KernelGate]:
    """The gates of all kernels, by the kernels' paths.

    Args:
      options: `budget`, the part of the logits' mean square that may change, over all kernels together and evenly
        spread over them; `power`, of `eigenbasis.kernel_gate`; `fisher` and `temperature`, of `scores.make_scores`.
      network: the network.
      params: its parameters.
      model_state: its BatchNorm statistics.
      batch: `{"image": float32 [N, H, W, C] in [0, 1], "label": int32 [N]}`, the clean images.
      key: of what the scores draw.
      chunk_size: images whose gradients a device holds at once.
      axis: to spread the images over this host's devices (see `parallel`).
    """
    kernels, _ = split_kernels(params)
    found = fisher_of_kernels(options, network, params, model_state, batch, key, chunk_size, axis)
    logits = answers(network, params, model_state, batch, chunk_size)
    budget = options.budget * jnp.square(logits).mean() / max(1, len(kernels))

    @jax.jit
    def of_all(kernels: Kernels, found: dict[str, KernelFisher], budget: jax.Array) -> dict[str, KernelGate]:
        gate = eigenbasis.kernel_gate
        return {name: gate(kernel, found[name], budget, options.power) for name, kernel in kernels.items()}

    return of_all(kernels, found, budget)


@jax.jit
def shrunk(params: PyTree, found: dict[str, KernelGate]) -> PyTree:
    """Parameters without the part that their gates let go."""
    kernels, put_back = split_kernels(params)
    return put_back({name: kernel - found[name].part(kernel) for name, kernel in kernels.items()})


def as_tree(params: PyTree, found: dict[str, KernelGate]) -> PyTree:
    """The gates in the places of the kernels, for `purify.with_gated_decay`; zeros for what does not decay."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros((1,) * jnp.ndim(leaf), leaf.dtype), params)
    return split_kernels(params, zeros)[1](found)


def fisher_of_kernels(
    options: ConfigDict,
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    batch: dict[str, jax.Array],
    key: jax.Array,
    chunk_size: int,
    axis: str | None = None,
) -> dict[str, KernelFisher]:
    """The Fisher matrix of every kernel in its eigenbasis, from two passes of per-example gradients; as of `gates`."""
    scores = make_scores(
        network,
        params,
        model_state,
        batch,
        key,
        kind=options.fisher,
        temperature=options.temperature,
        chunk_size=chunk_size,
        axis=axis,
    )

    def factors(score_fn: ExampleFn, params: PyTree, chunk: PyTree) -> PyTree:
        kernels, put_back = split_kernels(params)
        return eigenbasis.factors(lambda k, example: score_fn(put_back(k), example), kernels, chunk)

    def moments(score_fn: ExampleFn, params: PyTree, chunk: PyTree, basis: PyTree) -> PyTree:
        kernels, put_back = split_kernels(params)
        return eigenbasis.moments(lambda k, example: score_fn(put_back(k), example), kernels, chunk, basis)

    places = network, scores, params, model_state, chunk_size, axis
    basis = jax.jit(eigenbasis.rotations)(mean_over_examples(factors, *places))
    diagonals = mean_over_examples(moments, *places, basis)
    return {name: KernelFisher(basis[name], diagonal) for name, diagonal in diagonals.items()}


def split_kernels(
    params: PyTree, others: PyTree | None = None
) -> tuple[Kernels, Callable[[dict[str, PyTree]], PyTree]]:
    """(kernels by their path, the function that puts something else in their place, in `others` or in `params`)."""
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    chosen = jax.tree.leaves(purify.kernels(params))
    names = [jax.tree_util.keystr(path) for path, _ in flat]
    kernels = {
        name: leaf for name, (_, leaf), is_kernel in zip(names, flat, chosen, strict=True) if is_kernel
    }
    around = jax.tree.leaves(params if others is None else others)

    def put_back(found: dict[str, PyTree]) -> PyTree:
        return jax.tree.unflatten(
            structure, [found.get(name, leaf) for name, leaf in zip(names, around, strict=True)]
        )

    return kernels, put_back
