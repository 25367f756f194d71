"""Eight devices against one: the same steps of every method, the same Fisher matrix, to float32 accuracy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_trees_close, conv_net

from fip_jax import defend, parallel, purify
from fip_jax.config import check_config, default_config
from fip_jax.data.split import Split
from fip_jax.errors import UserError
from fip_jax.objective import Anchor, Objective, Settings
from fip_jax.smoothness import Smoothness, chunks

NUM, DEVICES = 40, 8
# Sums over 16 examples in another order, three steps: some hundred roundings of numbers of the order of 1.
TOLERANCE = 300 * float(np.finfo(np.float32).eps)

METHODS = {
    "ft": {},
    "ft_sam": {"radius": 0.3},
    # Every term is there and weighs something.
    "fip": {"eta_f": 0.02, "eta_r": 3.0, "radius": 0.1},
    "fip_exact": {"eta_f": 0.02, "num_probes": 0, "true_fisher": True},
    # Without the first move, behind which the vectors of singular values near 0 are any.
    "fast_fip": {"eta_f": 0.02, "learning_rate": 0.1, "shrink": {"budget": 0.0}},
}


@pytest.fixture(scope="module")
def case():
    network, params, model_state, batch = conv_net(NUM, np.float32)
    # Logits of the order of 1, so that the loss has a gradient everywhere.
    params = params | {"linear": jax.tree.map(lambda x: 0.2 * x, params["linear"])}
    clean = Split(np.asarray(255 * batch["image"], np.uint8), np.asarray(batch["label"]))
    return network, params, model_state, clean


def config_of(method, mode):
    config = default_config()
    config.parallel.mode = mode
    config.defense.name = method.removesuffix("_exact")
    config.defense.steps, config.defense.batch_size = 3, 16
    config.defense[config.defense.name].update(METHODS[method])
    if "trace_batch_size" in config.defense[config.defense.name]:
        config.defense[config.defense.name].trace_batch_size = 8
    check_config(config)
    return config


@pytest.fixture(scope="module")
def begin(case):
    """Starts of runs, whose steps are compiled once."""
    return functools.cache(lambda method, mode: defend.begin(config_of(method, mode), *case))


def fresh(start):
    """The first state, which a step may consume."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), start.state)


def purified(start, at_once=1):
    """(state, metrics of the dispatches) of a whole run."""
    seen = []
    state = purify.run(
        start.step_fn,
        fresh(start),
        start.anchor,
        start.data,
        start.num_steps,
        lambda _, __, m: seen.append(m),
        at_once,
    )
    return state, seen


@pytest.mark.parametrize("method", METHODS)
def test_eight_devices_equal_one(begin, method):
    assert jax.device_count() == DEVICES
    before = begin(method, "none").state.params
    one, alone = purified(begin(method, "none"))
    many, together = purified(begin(method, "pmap"))
    assert int(one.num_skipped) == 0
    for name in ("params", "model_state", "opt_state"):
        assert_trees_close(getattr(many, name), getattr(one, name), TOLERANCE, TOLERANCE)
    assert_trees_close(together, alone, TOLERANCE, TOLERANCE)
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one.params, before))
    assert max(moved) > 100 * TOLERANCE
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(many))


@pytest.mark.parametrize("method", METHODS)
def test_all_devices_leave_a_step_with_the_same_state(begin, method):
    start = begin(method, "pmap")
    state, metrics = start.step_fn(fresh(start), start.anchor, start.data)
    for leaf in jax.tree.leaves((state._replace(key=None), metrics)):
        first, *others = (np.asarray(leaf.addressable_data(index)) for index in range(DEVICES))
        for other in others:
            np.testing.assert_array_equal(other, first)


def test_several_steps_in_one_dispatch_of_eight_devices(begin):
    one, _ = purified(begin("ft", "none"))
    many, seen = purified(begin("ft", "pmap"), at_once=2)
    assert [metrics.loss.shape for metrics in seen] == [(2,), ()]
    assert_trees_close(many.params, one.params, TOLERANCE, TOLERANCE)


def test_the_state_of_a_run_goes_on_with_another_number_of_devices(begin):
    whole, _ = purified(begin("fip", "none"))
    state = fresh(begin("fip", "none"))
    for mode, until in (("pmap", 1), ("none", 2), ("pmap", 3)):
        start = begin("fip", mode)
        state = purify.run(start.step_fn, state, start.anchor, start.data, until)
    assert_trees_close(state.params, whole.params, TOLERANCE, TOLERANCE)


def test_gradients_through_sums_over_devices_by_hand():
    # Loss: the variance of theta x over the whole batch; trace: one probe of scores theta x. With x = 0..7, theta = 2:
    # variance theta^2 (8^2 - 1) / 12 = 5.25 theta^2, its derivative 21.
    axis = parallel.AXIS

    def loss_fn(params, model_state, x, key):
        y = params["t"] * x
        centre = parallel.mean(y.mean(), axis if len(x) < 8 else None)
        return ((y - centre) ** 2).mean(), model_state

    objective = Objective(loss_fn, lambda params, model_state, x: params["t"] ** 2 / 2 * x)
    found = {}
    for name in (None, axis):
        settings = Settings(0.1, 1, momentum=0.0, eta_f=0.5, axis=name)
        step = purify.make_step(objective, settings, lambda key, step, data: data)
        state = purify.init_state(settings, {"t": jnp.float32(2)}, {}, jax.random.key(3))
        found[name] = step(state, None, jnp.arange(8, dtype=jnp.float32))
    (one, alone), (many, together) = found[None], found[axis]
    np.testing.assert_allclose(alone.loss, 21, rtol=1e-6)
    np.testing.assert_allclose(together.loss, 21, rtol=1e-6)
    # T = theta^2 (sum r x)^2 / 8, so its derivative is 2 T / theta.
    np.testing.assert_allclose(together.gradient_norm, 21 + 0.5 * together.trace, rtol=1e-6)
    np.testing.assert_allclose(together.trace, alone.trace, rtol=1e-6)
    np.testing.assert_allclose(parallel.on_one(many.params)["t"], one.params["t"], rtol=1e-6)


def test_noise_of_the_loss_differs_between_the_devices():
    # Each device's loss is its own draw; the mean of eight different ones is none of them.
    def loss_fn(params, model_state, batch, key):
        return params["t"] * jax.random.uniform(key), model_state

    settings = Settings(0.1, 1, axis=parallel.AXIS)
    step = purify.make_step(
        Objective(loss_fn, lambda *_: jnp.zeros(1)), settings, lambda key, step, data: data
    )
    state = purify.init_state(settings, {"t": jnp.float32(1)}, {}, jax.random.key(0))
    _, metrics = step(state, None, jnp.zeros(8))
    key = jax.random.split(jax.random.fold_in(jax.random.split(jax.random.key(0))[1], 0))[0]
    draws = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(8)]
    assert len(set(draws)) == 8
    np.testing.assert_allclose(metrics.loss, np.mean(draws), rtol=1e-6)


def test_fisher_quantities_over_devices(case):
    num = 21  # chunks of 16 for all devices, and of 5 for one
    network, params, model_state, clean = case
    batch = {
        "image": jnp.asarray(clean.images[:num], jnp.float32) / 255,
        "label": jnp.asarray(clean.labels[:num]),
    }
    one, many = (Smoothness(network, batch, 2, axis) for axis in (None, parallel.AXIS))
    expected = one.diagonal(params, model_state)
    largest = max(float(leaf.max()) for leaf in jax.tree.leaves(expected))
    assert_trees_close(many.diagonal(params, model_state), expected, TOLERANCE, TOLERANCE * largest)
    options = {"key": jax.random.key(0), "tolerance": 1e-3, "max_iterations": 5}
    values = [smooth.top_eigenvalues(params, model_state, **options).values for smooth in (one, many)]
    np.testing.assert_allclose(*values, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "total, size, sizes",
    [(16, 1, [8, 8]), (21, 2, [16, 5]), (5, 3, [5]), (40, 2, [8, 16, 16])],  # the last: 1, 2 and 2 a device
)
def test_chunks_for_eight_devices(total, size, sizes):
    found = list(chunks(np.arange(total), size, DEVICES))
    assert [len(chunk) for chunk in found] == sizes
    assert np.concatenate(found).tolist() == list(range(total))


@pytest.mark.parametrize(
    "key, value, method",
    [
        ("defense.batch_size", 12, "ft"),
        ("defense.fip.trace_batch_size", 4, "fip"),
        ("defense.batch_size", 64, "ft"),  # of which there are 40, but 40 divides: see below
    ],
)
def test_numbers_that_cannot_be_spread_are_refused(case, key, value, method):
    config = config_of(method, "pmap")
    config.update_from_flattened_dict({key: value})
    if value == 64:
        network, params, model_state, clean = case
        case = network, params, model_state, clean.take(np.arange(39))
    with pytest.raises(UserError, match=key.replace(".", r"\.") + r".*\b8 devices.*parallel\.mode=none"):
        defend.begin(config, *case)


def test_shares_are_dealt_and_gathered_in_order():
    def there_and_back(_, x):
        mine = parallel.share(x, "d")
        return mine, parallel.gather(mine, "d")

    shares, whole = jax.pmap(there_and_back, "d", in_axes=(0, None))(np.arange(8), jnp.arange(16))
    assert shares.tolist() == [[i, i + 8] for i in range(8)]
    assert (np.asarray(whole) == np.arange(16)[None]).all()


def test_an_unknown_mode_is_refused():
    config = default_config()
    config.parallel.mode = "sharded"
    with pytest.raises(UserError, match=r"parallel\.mode: found 'sharded'"):
        check_config(config)


def test_replication_moves_nothing_twice():
    tree = {"a": jnp.arange(3.0), "key": jax.random.key(0)}
    once = parallel.replicate(tree, parallel.AXIS)
    assert len(once["a"].sharding.device_set) == 8
    assert parallel.replicate(once, parallel.AXIS)["a"] is once["a"]
    assert parallel.replicate(tree, None) is tree
    np.testing.assert_array_equal(parallel.on_one(once)["a"], tree["a"])
    anchor = Anchor({"t": jnp.ones(1)}, None)
    assert parallel.replicate(anchor, parallel.AXIS).fisher_diagonal is None
