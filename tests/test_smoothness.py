"""The Fisher matrix of a network in parts, against that of the whole batch at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import assert_trees_close, conv_net, dense_fisher, make_log_prob_fn

from fip_jax import fisher
from fip_jax.network import FunctionNetwork, RelativeNetwork
from fip_jax.smoothness import Smoothness, chunks, mean_over_chunks

RTOL = 1e-9
NUM = 7


@pytest.mark.parametrize(
    "total, chunk_size, sizes",
    [
        # As few parts as the limit allows, of sizes that differ by one at most.
        (7, 3, [2, 2, 3]),
        (65, 64, [32, 33]),
        (128, 64, [64, 64]),
        (5, 64, [5]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_chunks_cover_the_batch_in_order(total, chunk_size, sizes):
    batch = {"image": np.arange(total) * 10, "label": np.arange(total)}
    found = list(chunks(batch, chunk_size))
    assert [len(chunk["label"]) for chunk in found] == sizes
    assert np.concatenate([chunk["label"] for chunk in found]).tolist() == list(range(total))
    assert all((chunk["image"] == 10 * chunk["label"]).all() for chunk in found)


@pytest.mark.parametrize("total", [100, 101, 127])
@pytest.mark.parametrize("chunk_size", [7, 10, 33])
def test_chunks_are_nearly_equal_and_within_the_limit(total, chunk_size):
    lengths = [len(chunk) for chunk in chunks(np.arange(total), chunk_size)]
    assert sum(lengths) == total
    assert max(lengths) <= chunk_size
    assert max(lengths) - min(lengths) <= 1


def test_the_mean_weighs_chunks_by_their_examples():
    # Chunks (0, 1), (2, 3), (4, 5, 6): means 0.5, 2.5, 5, together 21 / 7; the plain mean would be 8 / 3.
    found = mean_over_chunks(lambda chunk: {"m": jnp.mean(chunk)}, jnp.arange(7.0), 3)
    np.testing.assert_allclose(found["m"], 3.0, rtol=1e-6)


@pytest.fixture
def case(x64):
    """(network, params, model_state, batch, log-likelihood) in double precision."""
    network, params, model_state, batch = conv_net(NUM)
    log_prob_fn = make_log_prob_fn(network)
    return network, params, model_state, batch, lambda p, example: log_prob_fn(p, model_state, example)


@pytest.mark.parametrize("chunk_size", [3, 64])
def test_trace_and_diagonal_equal_those_of_the_whole_batch(case, chunk_size):
    # Seven examples in parts of 2, 2 and 3, or at once.
    network, params, model_state, batch, log_prob_fn = case
    smoothness = Smoothness(network, batch, chunk_size)
    expected = jax.jit(lambda p: fisher.diagonal(log_prob_fn, p, batch))(params)
    diagonal = smoothness.diagonal(params, model_state)
    assert_trees_close(diagonal, expected, RTOL, 1e-15)
    trace = smoothness.trace(params, model_state)
    assert isinstance(trace, float)
    np.testing.assert_allclose(trace, ravel_pytree(expected)[0].sum(), rtol=RTOL)


def test_top_eigenvalues_are_those_of_the_matrix(case):
    network, params, model_state, batch, log_prob_fn = case
    found = Smoothness(network, batch, 3).top_eigenvalues(
        params, model_state, jax.random.key(0), num_pairs=2, tolerance=1e-8, max_iterations=200
    )
    assert found.converged
    expected = np.linalg.eigvalsh(dense_fisher(log_prob_fn, params, batch))[::-1][:2]
    np.testing.assert_allclose(found.values, expected, rtol=1e-7)


def test_the_whole_fisher_spectrum_is_that_of_the_matrix(case):
    network, params, model_state, batch, log_prob_fn = case
    values, vector = Smoothness(network, batch, 3).fisher_spectrum(params, model_state)
    dense_values, dense_vectors = np.linalg.eigh(dense_fisher(log_prob_fn, params, batch))
    assert values.shape == (NUM,)
    np.testing.assert_allclose(values, dense_values[-NUM:], rtol=1e-8, atol=1e-12 * dense_values[-1])
    # A unit vector, of either sign.
    np.testing.assert_allclose(abs(ravel_pytree(vector)[0] @ dense_vectors[:, -1]), 1, rtol=1e-9)
    np.testing.assert_allclose(jnp.linalg.norm(ravel_pytree(vector)[0]), 1, rtol=1e-9)


def test_a_fisher_spectrum_of_gradients_that_are_not_finite_is_refused(case):
    network, params, model_state, batch, _ = case
    spoilt = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    with pytest.raises(FloatingPointError, match="not finite"):
        Smoothness(network, batch, 3).fisher_spectrum(spoilt, model_state)


def test_hessian_in_parts_equals_the_dense_one(case):
    network, params, model_state, batch, log_prob_fn = case
    flat, unravel = ravel_pytree(params)

    def loss(theta):
        return -jax.vmap(log_prob_fn, in_axes=(None, 0))(unravel(theta), batch).mean()

    dense = np.asarray(jax.jit(jax.hessian(loss))(flat))
    smoothness = Smoothness(network, batch, 3)
    np.testing.assert_allclose(smoothness.loss(params, model_state), loss(flat), rtol=RTOL)
    vector = np.random.default_rng(0).normal(size=flat.size)
    found = smoothness.product(params, model_state, unravel(jnp.asarray(vector)), "hessian")
    expected = dense @ vector
    np.testing.assert_allclose(ravel_pytree(found)[0], expected, rtol=1e-8, atol=1e-8 * abs(expected).max())
    eigenvalues = np.linalg.eigvalsh(dense)
    largest = eigenvalues[np.abs(eigenvalues).argmax()]
    top = smoothness.top_eigenvalues(
        params, model_state, jax.random.key(0), "hessian", tolerance=1e-6, max_iterations=300
    )
    np.testing.assert_allclose(top.values[0], largest, rtol=1e-6)
    density = smoothness.density(params, model_state, jax.random.key(0), num_steps=12, num_probes=1)
    np.testing.assert_allclose(density.nodes.max(), eigenvalues[-1], rtol=1e-3)
    assert density.size == flat.size


def test_parameters_and_statistics_are_arguments(case):
    # One compiled function for the network before and after its purification.
    network, params, model_state, batch, _ = case
    used, fresh = Smoothness(network, batch, 64), Smoothness(network, batch, 64)
    before = used.trace(params, model_state)
    larger = jax.tree.map(lambda leaf: 1.5 * leaf, (params, model_state))
    for changed in ((larger[0], model_state), (params, larger[1])):
        after = used.trace(*changed)
        assert after == fresh.trace(*changed)
        assert abs(after - before) > 1e-3 * before


def test_relative_changes_of_the_weights_equal_the_scaled_matrix(case):
    network, params, model_state, batch, log_prob_fn = case
    relative = Smoothness(RelativeNetwork(network), batch, 3)
    at = RelativeNetwork.at(params, model_state)
    theta = np.asarray(ravel_pytree(params)[0])
    scaled = theta[:, None] * np.asarray(dense_fisher(log_prob_fn, params, batch)) * theta
    np.testing.assert_allclose(relative.trace(*at), np.trace(scaled), rtol=RTOL)
    top = relative.top_eigenvalues(*at, jax.random.key(0), tolerance=1e-8, max_iterations=200)
    np.testing.assert_allclose(top.values[0], np.linalg.eigvalsh(scaled)[-1], rtol=1e-6)


def test_relative_sharpness_does_not_see_the_scale_before_a_relu(x64):
    # One hidden layer: 4 times the first weights and a quarter of the second are the same function.
    batch = {
        "image": jnp.ones((3, 1, 1, 2)) * jnp.arange(1.0, 4.0).reshape(3, 1, 1, 1),
        "label": jnp.array([0, 1, 1]),
    }
    network = FunctionNetwork(lambda p, x: jax.nn.relu(x.reshape(len(x), -1) @ p["a"]) @ p["b"])
    one = {"a": jnp.array([[1.0, 0.5], [0.3, 2.0]]), "b": jnp.array([[0.2, -1.0], [0.7, 0.1]])}
    other = {"a": 4 * one["a"], "b": one["b"] / 4}
    relative, absolute = Smoothness(RelativeNetwork(network), batch, 3), Smoothness(network, batch, 3)
    np.testing.assert_allclose(
        relative.trace(*RelativeNetwork.at(one, {})),
        relative.trace(*RelativeNetwork.at(other, {})),
        rtol=1e-12,
    )
    assert abs(absolute.trace(one, {}) / absolute.trace(other, {}) - 1) > 0.5
