"""What a step descends, by hand and in float64: the trace term, the suspicious network's answers, drawn labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from oracles import assert_trees_close, conv_net, dense_fisher, make_log_prob_fn, mlp, over_batch

from fip_jax import defend, fisher
from fip_jax.config import default_config
from fip_jax.data.split import Split
from fip_jax.network import make_objective
from fip_jax.objective import (
    Objective,
    Settings,
    gradient,
    trace_of_fisher,
)

KEY = jax.random.key(5)


def settings(**changes):
    return Settings(**{"learning_rate": 0.1, "num_steps": 10, "momentum": 0.0, **changes})


def unsure(num):
    """`conv_net` with logits of the order of 1, so that its probabilities say something."""
    network, params, model_state, batch = conv_net(num)
    logits, _ = network(params, model_state, batch["image"])
    scale = 1 / jnp.abs(logits).max()
    return (
        network,
        params | {"linear": jax.tree.map(lambda x: scale * x, params["linear"])},
        model_state,
        batch,
    )


def mlp_objective(log_prob_fn):
    def loss_fn(params, model_state, batch, key):
        return -jax.vmap(log_prob_fn, in_axes=(None, 0))(params, batch).mean(), model_state

    return Objective(loss_fn, lambda params, model_state, batch: over_batch(log_prob_fn)(params, batch))


@pytest.mark.parametrize("num_probes", [0, 2])
def test_gradient_is_that_of_loss_and_trace(x64, num_probes):
    log_prob_fn, params, batch = mlp()
    objective = mlp_objective(log_prob_fn)
    chosen = settings(eta_f=0.3, num_probes=num_probes, trace_batch_size=4)
    found = jax.jit(lambda p: gradient(objective, chosen, p, {}, batch, KEY))(params)
    first = jax.tree.map(lambda leaf: leaf[:4], batch)

    def regularised(p):
        if num_probes:
            trace = fisher.estimate_trace(
                over_batch(log_prob_fn), p, first, jax.random.split(KEY)[1], num_probes
            )
        else:
            trace = jnp.trace(dense_fisher(log_prob_fn, p, first))
        return objective.loss_fn(p, {}, batch, KEY)[0] + 0.3 * trace, trace

    expected, trace = jax.grad(regularised, has_aux=True)(params)
    assert_trees_close(found.total, expected, 1e-10, 1e-12)
    np.testing.assert_allclose(found.trace, trace, rtol=1e-10)


def test_another_penalty_takes_the_place_of_the_trace(x64):
    log_prob_fn, params, batch = mlp()
    objective = mlp_objective(log_prob_fn)

    def sum_of_squares(objective, settings, params, model_state, examples, key):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(params))

    plain = gradient(objective, settings(), params, {}, batch, KEY)
    found = gradient(objective, settings(eta_f=0.5), params, {}, batch, KEY, sum_of_squares)
    expected = jax.tree.map(jnp.add, plain.total, params)
    assert_trees_close(found.total, expected, 1e-12, 1e-12)


def test_true_fisher_by_expectation(x64):
    """Over the network's own labels the trace is sum_y p(y) ||grad log p(y)||^2."""
    network, params, model_state, batch = unsure(4)
    objective = make_objective(network, batch_statistics=False, dropout=False)
    probabilities = jax.nn.softmax(network(params, model_state, batch["image"])[0])
    log_prob_fn = make_log_prob_fn(network)

    def squared_norm(example, label):
        score = jax.grad(lambda p: log_prob_fn(p, model_state, example | {"label": label}))(params)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(score))

    norms = jax.vmap(jax.vmap(squared_norm, in_axes=(None, 0)), in_axes=(0, None))(batch, jnp.arange(3))
    expected = (probabilities * norms).sum(axis=1).mean()
    chosen = settings(eta_f=1.0, num_probes=0, true_fisher=True)
    draw = jax.jit(jax.vmap(lambda key: trace_of_fisher(objective, chosen, params, model_state, batch, key)))
    samples = draw(jax.random.split(KEY, 2000))
    error = samples.std() / np.sqrt(len(samples))
    assert abs(samples.mean() - expected) < 4 * error < 0.1 * expected
    data = trace_of_fisher(objective, settings(num_probes=0), params, model_state, batch, KEY)
    assert abs(data - expected) > 10 * error


def configured(**changes) -> ConfigDict:
    config = default_config()
    config.smoothness.chunk_size = 3
    config.defense.fip.update({"eta_r": 1.0} | changes)
    return config


@pytest.mark.parametrize("true_fisher", [False, True])
def test_the_anchor_holds_shares_of_the_trace(true_fisher):
    network, params, model_state, batch = conv_net(7, np.float32)
    images = np.asarray(255 * batch["image"], np.uint8)
    clean = Split(images, np.asarray(batch["label"]))
    config = configured(true_fisher=true_fisher)
    start = defend.begin(config, network, params, model_state, clean)
    found = start.anchor.fisher_diagonal
    np.testing.assert_allclose(sum(leaf.sum() for leaf in jax.tree.leaves(found)), 1, rtol=1e-5)
    unit = batch | {"image": jnp.asarray(images, jnp.float32) / 255}
    log_prob_fn = make_log_prob_fn(network)
    expected = fisher.diagonal(lambda p, example: log_prob_fn(p, model_state, example), params, unit)
    total = sum(leaf.sum() for leaf in jax.tree.leaves(expected))
    share = jax.tree.map(lambda leaf: leaf / total, expected)
    distance = max(
        jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / b.max()), found, share))
    )
    assert (distance > 0.01) if true_fisher else (distance < 1e-4)
    assert (
        defend.begin(configured(eta_r=0.0), network, params, model_state, clean).anchor.fisher_diagonal
        is None
    )
