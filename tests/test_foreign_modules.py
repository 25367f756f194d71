"""Modules and functions of other people with statistics of their own: Linen, plain functions, NNX of any signature."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fip_jax
from fip_jax.errors import UserError
from fip_jax.interop.linen import as_function
from fip_jax.network import split_module

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(24) % 3
UNIT = jnp.asarray(IMAGES, jnp.float32) / 255
FEW = {"steps": 3, "batch_size": 8}


class Linen(nn.Module):
    """A convolution, BatchNorm, dropout: `train` switches both, as in Flax's own examples."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def linen():
    variables = Linen().init(jax.random.key(0), UNIT[:1], train=False)
    # Running statistics as after a training, not those of an empty network.
    moved = Linen().apply(
        variables, UNIT, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)}
    )
    return Linen(), {"params": variables["params"], **moved[1]}


def test_a_linen_module_answers_as_by_itself(linen):
    module, variables = linen
    state = {"batch_stats": variables["batch_stats"]}
    fn = as_function(module, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    logits, same = fn(variables["params"], state, UNIT, False)
    normalised = (UNIT - jnp.array([[[[0.1, 0.2, 0.3]]]])) / jnp.array([[[[0.5, 0.6, 0.7]]]])
    np.testing.assert_allclose(logits, module.apply(variables, normalised, train=False), atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_a_linen_batch_norm_takes_the_batch_and_nothing_is_dropped(linen):
    module, variables = linen
    state = {"batch_stats": variables["batch_stats"]}
    fn = as_function(module, (0.0,) * 3, (1.0,) * 3)
    logits, moved = fn(variables["params"], state, UNIT, True)
    again, _ = fn(variables["params"], state, UNIT, True)
    np.testing.assert_array_equal(logits, again)
    # By hand: the batch's own mean, 0.8 old + 0.2 new.
    p = variables["params"]
    x = jax.lax.conv_general_dilated(
        UNIT, p["Conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = x + p["Conv_0"]["bias"].reshape(1, 1, 1, -1)
    mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    old = state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(
        moved["batch_stats"]["BatchNorm_0"]["mean"], 0.8 * old + 0.2 * mean[0, 0, 0], rtol=1e-4, atol=1e-5
    )
    y = (x - mean) / jnp.sqrt(var + 1e-5)
    by_hand = jax.nn.relu(y).reshape(24, -1) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"].reshape(1, -1)
    np.testing.assert_allclose(logits, by_hand, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["fip", "ft"])
def test_a_linen_module_is_purified(linen, method):
    module, variables = linen
    before = jax.tree.map(np.array, variables)
    after = fip_jax.purify_network(module, IMAGES, LABELS, variables=variables, method=method, **FEW)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    assert jax.tree.structure(after) == jax.tree.structure(dict(variables))
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), after, dict(variables))
    assert all(jax.tree.leaves(changed))  # the statistics as well
    assert np.isfinite(module.apply(after, UNIT, train=False)).all()


def stateful(params, state, images, trained):
    """Normalises each pixel, by the batch while it is trained."""
    mean, var = images.mean(0), images.var(0)
    moved = {"mean": 0.9 * state["mean"] + 0.1 * mean, "var": 0.9 * state["var"] + 0.1 * var}
    if not trained:
        mean, var = state["mean"], state["var"]
    normal = (images - mean[None]) / jnp.sqrt(var[None] + 1e-3)
    return normal.reshape(len(images), -1) @ params["w"], moved


def test_a_function_with_statistics():
    params = {"w": jnp.asarray(RNG.normal(0, 0.1, (192, 3)), jnp.float32)}
    state = {"mean": UNIT.mean(0), "var": UNIT.var(0)}
    after, moved = fip_jax.purify_function(stateful, params, IMAGES, LABELS, model_state=state, **FEW)
    assert np.any(after["w"] != params["w"]) and np.any(moved["mean"] != state["mean"])
    # The teacher and what is returned use the running statistics: close to where they were, and finite.
    np.testing.assert_allclose(moved["mean"], state["mean"], atol=0.2)
    with pytest.raises(UserError, match="parallel: found pmap for a function with a state, expected none"):
        fip_jax.purify_function(stateful, params, IMAGES, LABELS, model_state=state, parallel="pmap", **FEW)


def module_with(call):
    class Foreign(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.norm, self.linear = nnx.BatchNorm(3, rngs=rngs), nnx.Linear(192, 3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5)

        __call__ = call

    return Foreign()


def plain(self, x):
    return self.linear(self.norm(x).reshape(len(x), -1))


def with_train(self, x, train=False):
    x = self.norm(x, use_running_average=not train).reshape(len(x), -1)
    return self.linear(self.dropout(x, deterministic=not train))


def with_rngs(self, x, *, rngs):
    return self.linear(self.dropout(self.norm(x).reshape(len(x), -1), rngs=rngs))


@pytest.mark.parametrize("call", [plain, with_train, with_rngs])
def test_an_nnx_module_of_any_signature(call):
    module = module_with(call)
    network, params, state = split_module(module)
    running, same = network(params, state, UNIT)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    by_batch, moved = network(params, state, UNIT, batch_statistics=True)
    mean = UNIT.mean((0, 1, 2))
    np.testing.assert_allclose(moved["norm"]["mean"], 0.01 * mean, rtol=1e-4)  # momentum 0.99 from 0
    assert np.abs(running - by_batch).max() > 0.1
    again, _ = network(params, state, UNIT, batch_statistics=True)
    np.testing.assert_array_equal(by_batch, again)  # nothing is dropped
    purified = fip_jax.purify_network(module, IMAGES, LABELS, **FEW)
    assert np.any(purified.linear.kernel[...] != module.linear.kernel[...])


def test_variables_that_are_missing_or_too_many(linen):
    module, variables = linen
    with pytest.raises(UserError, match="variables: found none, expected those of the Linen module"):
        fip_jax.purify_network(module, IMAGES, LABELS)
    with pytest.raises(UserError, match="variables: found some, expected none"):
        fip_jax.purify_network(module_with(plain), IMAGES, LABELS, variables=variables)


def test_harm_is_said(capsys):
    def apply_fn(params, images):
        return (images - 0.5).reshape(len(images), -1) @ params["w"]

    params = {"w": jnp.asarray(RNG.normal(0, 0.1, (192, 3)), jnp.float32)}
    labels = np.asarray(apply_fn(params, UNIT).argmax(-1))
    fip_jax.purify_function(apply_fn, params, IMAGES, labels, learning_rate=1e3, **FEW)
    said = capsys.readouterr().out
    assert "clean images right: 100.0% before" in said and "the network was harmed" in said
