"""FIP's first move, before any step: kernels without what the clean images do not hold up, in one shot.

Every kernel is shrunk in the eigenbasis of its Fisher matrix (`eigenbasis`), all at once, and the statistics of
normalisation layers are moved along with their inputs (`statistics`).
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fip_jax import eigenbasis, purify
from fip_jax.eigenbasis import KernelFisher
from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import ExampleFn, PyTree
from fip_jax.scores import answers, make_scores, mean_over_examples
from fip_jax.statistics import moved_along

Kernels = dict[str, jax.Array]


def shrink(
    options: ConfigDict,
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    batch: dict[str, jax.Array],
    key: jax.Array,
    chunk_size: int,
    axis: str | None = None,
) -> tuple[PyTree, PyTree]:
    """The network with shrunk kernels.

    Args:
      options: `budget`, the part of the logits' mean square that may change, over all kernels together and evenly
        spread over them; `power`, of `eigenbasis.shrink`; `fisher` and `temperature`, of `scores.make_scores`.
      network: the network.
      params: its parameters.
      model_state: its BatchNorm statistics.
      batch: `{"image": float32 [N, H, W, C] in [0, 1], "label": int32 [N]}`, the clean images.
      key: of what the scores draw.
      chunk_size: images whose gradients a device holds at once.
      axis: to spread the images over this host's devices (see `parallel`).

    Returns:
      (params, model_state).
    """
    kernels, put_back = split_kernels(params)
    found = fisher_of_kernels(options, network, params, model_state, batch, key, chunk_size, axis)
    logits = answers(network, params, model_state, batch, chunk_size)
    budget = options.budget * jnp.square(logits).mean() / max(1, len(kernels))
    cut = jax.jit(lambda kernels, found: _shrink_all(kernels, found, budget, options.power))(kernels, found)
    shrunk = put_back(cut)
    return shrunk, moved_along(network, (params, model_state), (shrunk, model_state), batch, chunk_size)


def _shrink_all(kernels: Kernels, found: dict[str, KernelFisher], budget: jax.Array, power: float) -> Kernels:
    return {name: eigenbasis.shrink(k, found[name], budget, power) for name, k in kernels.items()}


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
    """The Fisher matrix of every kernel in its eigenbasis, from two passes of per-example gradients; as of `shrink`."""
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


def split_kernels(params: PyTree):
    """(kernels by their path, the function that puts others in their place)."""
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    chosen = jax.tree.leaves(purify.kernels(params))
    names = [jax.tree_util.keystr(path) for path, _ in flat]
    kernels = {
        name: leaf for name, (_, leaf), is_kernel in zip(names, flat, chosen, strict=True) if is_kernel
    }

    def put_back(others: Kernels) -> PyTree:
        leaves = [others.get(name, leaf) for name, (_, leaf) in zip(names, flat, strict=True)]
        return jax.tree.unflatten(structure, leaves)

    return kernels, put_back
