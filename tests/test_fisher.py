"""Everything Fisher against the dense matrix in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.flatten_util import ravel_pytree
from oracles import assert_trees_close, conv_net_log_prob, dense_fisher, mlp, over_batch, take

from fip_jax import fisher

# Rounding of a network a few layers deep.
TOLERANCE = 1e4 * np.finfo(np.float64).eps

NETWORKS = {"mlp": mlp, "conv_net": conv_net_log_prob}


@pytest.fixture(scope="module", params=NETWORKS)
def problem(request):
    """(log_prob_fn, params, batch, dense F) in float64, 5 examples. The test has to ask for x64 too."""
    with jax.enable_x64(True):
        log_prob_fn, params, batch = NETWORKS[request.param](num=5)
        return log_prob_fn, params, batch, dense_fisher(log_prob_fn, params, batch)


def probe_samples(log_prob_fn, params, batch, num, num_probes=1):
    keys = jax.random.split(jax.random.key(0), num)
    estimate = jax.jit(
        jax.vmap(lambda key: fisher.estimate_trace(over_batch(log_prob_fn), params, batch, key, num_probes))
    )
    return np.asarray(estimate(keys))


@pytest.mark.parametrize(
    "problem, chunk_size",
    [("mlp", None), ("mlp", 1), ("mlp", 2), ("mlp", 9), ("conv_net", None), ("conv_net", 2)],
    indirect=["problem"],
)
def test_trace_diagonal_and_product_equal_the_dense_matrix(problem, x64, chunk_size):
    log_prob_fn, params, batch, dense = problem
    flat, unravel = ravel_pytree(params)
    vector = jnp.asarray(np.random.default_rng(1).normal(size=flat.size))

    @jax.jit
    def everything(params, batch):
        return (
            fisher.trace(log_prob_fn, params, batch, chunk_size),
            fisher.diagonal(log_prob_fn, params, batch, chunk_size),
            fisher.product(log_prob_fn, params, batch, unravel(vector), chunk_size),
        )

    trace, diagonal, product = everything(params, batch)
    atol = TOLERANCE * float(jnp.trace(dense))
    np.testing.assert_allclose(trace, jnp.trace(dense), rtol=TOLERANCE)
    assert_trees_close(diagonal, unravel(jnp.diag(dense)), TOLERANCE, atol)
    np.testing.assert_allclose(ravel_pytree(diagonal)[0].sum(), trace, rtol=TOLERANCE)
    assert_trees_close(product, unravel(dense @ vector), TOLERANCE, atol)


def test_functions_run_under_jit_in_float32(x64):
    log_prob_fn, params, batch = mlp(num=5)
    dense = dense_fisher(log_prob_fn, params, batch)
    log_prob_fn, params, batch = mlp(num=5, dtype=np.float32)
    tolerance = 100 * float(np.finfo(np.float32).eps)
    trace = jax.jit(lambda p, b: fisher.trace(log_prob_fn, p, b, 2))(params, batch)
    assert trace.dtype == jnp.float32
    np.testing.assert_allclose(trace, jnp.trace(dense), rtol=tolerance)
    product = jax.jit(lambda p, b: fisher.product(log_prob_fn, p, b, p, 2))(params, batch)
    expected = dense @ ravel_pytree(params)[0].astype(jnp.float64)
    found = ravel_pytree(product)[0]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("problem", ["mlp"], indirect=True)
def test_product_is_linear_symmetric_and_positive_semidefinite(problem, x64):
    log_prob_fn, params, batch, dense = problem
    flat, unravel = ravel_pytree(params)
    u, v = jnp.asarray(np.random.default_rng(2).normal(size=(2, flat.size)))

    @jax.jit
    def product(vector):
        return ravel_pytree(fisher.product(log_prob_fn, params, batch, unravel(vector)))[0]

    atol = TOLERANCE * float(jnp.trace(dense))
    np.testing.assert_allclose(product(2 * u - 3 * v), 2 * product(u) - 3 * product(v), 0, 10 * atol)
    np.testing.assert_allclose(u @ product(v), v @ product(u), rtol=1e-10)
    assert u @ product(u) > 0
    # The null space: with 5 examples the rank is at most 5, so most directions have none of F.
    null = jnp.linalg.svd(dense)[2][-1]
    np.testing.assert_allclose(product(null), 0, atol=atol)


def test_estimated_trace_is_unbiased(problem, x64):
    log_prob_fn, params, batch, dense = problem
    samples = probe_samples(log_prob_fn, params, batch, 2000)
    assert (samples >= 0).all()
    standard_error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert standard_error > 0
    # The interval is narrow enough to tell a missing 1 / N (a factor of 5).
    assert 4 * standard_error < 0.5 * jnp.trace(dense)
    assert abs(samples.mean() - jnp.trace(dense)) < 4 * standard_error


def test_gradient_of_the_estimate_is_unbiased(x64):
    log_prob_fn, params, batch = mlp(num=4)
    exact = jax.grad(lambda p: jnp.trace(dense_fisher(log_prob_fn, p, batch)))(params)
    keys = jax.random.split(jax.random.key(1), 4000)
    one = jax.grad(lambda p, key: fisher.estimate_trace(over_batch(log_prob_fn), p, batch, key))
    samples = jax.jit(jax.vmap(lambda key: ravel_pytree(one(params, key))[0]))(keys)
    standard_error = samples.std(axis=0, ddof=1) / np.sqrt(len(keys))
    distance = jnp.abs(samples.mean(axis=0) - ravel_pytree(exact)[0])
    assert (distance < 4 * standard_error).all()
    # And the mean is far from zero, so that the interval says something.
    assert jnp.linalg.norm(exact["first"]["kernel"]) > 20 * jnp.linalg.norm(standard_error[4:24])


def test_gradient_of_the_exact_trace(x64):
    log_prob_fn, params, batch = mlp(num=4)
    expected = jax.grad(lambda p: jnp.trace(dense_fisher(log_prob_fn, p, batch)))(params)
    found = jax.jit(jax.grad(lambda p: fisher.trace(log_prob_fn, p, batch, 3)))(params)
    assert_trees_close(found, expected, TOLERANCE, TOLERANCE)


def test_averaging_probes_divides_the_variance(x64):
    log_prob_fn, params, batch = mlp(num=5)
    one = probe_samples(log_prob_fn, params, batch, 3000)
    eight = probe_samples(log_prob_fn, params, batch, 3000, num_probes=8)
    # 3000 samples estimate a variance to a few per cent.
    assert 0.8 < 8 * eight.var() / one.var() < 1.25
    assert abs(eight.mean() - one.mean()) < 4 * np.sqrt((one.var() + eight.var()) / 3000)


@pytest.mark.parametrize("problem", ["mlp"], indirect=True)
def test_estimate_for_one_example_is_exact(problem, x64):
    log_prob_fn, params, batch, _ = problem
    alone = jax.tree.map(lambda leaf: leaf[:1], batch)
    gradient = jax.jit(jax.grad(log_prob_fn))(params, take(batch, 0))
    expected = sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose(probe_samples(log_prob_fn, params, alone, 4), expected, rtol=TOLERANCE)


def test_estimate_depends_on_the_key_alone(x64):
    log_prob_fn, params, batch = mlp()
    estimate = jax.jit(lambda key: fisher.estimate_trace(over_batch(log_prob_fn), params, batch, key))
    found = [estimate(jax.random.key(seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_the_sign_of_the_log_likelihood_does_not_matter(x64):
    log_prob_fn, params, batch = mlp()

    def everything(fn):
        key = jax.random.key(0)
        return (
            fisher.trace(fn, params, batch, 3),
            fisher.diagonal(fn, params, batch, 3),
            fisher.product(fn, params, batch, params, 3),
            fisher.estimate_trace(over_batch(fn), params, batch, key, 2),
        )

    found = jax.jit(everything, static_argnums=0)(lambda p, example: -log_prob_fn(p, example))
    expected = jax.jit(everything, static_argnums=0)(log_prob_fn)
    assert_trees_close(found, expected, TOLERANCE, TOLERANCE)


def intermediates(jaxpr):
    """Sizes of everything a jaxpr computes, inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield from (np.prod(out.aval.shape, dtype=int) for out in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from intermediates(inner)


def test_product_and_estimate_form_no_per_example_gradient():
    log_prob_fn, params, batch = mlp(num=50, dtype=np.float32)
    # One per-example gradient of the first kernel would be [50, 5, 4]; the activations are [50, 5] at most.
    limit = 50 * 20

    def largest(fn):
        return max(intermediates(jax.make_jaxpr(fn)(params, batch).jaxpr))

    key = jax.random.key(0)
    assert largest(lambda p, b: fisher.product(log_prob_fn, p, b, p)) < limit
    assert largest(lambda p, b: fisher.estimate_trace(over_batch(log_prob_fn), p, b, key)) < limit
    # The check itself sees per-example gradients where there are some.
    assert largest(lambda p, b: fisher.diagonal(log_prob_fn, p, b)) >= limit
    # Chunks bound them: 10 at a time.
    assert largest(lambda p, b: fisher.diagonal(log_prob_fn, p, b, 10)) < limit
