"""Lanczos, densities and traces against matrices with known spectra, and the Hessian against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import mlp, over_batch

from fip_jax import hessian, spectrum

KEY = jax.random.key(3)


def operator(eigenvalues):
    """A symmetric matrix with these eigenvalues, as products on a pytree."""
    size = len(eigenvalues)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))
    matrix = jnp.asarray(rotation * np.asarray(eigenvalues) @ rotation.T)
    like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(size - 6)}
    unravel = ravel_pytree(like)[1]
    return lambda tree: unravel(matrix @ ravel_pytree(tree)[0]), like, np.asarray(matrix)


def test_all_steps_find_all_eigenvalues(x64):
    eigenvalues = np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 5.0, 40.0])
    matvec, like, matrix = operator(eigenvalues)
    start = spectrum.probes(like, KEY, 1)[0]
    nodes, weights, residuals = spectrum.lanczos(matvec, start, 8).quadrature()
    np.testing.assert_allclose(nodes, eigenvalues, atol=1e-10)
    # The weights are the squared components of the start in the eigenvectors.
    components = np.linalg.eigh(matrix)[1].T @ ravel_pytree(start)[0] / np.sqrt(8)
    np.testing.assert_allclose(weights, components**2, atol=1e-10)
    assert residuals.max() < 1e-9


def test_residuals_bound_the_distance_to_an_eigenvalue(x64):
    eigenvalues = np.r_[np.linspace(0, 1, 37), [7.0, 9.0, -4.0]]
    matvec, like, _ = operator(eigenvalues)
    for steps in (3, 6, 12):
        nodes, _, residuals = spectrum.lanczos(matvec, spectrum.probes(like, KEY, 1)[0], steps).quadrature()
        assert len(nodes) == steps
        distances = np.abs(nodes[:, None] - eigenvalues).min(axis=1)
        assert (distances <= residuals + 1e-12).all()
    assert residuals[-1] < 1e-3  # the largest has converged; in the bulk none can
    assert residuals.max() > 1e-2


def test_lanczos_equals_matfree(x64):
    decomp = pytest.importorskip("matfree.decomp")
    matvec, like, matrix = operator(np.random.default_rng(1).normal(size=30))
    start = spectrum.probes(like, KEY, 1)[0]
    found = spectrum.lanczos(matvec, start, 9)
    vector = ravel_pytree(start)[0]
    result = decomp.tridiag_sym(9, materialize=True)(
        lambda v: jnp.asarray(matrix) @ v, vector / jnp.linalg.norm(vector)
    )
    expected = np.asarray(result.J_small)
    np.testing.assert_allclose(found.diagonal, np.diag(expected), rtol=1e-9)
    np.testing.assert_allclose(found.off_diagonal[:-1], np.abs(np.diag(expected, 1)), rtol=1e-9)


def test_an_invariant_subspace_ends_the_steps(x64):
    matvec, like, _ = operator(np.array([2.0] * 5 + [7.0] * 5))
    found = spectrum.lanczos(matvec, spectrum.probes(like, KEY, 1)[0], 6)
    assert len(found.diagonal) == 2
    np.testing.assert_allclose(found.quadrature()[0], [2, 7], rtol=1e-10)
    density = spectrum.density(matvec, like, KEY, num_steps=6, num_probes=3)
    assert density.weights.shape == (3, 2)


def test_density_is_the_blurred_histogram(x64):
    eigenvalues = np.r_[
        np.random.default_rng(2).normal(size=290), 5 + np.random.default_rng(3).normal(size=110) / 4
    ]
    matvec, like, _ = operator(eigenvalues)
    density = spectrum.density(matvec, like, KEY, num_steps=40, num_probes=16)
    np.testing.assert_allclose(density.weights.sum(axis=1), 1, rtol=1e-10)
    grid = np.linspace(-4, 8, 49)
    found, error = density.on(grid, 0.3)
    exact = (
        np.exp(-(((grid[:, None] - eigenvalues) / 0.3) ** 2) / 2).sum(axis=1)
        / (0.3 * np.sqrt(2 * np.pi))
        / 400
    )
    assert (np.abs(found - exact) < 5 * error + 1e-3).all()
    assert np.abs(found - exact).max() < 0.03  # of a density that reaches 0.27
    assert exact.max() > 0.25
    trace = density.trace()
    assert abs(trace.value - eigenvalues.sum()) < 4 * trace.standard_error
    # The first moment of a quadrature is exact: each probe is Hutchinson's estimate.
    hutchinson = spectrum.trace(matvec, like, KEY, 16)
    np.testing.assert_allclose(trace, hutchinson, rtol=1e-9)


def test_standard_error_by_hand(x64):
    # Diagonal matrices have no error: v^T A v is the trace for every vector of signs.
    like = jnp.zeros(3)
    found = spectrum.trace(lambda v: jnp.array([1.0, 2.0, 4.0]) * v, like, KEY, 5)
    assert found == (7.0, 0.0)
    # v^T A v = 2 v_1 v_2 is 2 or -2.
    signs = [float(2 * v[0] * v[1]) for v in spectrum.probes(jnp.zeros(2), KEY, 6)]
    assert set(signs) == {2.0, -2.0}
    found = spectrum.trace(lambda v: v[::-1], jnp.zeros(2), KEY, 6)
    np.testing.assert_allclose(found, (np.mean(signs), np.std(signs, ddof=1) / np.sqrt(6)), rtol=1e-12)
    assert spectrum.trace(lambda v: v, like, KEY, 1).standard_error == np.inf


def test_steps_are_checked():
    with pytest.raises(ValueError, match="num_steps: expected at least 1, found 0"):
        spectrum.lanczos(lambda v: v, jnp.ones(3), 0)


def test_hessian_product_equals_the_dense_matrix(x64):
    log_prob_fn, params, batch = mlp(num=6)

    def loss_fn(p, data):
        return -over_batch(log_prob_fn)(p, data).mean()

    flat, unravel = ravel_pytree(params)
    dense = jax.hessian(lambda theta: loss_fn(unravel(theta), batch))(flat)
    vector = unravel(jnp.asarray(np.random.default_rng(0).normal(size=flat.size)))
    found = jax.jit(lambda p, v: hessian.product(loss_fn, p, batch, v))(params, vector)
    np.testing.assert_allclose(ravel_pytree(found)[0], dense @ ravel_pytree(vector)[0], rtol=1e-9, atol=1e-12)
    with pytest.raises(AssertionError):
        hessian.product(loss_fn, params, batch, jax.tree.map(jnp.float32, vector))
