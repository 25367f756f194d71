r"""The Fisher matrix of each kernel in a basis that nearly diagonalises it, and what the kernel can do without.

A kernel W `[in, out]` has per-example gradients :math:`G_n` of the same shape. The eigenvectors U of
:math:`\sum_n G_n G_n^\top` and V of :math:`\sum_n G_n^\top G_n` make up a basis of the kernel's space; the diagonal of
its Fisher matrix there, :math:`s_{ij} = \frac{1}{N} \sum_n (U^\top G_n V)_{ij}^2`, is exact. In the weights' own basis
the diagonal cannot tell a pattern that images never show, such as a checkerboard, from one that all of them show: both
touch every weight of a filter.

The part of :math:`W' = U^\top W V` that the examples do not hold up is :math:`r_{ij} W'_{ij}` with

.. math:: r_{ij} = \frac{1}{1 + (s_{ij} / m)^p}

and the m at which to take it away changes the scores by as much as is allowed, to second order:
:math:`\sum_{ij} s_{ij} (r_{ij} W'_{ij})^2`. With p = 1 that is ridge regression on what the layer does, a Wiener
filter.

Sources: George et al. (2018), "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis",
NeurIPS, https://arxiv.org/abs/1806.03884, for the basis and the diagonal in it; Gupta et al. (2018), "Shampoo", ICML,
https://arxiv.org/abs/1802.09568, for factors that need the gradients alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fip_jax.per_example import ExampleFn, PyTree, num_examples, per_example_gradients

LONGEST = 1200  # side of a matrix whose eigenvectors are taken; those of a longer one would take minutes

Rotation = tuple[
    jax.Array | None, ...
]  # a matrix for each axis of `blocks`, None for one that is left as it is


class KernelFisher(NamedTuple):
    """The Fisher matrix of one kernel.

    Attributes:
      rotation: orthogonal matrices, one for each axis of `blocks(kernel.shape)`; their columns are the basis.
      moments: the diagonal in that basis, of that shape, >= 0.
    """

    rotation: Rotation
    moments: jax.Array


def blocks(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that a kernel is taken as: `(in, out)`, or where that is too long `(places, channels, out)`."""
    rows = math.prod(shape[:-1])
    if rows <= LONGEST or len(shape) == 2:
        return rows, shape[-1]
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def rotate(kernel: jax.Array, rotation: Rotation, *, back: bool = False) -> jax.Array:
    """Coordinates `[..., *blocks]` in the basis, of arrays in the usual one; or the reverse."""
    for axis, matrix in enumerate(rotation, -len(rotation)):
        if matrix is not None:
            turned = jnp.moveaxis(kernel, axis, -1) @ (matrix.T if back else matrix)
            kernel = jnp.moveaxis(turned, -1, axis)
    return kernel


def _kernel_gradients(
    score_fn: ExampleFn, kernels: dict[str, jax.Array], batch: PyTree
) -> dict[str, jax.Array]:
    gradients = per_example_gradients(score_fn, kernels, batch)
    return {name: g.reshape(len(g), *blocks(g.shape[1:])) for name, g in gradients.items()}


def factors(score_fn: ExampleFn, kernels: dict[str, jax.Array], batch: PyTree) -> dict[str, list[jax.Array]]:
    """Mean over the examples of the products of their gradients along each axis of `blocks`.

    Args:
      score_fn: `(kernels, example) -> scalar`.
      kernels: arrays of two axes or more.
      batch: pytree of arrays `[N, ...]`.

    Returns:
      For each kernel a list of matrices `[d, d]`, one for each axis of length d; `[0, 0]` where d is above `LONGEST`.
    """

    def of_axis(g: jax.Array, axis: int) -> jax.Array:
        if g.shape[axis] > LONGEST:
            return jnp.zeros((0, 0), g.dtype)
        rows = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
        return rows @ rows.T / num_examples(batch)

    gradients = _kernel_gradients(score_fn, kernels, batch)
    return {name: [of_axis(g, axis) for axis in range(1, g.ndim)] for name, g in gradients.items()}


def rotations(found: dict[str, list[jax.Array]]) -> dict[str, Rotation]:
    """The eigenvectors of `factors`."""
    return {
        name: tuple(jnp.linalg.eigh(matrix)[1] if matrix.size else None for matrix in matrices)
        for name, matrices in found.items()
    }


def moments(
    score_fn: ExampleFn, kernels: dict[str, jax.Array], batch: PyTree, basis: dict[str, Rotation]
) -> dict[str, jax.Array]:
    """Diagonal of the Fisher matrix of each kernel in a basis, a mean over the examples; arguments as of `factors`."""
    gradients = _kernel_gradients(score_fn, kernels, batch)
    return {name: jnp.square(rotate(g, basis[name])).mean(axis=0) for name, g in gradients.items()}


class KernelGate(NamedTuple):
    """The part of a kernel that is not held up.

    Attributes:
      rotation: as of `KernelFisher`.
      share: r above, in [0, 1], of the shape of its `moments`.
    """

    rotation: Rotation
    share: jax.Array

    def part(self, kernel: jax.Array) -> jax.Array:
        """That part of a kernel, an array like it."""
        turned = rotate(kernel.reshape(blocks(kernel.shape)), self.rotation)
        return rotate(turned * self.share, self.rotation, back=True).reshape(kernel.shape)


def kernel_gate(kernel: jax.Array, fisher: KernelFisher, budget: jax.Array, power: float) -> KernelGate:
    """The gate of a kernel.

    Args:
      kernel: two axes or more.
      fisher: its Fisher matrix.
      budget: scalar, the mean square by which the scores may change, to second order, >= 0; but never more than
        `MOST_SHARE` of what the kernel does in all.
      power: p above, > 0; the larger, the sharper the line between what stays and what goes.
    """
    turned = rotate(kernel.reshape(blocks(kernel.shape)), fisher.rotation)
    return KernelGate(fisher.rotation, _share(turned, fisher.moments, budget, power))


MOST_SHARE = 0.05
_HALVINGS = 60


def _share(turned: jax.Array, moments: jax.Array, budget: jax.Array, power: float) -> jax.Array:
    """r above, by bisection over the logarithm of m."""
    energy = moments * jnp.square(turned)
    allowed = jnp.minimum(budget.astype(energy.dtype), MOST_SHARE * energy.sum())
    top = jnp.maximum(moments.max(), jnp.finfo(moments.dtype).tiny)
    relative = moments / top

    def share(log_middle: jax.Array) -> jax.Array:
        return 1 / (1 + (relative * jnp.exp(-log_middle)) ** power)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        too_much = (energy * jnp.square(share(middle))).sum() > allowed
        return jnp.where(too_much, low, middle), jnp.where(too_much, middle, high)

    # From a millionth of a millionth of the largest moment to a thousand times that.
    ends = jnp.asarray(-27.6, energy.dtype), jnp.asarray(6.9, energy.dtype)
    low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
    return jnp.where(energy.sum() > 0, share(low), 1)
