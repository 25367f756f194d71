"""The running statistics of normalisation layers, moved along when weights change without any training."""

from typing import Any

import jax

from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import PyTree
from fip_jax.smoothness import mean_over_chunks

Weights = tuple[PyTree, PyTree]  # (params, model_state)


def moved_along(
    network: Network | FunctionNetwork,
    before: Weights,
    after: Weights,
    batch: dict[str, Any],
    chunk_size: int,
) -> PyTree:
    """The statistics that `before` would have had with the weights of `after`, estimated from a few images.

    A mean moves by the difference of the images' means, a variance by the quotient of their variances: where no weight
    has changed, nothing moves, though a few images never have the statistics of the whole training set.

    Args:
      network: the network; of one without BatchNorm nothing changes.
      before: (params, model_state) as they came.
      after: (params, model_state) with other weights; what is no statistic is taken from here.
      batch: `{"image": float32 [N, H, W, C] in [0, 1], ...}`.
      chunk_size: images at once.

    Returns:
      A model state like `before`'s.
    """
    paths = _statistics(before[1])
    if not paths:
        return after[1]
    of_before, of_after = (_of_images(network, weights, batch, chunk_size) for weights in (before, after))
    tiny = 1e-8

    def move(path, kept, old, seen_before, seen_after):
        name = _name(path)
        if name == "mean":
            return old + (seen_after - seen_before)
        if name == "var":
            return old * ((seen_after + tiny) / (seen_before + tiny))
        return kept

    return jax.tree_util.tree_map_with_path(move, after[1], before[1], of_before, of_after)


def _of_images(
    network: Network | FunctionNetwork, weights: Weights, batch: dict[str, Any], chunk_size: int
) -> PyTree:
    """Means and variances of a chunk of the images, averaged over the chunks, in the place of the running ones."""
    params, model_state = weights

    @jax.jit
    def of_chunk(params, model_state, images):
        def updated(state):
            return network(params, state, images, batch_statistics=True)[1]

        # new = momentum * old + (1 - momentum) * seen, and the momentum is how far new follows old.
        new = updated(model_state)
        followed = updated(jax.tree.map(lambda leaf: leaf + 1, model_state))

        def seen(path, old, new, followed):
            if _name(path) not in ("mean", "var"):
                return old
            momentum = followed - new
            return (new - momentum * old) / (1 - momentum)

        return jax.tree_util.tree_map_with_path(seen, model_state, new, followed)

    return mean_over_chunks(
        lambda chunk: of_chunk(params, model_state, chunk["image"]), {"image": batch["image"]}, chunk_size
    )


def _statistics(model_state: PyTree) -> list[Any]:
    leaves = jax.tree_util.tree_leaves_with_path(model_state)
    return [path for path, _ in leaves if _name(path) in ("mean", "var")]


def _name(path: tuple[Any, ...]) -> str:
    return str(getattr(path[-1], "key", ""))
