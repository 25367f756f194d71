"""Whether the numbers of a network from elsewhere can be those of one: settings are not blamed for a file's faults."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.data.batches import to_unit
from fip_jax.errors import UserError
from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import PyTree
from fip_jax.shown import shown

_LARGEST = 1e15  # the sum of the squares of millions of larger ones is not finite in float32
_IMAGES = 64


def check_numbers(where: str, params: PyTree, model_state: PyTree) -> None:
    """Refuses weights that no training ends in.

    Args:
      where: the file, folder or argument, for the message.
      params: of the network.
      model_state: its BatchNorm statistics.

    Raises:
      UserError: names a tensor with numbers beyond 1e15, or a running variance below 0.
    """
    leaves = jax.tree_util.tree_flatten_with_path((params, model_state))[0]
    for path, leaf in leaves:
        name = shown(".".join(str(getattr(entry, "key", entry)) for entry in path[1:]))[:100]
        values = np.asarray(leaf)
        if values.size and not np.abs(values).max() <= _LARGEST:
            raise UserError(
                f"{where}: found numbers up to {np.abs(values).max():.3g} in {name}, expected weights up to "
                f"{_LARGEST:g}"
            )
        if name.endswith("var") and values.size and values.min() < 0:
            raise UserError(
                f"{where}: found a running variance of {values.min():.3g} in {name}, expected none below 0"
            )


def check_answers(
    where: str, network: Network | FunctionNetwork, params: PyTree, model_state: PyTree, images: np.ndarray
) -> None:
    """Refuses a network whose answers to images are not finite before anything is changed.

    Args:
      where: the file, folder or argument, for the message.
      network: without weights.
      params: its parameters.
      model_state: its BatchNorm statistics.
      images: uint8 `[N, H, W, C]`, of which the first 64 are looked at.

    Raises:
      UserError: an answer is not a finite number.
    """

    @jax.jit
    def finite(params: PyTree, model_state: PyTree, images: jax.Array) -> jax.Array:
        return jnp.isfinite(network(params, model_state, to_unit(images))[0]).all()

    if not finite(params, model_state, jnp.asarray(images[:_IMAGES])):
        raise UserError(
            f"{where}: found answers to clean images that are not finite before anything was changed, expected a "
            "network that works"
        )
