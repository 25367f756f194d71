"""The step by hand: SGD, the trace term, the pull to the anchor, steps that are not finite, resuming."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_trees_close, assert_trees_equal, conv_net, mlp, over_batch, take

from fip_jax import purify
from fip_jax.data.batches import make_draw, to_device
from fip_jax.network import make_objective
from fip_jax.objective import Anchor, Objective, Settings

# The learning rate may be a float32 even in double precision.
TOLERANCE = 10 * float(np.finfo(np.float32).eps)
KEY = jax.random.key(0)


def settings(**changes):
    return Settings(**{"learning_rate": 0.1, "num_steps": 10, "momentum": 0.0, **changes})


def whole(key, step, data):
    """A batch that is the data."""
    return data


def by_step(key, step, data):
    """A batch that is the entry of the data for the step."""
    return take(data, step)


def objective_of(log_prob_fn):
    """Cross-entropy without noise; the model state counts batches."""

    def loss_fn(params, model_state, batch, key):
        loss = -jax.vmap(log_prob_fn, in_axes=(None, 0))(params, batch).mean()
        return loss, {"seen": model_state["seen"] + loss}

    return Objective(loss_fn, lambda params, model_state, batch: over_batch(log_prob_fn)(params, batch))


def run(objective, chosen, params, batch, num_steps, *, anchor=None, draw=whole, model_state=None):
    """(state, list of metrics) after some steps."""
    metrics = []
    state = purify.init_state(chosen, params, model_state or {"seen": jnp.zeros(())}, KEY)
    step = purify.make_step(objective, chosen, draw)
    state = purify.run(step, state, anchor, batch, num_steps, lambda _, __, m: metrics.append(m))
    return state, metrics


# One parameter: loss theta^2 / 2, log-likelihood theta^2 x / 2 with the score theta x.
ONE = Objective(
    lambda params, model_state, batch, key: (params["t"] ** 2 / 2, model_state),
    lambda params, model_state, batch: params["t"] ** 2 / 2 * batch,
)


@pytest.mark.parametrize("step, expected", [(0, 0.0), (1, 0.2), (2, 0.4), (6, 0.2), (10, 0.0), (12, 0.0)])
def test_schedule_by_hand(step, expected):
    # Two steps of warm-up to 0.4, then half a cosine over 8 steps, half way down after 4.
    rate = purify.schedule(settings(learning_rate=0.4, warmup=0.2))
    np.testing.assert_allclose(rate(jnp.int32(step)), expected, atol=1e-7)


def test_a_warmup_leaves_a_step():
    rate = purify.schedule(settings(learning_rate=0.4, warmup=0.999, num_steps=10))
    assert float(rate(jnp.int32(9))) == pytest.approx(0.4)


def test_schedule_without_warmup_starts_at_the_peak():
    rate = purify.schedule(settings(learning_rate=0.4))
    np.testing.assert_allclose([rate(jnp.int32(k)) for k in (0, 5, 10)], [0.4, 0.2, 0.0], atol=1e-7)


@pytest.mark.parametrize("momentum, weight_decay", [(0.0, 0.0), (0.9, 0.0), (0.9, 0.05)])
def test_fine_tuning_is_sgd_by_hand(x64, momentum, weight_decay):
    log_prob_fn, params, batch = mlp()
    chosen = settings(momentum=momentum, weight_decay=weight_decay, warmup=0.2)
    objective = objective_of(log_prob_fn)
    state, metrics = run(objective, chosen, params, batch, 4, model_state={"seen": jnp.float64(0)})

    grad_fn = jax.jit(jax.grad(lambda p: -jax.vmap(log_prob_fn, in_axes=(None, 0))(p, batch).mean()))
    expected, velocity = params, jax.tree.map(jnp.zeros_like, params)
    # Warm-up 0, 1/2; then the cosine (1 + cos(pi k / 8)) / 2 at k = 0 and 1.
    for rate in (0.0, 0.05, 0.1, 0.1 * (1 + np.cos(np.pi / 8)) / 2):
        # Kernels shrink, biases do not.
        grad = jax.tree.map(
            lambda g, p: g + weight_decay * p if p.ndim == 2 else g, grad_fn(expected), expected
        )
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grad)
        expected = jax.tree.map(lambda p, v, rate=rate: p - rate * v, expected, velocity)
    assert_trees_close(state.params, expected, TOLERANCE, TOLERANCE)
    assert state.step == 4
    assert state.num_skipped == 0
    assert [float(m.trace) for m in metrics] == [0.0] * 4
    np.testing.assert_allclose(state.model_state["seen"], sum(m.loss for m in metrics), rtol=TOLERANCE)


@pytest.mark.parametrize(
    "radius, grad, trace",
    [
        # At theta = 2 with x = 3: 2 + 0.5 * d(9 theta^2) = 2 + 0.5 * 36 = 20, trace 36.
        (0.0, 20.0, 36.0),
        # The loss alone points up, so 0.5 further at 2.5: 2.5 + 0.5 * 45 = 25, trace 9 * 6.25.
        (0.5, 25.0, 56.25),
    ],
)
def test_regularised_step_by_hand(x64, radius, grad, trace):
    # For one example the estimate of the trace is exact.
    chosen = settings(eta_f=0.5, radius=radius)
    state, [metrics] = run(ONE, chosen, {"t": jnp.float64(2)}, jnp.array([3.0]), 1)
    np.testing.assert_allclose(metrics.gradient_norm, grad, rtol=TOLERANCE)
    np.testing.assert_allclose(metrics.trace, trace, rtol=TOLERANCE)
    np.testing.assert_allclose(metrics.loss, 2.0, rtol=TOLERANCE)
    np.testing.assert_allclose(metrics.learning_rate, 0.1, rtol=TOLERANCE)
    np.testing.assert_allclose(2 - state.params["t"], 0.1 * grad, rtol=TOLERANCE)


def test_pull_to_anchor_by_hand():
    # Weights strength * F = (2, 1): (1 + 2 * 3) / 3 and (2 - 1 * 2) / 2.
    z, anchored, curvature = jnp.array([1.0, 2.0]), jnp.array([3.0, -2.0]), jnp.array([1.0, 0.5])
    anchor = Anchor({"t": anchored}, {"t": curvature})

    def pulled(strength):
        return purify.pull_to_anchor({"t": z}, anchor, jnp.float32(strength))["t"]

    np.testing.assert_allclose(pulled(2.0), [7 / 3, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(pulled(0.0), z)
    np.testing.assert_allclose(pulled(1e30), anchored, rtol=1e-6)
    # No curvature, no pull.
    flat = purify.pull_to_anchor({"t": z}, anchor._replace(fisher_diagonal={"t": 0 * z}), jnp.float32(1e30))
    np.testing.assert_array_equal(flat["t"], z)


def test_pull_is_stable_where_an_explicit_step_diverges(x64):
    anchor = Anchor({"t": jnp.float64(1)}, {"t": jnp.float64(1)})
    chosen = settings(eta_r=1e6, momentum=0.9)
    state, _ = run(ONE, chosen, {"t": jnp.float64(1)}, jnp.array([0.0]), 8, anchor=anchor)
    # The minimiser of theta^2 / 2 + 1e6 (theta - 1)^2 / 2 is 1e6 / (1e6 + 1).
    np.testing.assert_allclose(state.params["t"], 1.0, atol=1e-4)
    theta = 1.01
    for _ in range(8):
        theta -= 0.1 * (theta + 1e6 * (theta - 1))
    assert abs(theta) > 1e20


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fixed_point_is_the_minimiser(x64, momentum):
    # c (t - b)^2 / 2 + eta_r F (t - a)^2 / 2 has its minimum at (c b + eta_r F a) / (c + eta_r F):
    # c = 2, b = 1, eta_r = 2, a = -1, F = (0.5, 3): (2 - 1) / 3 and (2 - 6) / 8.
    objective = Objective(
        lambda p, model_state, batch, key: (((p["t"] - 1) ** 2).sum(), model_state), ONE.log_probs_fn
    )
    anchor = Anchor({"t": -jnp.ones(2)}, {"t": jnp.array([0.5, 3.0])})
    chosen = settings(eta_r=2.0, momentum=momentum, num_steps=1000, learning_rate=0.05)
    state, _ = run(objective, chosen, {"t": jnp.zeros(2)}, jnp.zeros(1), 1000, anchor=anchor)
    np.testing.assert_allclose(state.params["t"], [1 / 3, -1 / 2], rtol=1e-5)


def test_steps_that_are_not_finite_leave_no_trace():
    network, params, model_state, batch = conv_net(dtype=np.float32)
    objective = make_objective(network, batch_statistics=True, dropout=False)
    first, second = batch["image"], batch["image"][::-1]
    chosen = settings(momentum=0.9, radius=0.1)
    step = purify.make_step(objective, chosen, by_step)

    def train(images, num_steps):
        metrics = []
        data = {"image": jnp.stack(images), "label": jnp.stack([batch["label"]] * 3)}
        state = purify.init_state(chosen, params, model_state, KEY)
        return purify.run(step, state, None, data, num_steps, lambda *args: metrics.append(args[2])), metrics

    found, metrics = train([first, first * jnp.nan, second], 3)
    expected, _ = train([first, second, second], 2)
    assert [bool(m.applied) for m in metrics] == [True, False, True]
    assert (int(found.step), int(found.num_skipped)) == (3, 1)
    assert (int(expected.step), int(expected.num_skipped)) == (2, 0)
    for name in ("params", "opt_state", "model_state"):
        assert_trees_equal(getattr(found, name), getattr(expected, name))
    assert purify.all_finite(found.params)


def test_learning_rate_after_a_skipped_step(x64):
    # The loss is t * x and the second x is not finite. Without momentum, t falls by rate * x exactly.
    objective = Objective(lambda p, s, batch, key: (p["t"] * batch, s), ONE.log_probs_fn)
    data = jnp.array([1.0, jnp.inf, 1.0])
    state, metrics = run(objective, settings(), {"t": jnp.float64(2)}, data, 3, draw=by_step)
    assert [bool(m.applied) for m in metrics] == [True, False, True]
    moved = 2.0 - float(state.params["t"])
    np.testing.assert_allclose(moved, metrics[0].learning_rate + metrics[2].learning_rate, rtol=TOLERANCE)


def test_a_finite_loss_with_an_infinite_gradient_is_skipped():
    objective = Objective(lambda p, s, batch, key: (jnp.sqrt(p["t"]), s), ONE.log_probs_fn)
    state, [metrics] = run(objective, settings(), {"t": jnp.zeros(())}, jnp.zeros(1), 1)
    assert jnp.isfinite(metrics.loss)
    assert not metrics.applied
    assert state.params["t"] == 0
    assert state.num_skipped == 1


def test_every_setting_changes_the_result():
    params, examples = {"t": jnp.array([[1.0, -2.0]])}, jnp.array([[1.0, 0.5], [2.0, -1.0], [0.3, 2.0]])
    objective = Objective(
        lambda p, s, batch, key: ((p["t"] ** 2 * jnp.array([[1.0, 3.0]])).sum(), s),
        lambda p, s, batch: batch @ jnp.sin(p["t"][0]),
    )
    anchor = Anchor({"t": jnp.ones((1, 2))}, {"t": jnp.ones((1, 2))})
    changes = [{}, {"eta_f": 0.1}, {"eta_r": 0.1}, {"radius": 0.1}, {"radius": 0.1, "adaptive": True}]
    changes += [
        {"weight_decay": 0.1},
        {"eta_f": 0.1, "num_probes": 5},
        {"eta_f": 0.1, "trace_limit": 0.01},
        {"warmup": 0.5},
    ]
    found = []
    for change in changes:
        state, _ = run(objective, settings(**change), params, examples, 1, anchor=anchor)
        found.append(np.asarray(state.params["t"]))
    for a, b in itertools.combinations(found, 2):
        assert np.abs(a - b).max() > 1e-5


def test_state_is_donated_and_the_callers_arrays_are_not():
    log_prob_fn, params, batch = mlp(dtype=np.float32)
    chosen = settings(momentum=0.9)
    model_state = {"seen": jnp.zeros(())}
    key = jax.random.key(3)
    state = purify.init_state(chosen, params, model_state, key)
    purify.make_step(objective_of(log_prob_fn), chosen, whole)(state, None, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, model_state, key, batch)))


def test_a_run_that_stops_and_starts_again_is_the_same_run():
    network, params, model_state, _ = conv_net(dtype=np.float32)
    objective = make_objective(network, batch_statistics=True, dropout=True)
    rng = np.random.default_rng(0)
    data = to_device(rng.integers(0, 256, (9, 6, 6, 3)), rng.integers(0, 3, 9))
    anchor = Anchor(params, jax.tree.map(jnp.ones_like, params))
    chosen = settings(learning_rate=0.01, momentum=0.9, eta_f=0.01, eta_r=0.1, radius=0.1, warmup=0.2)
    step = purify.make_step(objective, chosen, make_draw(4, crop_padding=1, flip=True))

    def start(seed):
        return purify.init_state(chosen, params, model_state, jax.random.key(seed))

    whole_run = purify.run(step, start(0), anchor, data, 10)
    half = purify.run(step, start(0), anchor, data, 5)
    assert half.step == 5
    # By way of the host, as through a checkpoint.
    host = jax.tree.map(np.asarray, half._replace(key=jax.random.key_data(half.key)))
    restored = jax.tree.map(jnp.asarray, host)
    restored = restored._replace(key=jax.random.wrap_key_data(restored.key))
    resumed = purify.run(step, restored, anchor, data, 10)
    assert (int(resumed.step), int(resumed.num_skipped)) == (10, 0)
    for name in ("params", "model_state", "opt_state"):
        assert_trees_equal(getattr(resumed, name), getattr(whole_run, name))
    assert step._programs[1]._cache_size() == 1, "a resumed run compiles nothing new"
    other = purify.run(step, start(1), anchor, data, 10)
    assert jnp.abs(other.params["linear"]["kernel"] - resumed.params["linear"]["kernel"]).max() > 1e-5


@pytest.mark.parametrize("begun, ends", [(0, [4, 8, 11]), (3, [4, 8, 11]), (4, [8, 11])])
def test_several_steps_in_one_dispatch_are_the_same_steps(x64, begun, ends):
    data = jnp.asarray(np.random.default_rng(0).normal(size=(11, 5)))
    chosen = settings(num_steps=11, momentum=0.9, eta_f=0.01)
    step = purify.make_step(ONE, chosen, by_step)

    def purified(at_once):
        seen = []
        state = purify.init_state(chosen, {"t": jnp.asarray(2.0)}, {}, KEY)
        state = purify.run(step, state, None, data, begun)
        state = purify.run(step, state, None, data, 11, lambda *found: seen.append(found), at_once)
        losses = np.concatenate([np.atleast_1d(metrics.loss) for _, _, metrics in seen])
        return state, [taken for taken, _, _ in seen], losses

    one, _, expected = purified(1)
    many, taken, losses = purified(4)
    assert taken == ends
    assert int(many.step) == 11
    assert_trees_close(many.params, one.params, TOLERANCE, TOLERANCE)
    assert len(losses) == 11 - begun
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE)


def test_every_step_has_its_own_key():
    objective = Objective(
        lambda p, s, batch, key: (jax.random.uniform(key) + 0 * p["t"], s), ONE.log_probs_fn
    )
    losses = [float(m.loss) for m in run(objective, settings(), {"t": jnp.ones(())}, jnp.zeros(1), 4)[1]]
    assert len(set(losses)) == 4


def test_batch_statistics_come_from_the_unperturbed_parameters():
    network, params, model_state, batch = conv_net(dtype=np.float32)
    objective = make_objective(network, batch_statistics=True, dropout=False)
    _, expected = jax.jit(objective.loss_fn)(params, model_state, batch, KEY)
    found, _ = run(objective, settings(radius=5.0), params, batch, 1, model_state=model_state)
    assert_trees_close(found.model_state, expected, 1e-5, 1e-6)
    assert jnp.abs(found.model_state["norm2"]["mean"] - model_state["norm2"]["mean"]).max() > 1e-3


def test_all_finite_skips_integers():
    assert purify.all_finite({"a": jnp.ones(2), "n": jnp.ones(2, jnp.int32)})
    assert not purify.all_finite({"a": jnp.ones(2), "b": jnp.array([0.0, jnp.inf])})
