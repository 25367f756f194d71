"""Leading eigenvalues of a symmetric operator that is known by its products alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fip_jax.precision import in_float32

PyTree = Any


class EigenPairs(NamedTuple):
    """What `power_iteration` found.

    Attributes:
      values: `[k]`, by falling absolute value.
      vectors: pytree like the operator's argument, every leaf with a leading axis k; orthonormal.
      residuals: `[k]`, norms of A v - lambda v. Every value lies within its residual of a true eigenvalue.
      num_iterations: applications of the operator to the whole block.
      converged: whether every residual reached the tolerance.
    """

    values: jax.Array
    vectors: PyTree
    residuals: jax.Array
    num_iterations: int
    converged: bool


def power_iteration(
    matvec: Callable[[PyTree], PyTree],
    like: PyTree,
    key: jax.Array,
    *,
    num_pairs: int = 1,
    num_guards: int = 2,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    on_iteration: Callable[[int], None] | None = None,
) -> EigenPairs:
    """The `num_pairs` eigenvalues of largest absolute value, by block power iteration.

    A block of `num_pairs + num_guards` orthonormal vectors is multiplied by the operator, rotated to the best
    eigenvectors within its span (Rayleigh-Ritz), and orthonormalised, until every wanted residual is at most
    `tolerance` times the largest eigenvalue found. Ties cost nothing: tied vectors share the block. Only a
    tie in absolute value between a wanted eigenvalue and one outside of the block stops convergence, and
    then the report says so.

    Args:
      matvec: a symmetric linear operator on pytrees like `like`. It is called as it is, vector by vector; jit
        it, with its data as arguments, or loop over batches in it.
      like: pytree of floating-point arrays of one dtype, giving shapes and dtype; its values are not used.
      key: PRNG key of the start vectors.
      num_pairs: k, eigenpairs wanted.
      num_guards: further vectors carried along, which speed up the slowest wanted pair.
      tolerance: largest residual, relative to the largest absolute eigenvalue.
      max_iterations: bound on the number of block products.
      on_iteration: called with the number of iterations done.

    Returns:
      `EigenPairs`. `converged` is False where `max_iterations` ended the search.

    Raises:
      ValueError: `num_pairs` is less than 1 or more than the number of entries of `like`, `num_guards` is
        negative, or `max_iterations` less than 1.
    """
    flat, unravel = ravel_pytree(like)
    if not 1 <= num_pairs <= flat.size:
        raise ValueError(
            f"num_pairs: expected 1 to {flat.size} (the number of parameters), found {num_pairs}"
        )
    if num_guards < 0 or max_iterations < 1:
        raise ValueError(
            f"expected num_guards >= 0, max_iterations >= 1, found {num_guards}, {max_iterations}"
        )
    block = min(num_pairs + num_guards, flat.size)

    basis = jnp.linalg.qr(jax.random.normal(key, (flat.size, block), flat.dtype))[0]
    for iteration in range(1, max_iterations + 1):
        images = [ravel_pytree(matvec(unravel(column)))[0] for column in basis.T]
        values, vectors, residuals, basis = _rayleigh_ritz(basis, jnp.stack(images, axis=1))
        if on_iteration is not None:
            on_iteration(iteration)
        converged = bool((residuals[:num_pairs] <= tolerance * jnp.abs(values[0])).all())
        if converged:
            break
    wanted = jax.vmap(unravel)(vectors[:, :num_pairs].T)
    return EigenPairs(values[:num_pairs], wanted, residuals[:num_pairs], iteration, converged)


@jax.jit
@in_float32
def _rayleigh_ritz(basis: jax.Array, images: jax.Array) -> tuple[jax.Array, ...]:
    """Ritz values, vectors and residuals of `basis` `[P, b]` with its images under A, and the next basis."""
    projected = basis.T @ images
    values, rotation = jnp.linalg.eigh((projected + projected.T) / 2)
    order = jnp.argsort(-jnp.abs(values))
    values, rotation = values[order], rotation[:, order]
    vectors, images = basis @ rotation, images @ rotation
    residuals = jnp.linalg.norm(images - vectors * values[None, :], axis=0)
    return values, vectors, residuals, jnp.linalg.qr(images)[0]
