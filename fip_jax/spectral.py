r"""Fast FIP: every kernel as its singular value decomposition, of which only the values are shifted.

.. math:: W = U\, \mathrm{diag}(\mathrm{relu}(\sigma + \delta))\, V^\top

for a dense layer and for a convolution (`C_out` by `C_in k k`) alike. The factors are layers of their own: a
convolution with the rows of :math:`V^\top`, a scale of each channel, and a dense layer U over the channels. So no
gradient of a kernel is ever taken, and the gradient of a shift for one example is a product summed over positions.

What the optimiser holds is :math:`\sigma + \delta`, whose gradients and Fisher matrix are those of the shifts.

One layer may be left whole, unlike in the paper. By default that is the head (`defense.fast_fip.whole_head`), because
most backdoors of the study outlive shifts of singular values alone.

Source: Karim et al. (2024), ACM CCS, https://arxiv.org/abs/2409.00863, "Fast FIP".
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fip_jax.network import Frozen, Network, Path, split_module
from fip_jax.per_example import PyTree
from fip_jax.precision import in_float32


class Factored(nnx.Module):
    """A convolution or dense layer as U diag(relu(values)) V^T; equal to `layer` until they move, up to rounding.

    Args:
      layer: an `nnx.Conv` without groups or an `nnx.Linear`; not used afterwards.
    """

    def __init__(self, layer: nnx.Conv | nnx.Linear):
        kernel = layer.kernel[...]
        rows, values, columns = jnp.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
        down: Any = layer
        up: Any = nnx.Linear(*columns.shape, use_bias=layer.use_bias, rngs=nnx.Rngs(0))
        up.kernel = Frozen(columns)
        if layer.use_bias:
            up.bias = Frozen(down.bias[...])
        down.kernel, down.bias, down.use_bias = Frozen(rows.reshape(*kernel.shape[:-1], -1)), None, False
        self.down, self.up = down, up
        self.values = nnx.Param(values)

    def __call__(self, x: jax.Array) -> jax.Array:
        """As the layer that it stands for."""
        scale = nnx.relu(self.values[...])
        y = self.down(x)
        return self.up(y * scale.reshape((1,) * (y.ndim - 1) + (-1,)))


def factorise(
    network: Network, params: PyTree, model_state: PyTree, whole: Path | None = None
) -> tuple[Network, PyTree, PyTree]:
    """The same function of images, with another choice of what is a parameter.

    Parameters are the singular values of every dense layer and of every convolution without groups, and the scales and
    biases of normalisation layers. Everything else is frozen: it travels with the BatchNorm statistics.

    Args:
      network: from `split_module`.
      params: its parameters, left as they are.
      model_state: its BatchNorm statistics.
      whole: where the module has a layer that is not factorised, all of whose parameters stay such; None for none.

    Returns:
      (network, params, model_state); `fold` leads back.
    """
    module = nnx.merge(network.graphdef, params, model_state, network.rest)
    module = nnx.recursive_map(lambda path, node: node if path == whole else _factored(node), module)
    factored, *trees = split_module(module, network.mean, network.std)
    return factored._replace(convolve=network.convolve, grey=network.grey), *trees


_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.RMSNorm)


def _factored(node: Any) -> Any:
    """A part of a module whose own parts have had their turn."""
    if isinstance(node, nnx.Linear) or (isinstance(node, nnx.Conv) and node.feature_group_count == 1):
        return Factored(node)
    if isinstance(node, nnx.Module) and not isinstance(node, _NORMS):
        for name, variable in list(vars(node).items()):
            if isinstance(variable, nnx.Param):
                setattr(node, name, Frozen(variable[...]))
    return node


@in_float32
def fold(params: PyTree, model_state: PyTree, like: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    """The weights of the network that was factorised, as they have become.

    Args:
      params: of the factorised network.
      model_state: of the factorised network.
      like: (params, model_state) of the network before it was factorised, of which only the structure counts.

    Returns:
      (params, model_state), pytrees like `like`.
    """
    plain, statistics = (_unfactored(params, model_state, part) for part in like)
    return plain, statistics


def _unfactored(params: PyTree, state: PyTree, like: PyTree) -> PyTree:
    """The part `like` of a network: taken from where it is, a kernel from its factors."""
    if not isinstance(like, dict):
        return state if params is None else params
    params, state = params or {}, state or {}
    if "values" not in params or "kernel" not in like:
        return {key: _unfactored(params.get(key), state.get(key), part) for key, part in like.items()}
    rows = state["down"]["kernel"]
    scaled = jax.nn.relu(params["values"])[:, None] * state["up"]["kernel"]
    kernel = (rows.reshape(-1, rows.shape[-1]) @ scaled).reshape(*rows.shape[:-1], -1)
    return {key: kernel if key == "kernel" else state["up"][key] for key in like}
