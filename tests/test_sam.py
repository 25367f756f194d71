"""The SAM perturbation by hand, and the FT-SAM step against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import assert_trees_close, mlp, over_batch

from fip_jax import purify, sam
from fip_jax.objective import Objective, Settings

EPS = float(np.finfo(np.float32).eps)


def test_plain_by_hand():
    # The gradient (3, 4) over two leaves has norm 5; a radius of 10 doubles it.
    params = {"a": jnp.array([7.0]), "b": jnp.array([[0.0]])}
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    found = sam.perturbation(params, gradient, 10.0)
    assert_trees_close(found, {"a": jnp.array([6.0]), "b": jnp.array([[8.0]])}, 4 * EPS)


def test_adaptive_by_hand():
    # theta = (-3, 2), g = (1, 2): |theta| g = (3, 4) of norm 5, theta^2 g = (9, 8).
    # Radius 10: 10 / 5 * (9, 8) = (18, 16).
    params = {"a": jnp.array([-3.0]), "b": jnp.array([2.0])}
    gradient = {"a": jnp.array([1.0]), "b": jnp.array([2.0])}
    found = sam.perturbation(params, gradient, 10.0, adaptive=True)
    assert_trees_close(found, {"a": jnp.array([18.0]), "b": jnp.array([16.0])}, 4 * EPS)


@pytest.mark.parametrize("radius", [0.0, 0.05, 2.0])
def test_lengths(x64, radius):
    params, gradient = np.random.default_rng(0).normal(size=(2, 20))
    params, gradient = jnp.asarray(params), jnp.asarray(gradient)
    plain = sam.perturbation(params, gradient, radius)
    np.testing.assert_allclose(jnp.linalg.norm(plain), radius, rtol=1e-14)
    # The adaptive one has its length in units of the parameters.
    adaptive = sam.perturbation(params, gradient, radius, adaptive=True)
    np.testing.assert_allclose(jnp.linalg.norm(adaptive / params), radius, rtol=1e-14)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_zero_gradient_gives_zeros(adaptive, wrap):
    params = {"a": jnp.array([1.0, 2.0])}
    found = wrap(lambda p: sam.perturbation(p, {"a": jnp.zeros(2)}, 0.5, adaptive))(params)
    np.testing.assert_array_equal(found["a"], [0.0, 0.0])


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
def test_dtype_is_kept(x64, adaptive, dtype):
    params = jnp.array([1.0, -2.0], dtype)
    assert sam.perturbation(params, params, 0.5, adaptive).dtype == dtype


def test_ft_sam_equals_optax():
    log_prob_fn, params, batch = mlp(num=7, dtype=np.float32)
    radius, rate, steps = 0.5, 0.3, 3

    def loss_fn(p, data):
        return -jax.vmap(log_prob_fn, in_axes=(None, 0))(p, data).mean()

    settings = Settings(learning_rate=rate, num_steps=10, momentum=0.0, radius=radius)
    objective = Objective(
        lambda p, model_state, data, key: (loss_fn(p, data), model_state),
        lambda p, model_state, batch: over_batch(log_prob_fn)(p, batch),
    )
    step = purify.make_step(objective, settings, lambda key, step, data: data)
    state = purify.init_state(settings, params, {}, jax.random.key(0))
    state = purify.run(step, state, None, batch, steps)

    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(radius))

    def schedule(count):  # Half a cosine over 10 steps.
        return rate * (1 + jnp.cos(jnp.pi * count.astype(jnp.float32) / 10)) / 2

    solver = optax.contrib.sam(optax.sgd(schedule), ascent, sync_period=2, opaque_mode=True)

    @jax.jit
    def reference(p, opt_state):
        grad_fn = jax.grad(loss_fn)
        updates, opt_state = solver.update(
            grad_fn(p, batch), opt_state, p, grad_fn=lambda q, _: grad_fn(q, batch)
        )
        return optax.apply_updates(p, updates), opt_state

    expected, opt_state = params, solver.init(params)
    for _ in range(steps):
        expected, opt_state = reference(expected, opt_state)
    assert_trees_close(state.params, expected, 20 * EPS, 20 * EPS)
    # SAM did something: without it the result is elsewhere.
    plain = Settings(learning_rate=rate, num_steps=10, momentum=0.0)
    other = purify.run(
        purify.make_step(objective, plain, lambda key, step, data: data),
        purify.init_state(plain, params, {}, jax.random.key(0)),
        None,
        batch,
        steps,
    )
    assert jnp.abs(other.params["first"]["kernel"] - expected["first"]["kernel"]).max() > 1e-3
