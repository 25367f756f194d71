"""Block power iteration on matrices of known spectrum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import mlp, score_matrix

from fip_jax import fisher
from fip_jax.eigen import power_iteration

KEY = jax.random.key(0)


def with_spectrum(values, seed=0):
    """Q diag(values) Q^T in float64 on the host, with a random rotation Q."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return (rotation * np.asarray(values)) @ rotation.T


multiply = jax.jit(jnp.matmul)


def iterate(matrix, dtype=np.float64, **options):
    matrix = jnp.asarray(matrix, dtype)
    return power_iteration(functools.partial(multiply, matrix), jnp.zeros(len(matrix), dtype), KEY, **options)


def check(pairs, matrix, expected, tolerance):
    """Converged, to `expected`, with orthonormal eigenvectors and the residuals that it says."""
    dtype = pairs.values.dtype
    rounding = 100 * np.finfo(dtype).eps
    scale = max(np.abs(expected).max(), np.finfo(dtype).tiny)
    assert pairs.converged
    found, vectors = np.asarray(pairs.values, np.float64), np.asarray(pairs.vectors, np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=(tolerance + rounding) * scale)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=rounding)
    residuals = np.linalg.norm(matrix @ vectors.T - vectors.T * found, axis=0)
    np.testing.assert_allclose(pairs.residuals, residuals, rtol=0, atol=rounding * scale)
    assert (residuals <= (tolerance + rounding) * scale).all()


SPECTRA = {
    "falling": ([9.0, 5.0, 3.0, 1.0, 0.2, 0.0], 2),
    "tie at the top": ([4.0, 4.0, 4.0, 1.0, 0.5, 0.0], 2),
    "tie across the wanted ones' end": ([4.0, 2.0, 2.0, 2.0, 2.0, 0.5], 2),
    "rank one": ([3.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2),
    "negative": ([-7.0, -3.0, -1.0, -0.5, -0.1, 0.0], 2),
    "indefinite": ([-6.0, 4.0, -2.0, 1.0, 0.5, 0.1], 2),
    "all of them": ([5.0, -4.0, 3.0, -2.0, 1.0, 0.0], 6),
    "one entry": ([-3.0], 1),
}


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(x64, name, dtype, tolerance):
    values, num_pairs = SPECTRA[name]
    matrix = with_spectrum(values).astype(dtype).astype(np.float64)
    pairs = iterate(matrix, dtype, num_pairs=num_pairs, tolerance=tolerance, max_iterations=300)
    assert pairs.values.dtype == pairs.vectors.dtype == pairs.residuals.dtype == dtype
    check(pairs, matrix, values[:num_pairs], tolerance)


@pytest.mark.parametrize("values", [[3.0, -3.0, 1.0, 0.5], [2.0, -2.0, 2.0, 0.1]])
def test_opposite_eigenvalues_share_the_block(x64, values):
    # Which comes first of +3 and -3 is a matter of rounding.
    num_pairs = sum(abs(v) == abs(values[0]) for v in values)
    pairs = iterate(with_spectrum(values), num_pairs=num_pairs, tolerance=1e-10)
    assert pairs.converged
    np.testing.assert_allclose(sorted(pairs.values), sorted(values[:num_pairs]), rtol=1e-9)


def test_opposite_eigenvalue_in_the_guards(x64):
    pairs = iterate(with_spectrum([3.0, -3.0, 1.0, 0.5]), num_pairs=1, num_guards=1, tolerance=1e-10)
    assert pairs.converged
    np.testing.assert_allclose(abs(pairs.values[0]), 3.0, rtol=1e-9)


def test_opposite_eigenvalue_outside_of_the_block_is_reported(x64):
    # One vector alone swings between v+ + v- and v+ - v- for ever.
    pairs = iterate(with_spectrum([3.0, -3.0, 1.0]), num_pairs=1, num_guards=0, max_iterations=50)
    assert not pairs.converged
    assert pairs.num_iterations == 50
    # The bound of the residual holds nevertheless.
    assert 3 - abs(pairs.values[0]) <= pairs.residuals[0]


def test_too_few_iterations_are_reported(x64):
    pairs = iterate(with_spectrum([1.0, 0.99, 0.98, 0.97, 0.96, 0.95]), max_iterations=2, tolerance=1e-6)
    assert not pairs.converged
    assert pairs.num_iterations == 2
    assert pairs.residuals[0] > 1e-6


def test_zero_matrix(x64):
    pairs = iterate(np.zeros((4, 4)), num_pairs=2)
    assert pairs.converged
    assert pairs.num_iterations == 1
    np.testing.assert_array_equal(pairs.values, [0.0, 0.0])
    np.testing.assert_array_equal(pairs.residuals, [0.0, 0.0])
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(2), atol=1e-14)


def test_an_operator_that_is_not_finite_never_converges(x64):
    assert not iterate(np.full((3, 3), np.nan), max_iterations=3).converged


@pytest.mark.parametrize("seed", range(8))
def test_every_value_lies_within_its_residual_of_an_eigenvalue(x64, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(6, 6))
    matrix = matrix + matrix.T
    pairs = iterate(matrix, num_pairs=2, max_iterations=2, tolerance=0.0)
    assert not pairs.converged
    distances = np.abs(np.asarray(pairs.values)[:, None] - np.linalg.eigvalsh(matrix)).min(axis=1)
    assert (distances <= np.asarray(pairs.residuals) * (1 + 1e-12)).all()
    assert (np.diff(np.abs(pairs.values)) <= 0).all()


def test_pytrees(x64):
    values = [5.0, -2.0, 1.0, 0.5, 0.2, 0.1]
    matrix = jnp.asarray(with_spectrum(values))
    like = {"b": jnp.full((2, 2), jnp.nan), "a": jnp.zeros(2)}  # The values are not used.
    _, unravel = ravel_pytree(like)

    def matvec(tree):
        return unravel(matrix @ ravel_pytree(tree)[0])

    pairs = power_iteration(matvec, like, KEY, num_pairs=2, tolerance=1e-10)
    assert pairs.vectors["a"].shape == (2, 2)
    assert pairs.vectors["b"].shape == (2, 2, 2)
    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(pairs.vectors)
    check(pairs._replace(vectors=flat), matrix, values[:2], 1e-10)


def test_on_iteration_counts(x64):
    seen = []
    pairs = iterate(with_spectrum([2.0, 1.0, 0.5, 0.1]), tolerance=1e-8, on_iteration=seen.append)
    assert seen == list(range(1, pairs.num_iterations + 1))
    assert 1 < pairs.num_iterations < 100


def test_guards_speed_up_convergence(x64):
    # One vector gains 1 / 0.99 an iteration, with two guards 1 / 0.2.
    matrix = with_spectrum([1.0, 0.99, 0.98, 0.2, 0.1, 0.0])
    with_guards = iterate(matrix, num_guards=2, tolerance=1e-6)
    without = iterate(matrix, num_guards=0, tolerance=1e-6)
    assert with_guards.converged
    assert with_guards.num_iterations < 15
    assert not without.converged


@pytest.mark.parametrize("num_pairs", [0, -1, 4])
def test_numbers_of_pairs_that_cannot_be(num_pairs):
    with pytest.raises(ValueError, match="num_pairs: expected 1 to 3"):
        power_iteration(lambda v: v, jnp.zeros(3), KEY, num_pairs=num_pairs)


def test_no_iterations_at_all_are_refused():
    with pytest.raises(ValueError, match="max_iterations"):
        power_iteration(lambda v: v, jnp.zeros(3), KEY, max_iterations=0)


def test_leading_eigenvalues_of_a_fisher_matrix(x64):
    # The nonzero spectrum of F = S^T S / N is that of the Gram matrix S S^T / N.
    log_prob_fn, params, batch = mlp(num=6)
    scores = score_matrix(log_prob_fn, params, batch)
    expected = np.linalg.eigvalsh(scores @ scores.T / len(scores))[::-1]
    matvec = jax.jit(lambda v: fisher.product(log_prob_fn, params, batch, v, 4))
    pairs = power_iteration(matvec, params, KEY, num_pairs=6, tolerance=1e-9, max_iterations=300)
    assert pairs.converged
    np.testing.assert_allclose(pairs.values, expected, rtol=0, atol=1e-9 * expected[0])
    np.testing.assert_allclose(pairs.values.sum(), fisher.trace(log_prob_fn, params, batch), rtol=1e-8)
