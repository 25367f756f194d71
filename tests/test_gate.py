"""The decay's gate: each Fisher diagonal against float64 Jacobians, the gate against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import conv_net

from fip_jax import gate, parallel, purify
from fip_jax.objective import Anchor, Objective, Settings
from fip_jax.scores import FISHERS

KEY = jax.random.key(4)
NUM = 7


def case(dtype=np.float64):
    """`conv_net` with logits of the order of 1, so that its probabilities say something."""
    network, params, model_state, batch = conv_net(NUM, dtype)
    scale = 1 / jnp.abs(network(params, model_state, batch["image"])[0]).max()
    params = params | {"linear": jax.tree.map(lambda x: scale * x, params["linear"])}
    return network, params, model_state, batch


def jacobian(network, params, model_state, batch):
    """(logits `[N, C]`, their Jacobian `[N, C, P]`), each image by itself."""
    flat, unravel = ravel_pytree(params)
    of_one = jax.jit(jax.jacrev(lambda theta, x: network(unravel(theta), model_state, x[None])[0][0]))
    logits, _ = network(params, model_state, batch["image"])
    return np.asarray(logits), np.stack([of_one(flat, x) for x in batch["image"]])


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def squared_scores(logits, jacobian, labels):
    """Mean square of d log p(label) / d theta = sum_c (1[c = label] - p_c) dz_c / d theta."""
    weights = np.eye(logits.shape[1])[labels] - softmax(logits)
    return (np.einsum("nc,ncp->np", weights, jacobian) ** 2).mean(axis=0)


def found(kind, chunk_size=3, axis=None, **options):
    network, params, model_state, batch = case()
    tree = gate.fisher_diagonal(
        network, params, model_state, batch, KEY, kind=kind, chunk_size=chunk_size, axis=axis, **options
    )
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    return ravel_pytree(tree)[0]


def test_of_the_labels_of_the_data(x64):
    logits, j = jacobian(*case())
    expected = squared_scores(logits, j, np.asarray(case()[3]["label"]))
    np.testing.assert_allclose(found("empirical"), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_of_labels_drawn_at_a_temperature(x64, temperature):
    logits, j = jacobian(*case())
    labels = np.asarray(jax.random.categorical(KEY, jnp.asarray(logits) / temperature))
    assert len(set(labels)) > 1
    expected = squared_scores(logits, j, labels)
    np.testing.assert_allclose(found("drawn", temperature=temperature), expected, rtol=1e-9, atol=1e-15)


def test_of_random_sums_of_logits(x64):
    _, j = jacobian(*case())
    signs = np.asarray(jax.random.rademacher(KEY, (NUM, 3), jnp.float64))
    assert set(np.unique(signs)) == {-1, 1}
    expected = (np.einsum("nc,ncp->np", signs / np.sqrt(3), j) ** 2).mean(axis=0)
    np.testing.assert_allclose(found("logits"), expected, rtol=1e-9, atol=1e-15)
    # Their mean over signs is the mean over the logits, of which every one has a Jacobian of its own.
    draws = np.random.default_rng(0).choice([-1.0, 1.0], (4000, NUM, 3)) / np.sqrt(3)
    mean = (np.einsum("dnc,ncp->dnp", draws, j) ** 2).mean(axis=(0, 1))
    np.testing.assert_allclose(mean, (j**2).mean(axis=(0, 1)), rtol=0.1, atol=1e-12)


@pytest.mark.parametrize("kind", FISHERS)
def test_neither_chunks_nor_devices_change_it(x64, kind):
    whole = found(kind, chunk_size=100)
    np.testing.assert_allclose(found(kind, chunk_size=2), whole, rtol=1e-9, atol=1e-15)
    spread = found(kind, chunk_size=1, axis=parallel.AXIS)
    np.testing.assert_allclose(spread, whole, rtol=1e-9, atol=1e-15)


def test_gates_by_hand():
    # Importances F theta^2 = 1 * 4, 2 * 1, 0 * 9, 8 * 1: sorted 0, 2, 4, 8 with the median 3.
    params = {"k": jnp.array([[2.0, -1.0], [3.0, 1.0]]), "b": jnp.array([5.0])}
    diagonal = {"k": jnp.array([[1.0, 2.0], [0.0, 8.0]]), "b": jnp.array([1.0])}
    kernels = purify.kernels(params)
    found = gate.gates(params, diagonal, kernels)
    np.testing.assert_allclose(found["k"], [[3 / 7, 3 / 5], [1, 3 / 11]], rtol=1e-6)
    np.testing.assert_array_equal(found["b"], [0.0])
    squared = gate.gates(params, diagonal, kernels, power=2.0)
    np.testing.assert_allclose(squared["k"], [[9 / 49, 9 / 25], [1, 9 / 121]], rtol=1e-6)
    # By unit: means over the first axis 2 and 5, median 3.5.
    pooled = gate.gates(params, diagonal, kernels, "filter")
    np.testing.assert_allclose(pooled["k"], [[3.5 / 5.5, 3.5 / 8.5]], rtol=1e-6)
    # The scale of F does not matter.
    scaled = gate.gates(params, jax.tree.map(lambda x: 1e-6 * x, diagonal), kernels)
    np.testing.assert_allclose(scaled["k"], found["k"], rtol=1e-5)


def test_weights_of_which_most_are_not_used():
    params = {"k": jnp.ones((1, 5))}
    found = gate.gates(params, {"k": jnp.array([[0.0, 0, 0, 1, 2]])}, {"k": True})
    np.testing.assert_array_equal(found["k"], [[1, 1, 1, 0, 0]])
    found = gate.gates(params, {"k": jnp.zeros((1, 5))}, {"k": True})
    np.testing.assert_array_equal(found["k"], np.ones((1, 5)))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_step_decays_by_the_gate(x64, momentum):
    # No loss: two steps of momentum on decay * gate * theta, coupled; the rate halves after one of two steps.
    objective = Objective(lambda p, s, batch, key: (0 * p["k"].sum(), s), lambda p, s, batch: batch)
    chosen = Settings(0.1, 2, momentum=momentum, weight_decay=0.5, gated=True)
    share = np.array([[1.0, 0.25, 0.0]])
    params = {"k": jnp.array([[2.0, 4.0, 8.0]]), "b": jnp.array([3.0])}
    anchor = Anchor(params, gate={"k": jnp.asarray(share), "b": jnp.zeros(1)})
    step = purify.make_step(objective, chosen, lambda key, step, data: data)
    state = purify.init_state(chosen, params, {}, KEY)
    state = purify.run(step, state, anchor, jnp.zeros(1), 2)
    theta, velocity = np.array([[2.0, 4.0, 8.0]]), 0.0
    for rate in (0.1, 0.05):
        velocity = momentum * velocity + 0.5 * share * theta
        theta = theta - rate * velocity
    np.testing.assert_allclose(state.params["k"], theta, rtol=1e-6)
    assert state.params["k"][0, 2] == 8
    assert state.params["b"] == 3
