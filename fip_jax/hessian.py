"""The Hessian of a mean loss, never built."""

from collections.abc import Callable

import chex
import jax
import optax

from fip_jax.per_example import PyTree


def product(
    loss_fn: Callable[[PyTree, PyTree], jax.Array], params: PyTree, batch: PyTree, vector: PyTree
) -> PyTree:
    r"""Hessian-vector product :math:`\nabla^2 L(\theta)\, v`, by differentiating :math:`\langle \nabla L, v \rangle`.

    Two reverse passes, where a forward pass over a reverse one would do: `convolution.for_batches` has no forward rule,
    and is the faster one for it on a CPU.

    Args:
      loss_fn: `(params, batch) -> scalar`, the mean over the batch.
      params: pytree of floating-point arrays.
      batch: passed on.
      vector: pytree like `params`, in shapes and dtypes; anything else is an AssertionError.

    Returns:
      A pytree like `params`.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(params, vector)
    return jax.grad(lambda p: optax.tree.vdot(jax.grad(loss_fn)(p, batch), vector))(params)
