"""Sharpness-aware minimisation: where to look for the gradient."""

import jax
import jax.numpy as jnp
import optax

from fip_jax.per_example import PyTree


def perturbation(params: PyTree, gradient: PyTree, radius: float, adaptive: bool = False) -> PyTree:
    r"""The step up the slope, of length `radius`.

    Plain (Foret et al. 2021, https://arxiv.org/abs/2010.01412, eq. 2):
    :math:`e = \rho g / \lVert g \rVert`. Adaptive (Kwon et al. 2021, https://arxiv.org/abs/2102.11600,
    eq. 6, without its small constant): :math:`e = \rho\, \theta^2 g / \lVert\, |\theta| g \rVert`.

    Args:
      params: pytree, the point :math:`\theta`.
      gradient: pytree like `params`, the gradient g of the loss there.
      radius: rho, >= 0.
      adaptive: whether the neighbourhood scales with the parameters.

    Returns:
      A pytree like `params`. Zero, not NaN, where the gradient is zero.
    """
    scale = jax.tree.map(jnp.abs, params) if adaptive else jax.tree.map(jnp.ones_like, params)
    scaled = jax.tree.map(jnp.multiply, scale, gradient)
    norm = optax.tree.norm(scaled)
    factor = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda s, g: factor.astype(g.dtype) * s * g, scale, scaled)
