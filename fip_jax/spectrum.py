r"""The whole spectrum of a symmetric operator that is known by its products alone, by stochastic Lanczos quadrature.

For a random unit vector v, k steps of Lanczos give a tridiagonal matrix whose eigenvalues (nodes) and squared first
components of eigenvectors (weights) are the k-point Gauss quadrature of the measure
:math:`\sum_i (v^\top u_i)^2 \delta(\lambda - \lambda_i)`, the mean of which over v is the spectral density.

The loop runs on the host, product by product: XLA's CPU convolutions are many times slower inside of a compiled loop.

Source: Ghorbani et al. (2019), "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density", ICML;
Ubaru et al. (2017), SIAM J. Matrix Anal. Appl. 38(4).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike
from scipy.linalg import eigh_tridiagonal

from fip_jax.per_example import PyTree
from fip_jax.precision import in_float32

MatVec = Callable[[PyTree], PyTree]


class Estimate(NamedTuple):
    """A mean over independent probes.

    Attributes:
      value: the mean.
      standard_error: of the mean, by the spread of the probes; infinite for one probe.
    """

    value: float
    standard_error: float


class Tridiagonal(NamedTuple):
    """What Lanczos made of an operator.

    Attributes:
      diagonal: float64 `[k]`.
      off_diagonal: float64 `[k]`; the last one is the norm of what did not fit.
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray

    def quadrature(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(nodes, weights, residuals), `[k]` each, by rising node.

        Each node is a Ritz value, and lies within its residual of a true eigenvalue.

        Raises:
          FloatingPointError: an entry is not finite.
        """
        if not (np.isfinite(self.diagonal).all() and np.isfinite(self.off_diagonal).all()):
            raise FloatingPointError("products of the matrix are not finite")
        nodes, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal[:-1])
        return nodes, vectors[0] ** 2, self.off_diagonal[-1] * np.abs(vectors[-1])


class Density(NamedTuple):
    """A spectral density, as quadratures.

    Attributes:
      nodes: `[num_probes, num_steps]`.
      weights: `[num_probes, num_steps]`, each row sums to 1.
      size: P, the number of eigenvalues.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int

    def on(self, grid: ArrayLike, width: float) -> tuple[np.ndarray, np.ndarray]:
        """The density blurred by a Gaussian of standard deviation `width`: (mean, standard error), like `grid`."""
        distances = (np.asarray(grid)[:, None, None] - self.nodes) / width
        kernels = np.exp(-0.5 * distances**2) / (np.sqrt(2 * np.pi) * width)
        probes = (kernels * self.weights).sum(axis=-1)
        return probes.mean(axis=1), _standard_error(probes, axis=1)

    def trace(self) -> Estimate:
        """The trace, P times the mean of the density."""
        probes = self.size * (self.nodes * self.weights).sum(axis=1)
        return Estimate(float(probes.mean()), float(_standard_error(probes, axis=0)))


def lanczos(
    matvec: MatVec, start: PyTree, num_steps: int, on_step: Callable[[int], None] | None = None
) -> Tridiagonal:
    """Lanczos with full reorthogonalisation; holds `num_steps` vectors.

    Args:
      matvec: a symmetric linear operator on pytrees like `start`.
      start: pytree of floating-point arrays of one dtype, not zero.
      num_steps: products, at most; fewer where the space is exhausted sooner.
      on_step: called with the number of products taken.

    Raises:
      ValueError: `num_steps` is less than 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: expected at least 1, found {num_steps}")
    flat, unravel = ravel_pytree(start)
    basis = (
        jnp.zeros((min(num_steps, flat.size), flat.size), flat.dtype).at[0].set(flat / jnp.linalg.norm(flat))
    )
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for step in range(len(basis)):
        image, _ = ravel_pytree(matvec(unravel(basis[step])))
        alpha, beta, rest = _orthogonalise(basis, basis[step], image)
        diagonal.append(float(alpha))
        off_diagonal.append(float(beta))
        if on_step is not None:
            on_step(step + 1)
        # What is left is rounding: an invariant subspace.
        if off_diagonal[-1] <= 100 * float(jnp.finfo(flat.dtype).eps) * max(
            map(abs, diagonal + off_diagonal)
        ):
            break
        if step + 1 < len(basis):
            basis = basis.at[step + 1].set(rest)
    return Tridiagonal(np.array(diagonal), np.array(off_diagonal))


@jax.jit
@in_float32
def _orthogonalise(
    basis: jax.Array, last: jax.Array, image: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    alpha = last @ image
    for _ in range(2):  # once is not enough in floating point
        image = image - basis.T @ (basis @ image)
    beta = jnp.linalg.norm(image)
    return alpha, beta, image / jnp.where(beta > 0, beta, 1)


def density(
    matvec: MatVec,
    like: PyTree,
    key: jax.Array,
    *,
    num_steps: int = 50,
    num_probes: int = 2,
    on_step: Callable[[int], None] | None = None,
) -> Density:
    """The spectral density of an operator.

    Args:
      matvec: a symmetric linear operator on pytrees like `like`.
      like: pytree of floating-point arrays of one dtype; its values are not used.
      key: PRNG key of the probes.
      num_steps: products a probe.
      num_probes: random start vectors, with entries of -1 and 1.
      on_step: called with the number of products taken, of num_probes times num_steps.

    Returns:
      `Density`. Rows of probes that exhausted the space sooner are padded with nodes of weight 0.
    """
    rows = []
    for index, probe in enumerate(probes(like, key, num_probes)):

        def follow(step: int, index: int = index) -> None:
            if on_step is not None:
                on_step(index * num_steps + step)

        rows.append(lanczos(matvec, probe, num_steps, follow).quadrature()[:2])
    longest = max(len(nodes) for nodes, _ in rows)
    padded = [[np.pad(part, (0, longest - len(part))) for part in row] for row in rows]
    nodes, weights = (np.stack(part) for part in zip(*padded, strict=True))
    return Density(nodes, weights, sum(leaf.size for leaf in jax.tree.leaves(like)))


def trace(matvec: MatVec, like: PyTree, key: jax.Array, num_probes: int = 10) -> Estimate:
    """Hutchinson's estimate of the trace; `like` and `key` as of `density`. One product a probe."""
    found = [
        float(in_float32(jnp.vdot)(ravel_pytree(probe)[0], ravel_pytree(matvec(probe))[0]))
        for probe in probes(like, key, num_probes)
    ]
    return Estimate(float(np.mean(found)), float(_standard_error(np.array(found), axis=0)))


def probes(like: PyTree, key: jax.Array, num_probes: int) -> list[PyTree]:
    """Pytrees like `like` with entries of -1 and 1."""
    flat, unravel = ravel_pytree(like)
    return [
        unravel(jax.random.rademacher(k, flat.shape, flat.dtype)) for k in jax.random.split(key, num_probes)
    ]


def _standard_error(values: np.ndarray, axis: int) -> np.ndarray:
    count = values.shape[axis]
    if count == 1:
        return np.full(np.delete(values.shape, axis), np.inf)
    return values.std(axis=axis, ddof=1) / np.sqrt(count)
