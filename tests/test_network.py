"""The bridge to Flax: statistics, normalisation, dropout, and the convolution that is swapped in."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from oracles import assert_trees_close, assert_trees_equal, conv_net, make_log_prob_fn, take

from fip_jax.convolution import convolve_by_patches
from fip_jax.network import make_objective, split_module

EPS = float(np.finfo(np.float32).eps)


class Normalised(nnx.Module):
    """BatchNorm alone; the "logits" are its channels at the first pixel."""

    def __init__(self, momentum=0.9):
        self.norm = nnx.BatchNorm(2, momentum=momentum, epsilon=1e-5, rngs=nnx.Rngs(0))

    def __call__(self, x, rngs=None):
        return self.norm(x)[:, 0, 0]


class Masked(nnx.Module):
    """Dropout alone, and no BatchNorm."""

    def __init__(self):
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        return self.dropout(x, rngs=rngs)[:, 0, 0]


def small():
    return conv_net(num=5, dtype=np.float32)


def test_batch_statistics_move_by_the_momentum_rule():
    # Channel 0 of two 1 x 2 images is 1, 3, 5, 7: mean 4, biased variance (9 + 1 + 1 + 9) / 4 = 5;
    # channel 1 is 0, 0, 2, 2: mean 1, variance 1. From mean 0 and variance 1: 0.8 old + 0.2 new.
    network, params, model_state = split_module(Normalised(momentum=0.8), (0.0, 0.0), (1.0, 1.0))
    images = jnp.array([[[1.0, 0.0], [3.0, 0.0]], [[5.0, 2.0], [7.0, 2.0]]]).reshape(2, 1, 2, 2)
    logits, moved = network(params, model_state, images, batch_statistics=True)
    np.testing.assert_allclose(moved["norm"]["mean"], [0.8, 0.2], rtol=4 * EPS)
    np.testing.assert_allclose(moved["norm"]["var"], [0.8 + 0.2 * 5, 1.0], rtol=4 * EPS)
    # The first pixels are normalised by the batch: (1 - 4) / sqrt 5, (5 - 4) / sqrt 5, and -1, +1.
    expected = [[-3 / np.sqrt(5), -1.0], [1 / np.sqrt(5), 1.0]]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)

    # With the running statistics (mean 0, variance 1) nothing moves, and the pixels are as they were.
    logits, kept = network(params, model_state, images)
    assert_trees_equal(kept, model_state)
    np.testing.assert_allclose(logits, [[1.0, 0.0], [5.0, 2.0]], rtol=1e-5)


def test_running_statistics_make_examples_independent():
    network, params, model_state, batch = small()
    apply = jax.jit(network.__call__, static_argnames="batch_statistics")
    together, _ = apply(params, model_state, batch["image"])
    log_prob_fn = jax.jit(make_log_prob_fn(network))
    for n in range(5):
        alone, _ = apply(params, model_state, batch["image"][n : n + 1])
        np.testing.assert_allclose(alone[0], together[n], rtol=1e-5, atol=1e-6)
        found = log_prob_fn(params, model_state, take(batch, n))
        expected = jax.nn.log_softmax(together[n])[batch["label"][n]]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # By the batch they are not: the others matter.
    by_batch, _ = apply(params, model_state, batch["image"], batch_statistics=True)
    by_part, _ = apply(params, model_state, batch["image"][:2], batch_statistics=True)
    assert jnp.abs(by_batch[:2] - by_part).max() > 1e-3


def test_images_are_normalised_by_channel():
    # (0.75 - 0.5) / 0.25 = 1 and (0.1 - 0.4) / 0.1 = -3.
    network, params, model_state = split_module(Masked(), (0.5, 0.4), (0.25, 0.1))
    logits, _ = network(params, model_state, jnp.array([0.75, 0.1]).reshape(1, 1, 1, 2))
    np.testing.assert_allclose(logits, [[1.0, -3.0]], rtol=10 * EPS)


def test_dropout_is_on_with_a_key_alone():
    network, params, model_state = split_module(Masked(), (0.0,), (1.0,))
    images = jnp.ones((1000, 1, 1, 1))
    plain, _ = network(params, model_state, images, batch_statistics=True)
    np.testing.assert_array_equal(plain, images[:, 0, 0])
    first, again, other = (
        network(params, model_state, images, dropout_key=jax.random.key(seed))[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # Kept ones are doubled; the kept count is 500 with a deviation of sqrt 250 = 16.
    assert set(np.unique(first)) == {0.0, 2.0}
    assert abs(int((first == 2).sum()) - 500) < 64


def test_objective_switches():
    network, params, model_state, batch = small()

    def loss_and_state(*keys, **switches):
        loss_fn = jax.jit(make_objective(network, **switches).loss_fn)
        found = [loss_fn(params, model_state, batch, jax.random.key(key)) for key in keys]
        return found[0] if len(keys) == 1 else [loss for loss, _ in found]

    loss, state = loss_and_state(0, batch_statistics=False, dropout=False)
    log_prob_fn = jax.jit(make_log_prob_fn(network))
    expected = -jnp.stack([log_prob_fn(params, model_state, take(batch, n)) for n in range(5)]).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert_trees_equal(state, model_state)

    _, state = loss_and_state(0, batch_statistics=True, dropout=False)
    assert jnp.abs(state["norm1"]["mean"] - model_state["norm1"]["mean"]).max() > 1e-3

    dropped = loss_and_state(0, 0, 1, batch_statistics=False, dropout=True)
    assert dropped[0] == dropped[1]
    assert len({float(loss), float(dropped[0]), float(dropped[2])}) == 3


def test_swapped_convolution_is_used_and_changes_nothing():
    network, params, model_state, batch = small()
    strides = []

    def spy(inputs, kernel, window_strides, *arguments, **options):
        strides.append(tuple(window_strides))
        return convolve_by_patches(inputs, kernel, window_strides, *arguments, **options)

    expected = network(params, model_state, batch["image"], batch_statistics=True)
    found = network._replace(convolve=spy)(params, model_state, batch["image"], batch_statistics=True)
    assert strides == [(1, 1), (2, 2)]
    assert_trees_close(found, expected, 1e-5, 1e-6)
    # It stays with that copy: the first network is as it was.
    network(params, model_state, batch["image"])
    assert len(strides) == 2


def test_split_keeps_parameters_and_statistics_apart():
    _, params, model_state, _ = small()
    assert set(params) == {"conv1", "norm1", "conv2", "norm2", "linear"}
    assert set(params["norm1"]) == {"scale", "bias"}
    assert {name: set(part) for name, part in model_state.items()} == {
        "norm1": {"mean", "var"},
        "norm2": {"mean", "var"},
    }
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 283
