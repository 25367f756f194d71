"""Fast FIP's layers: the same function, the Fisher matrix of the shifts, no gradient of a kernel, the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from oracles import assert_trees_close, assert_trees_equal, conv_net, drawn_model, make_log_prob_fn

from fip_jax import fisher, purify, spectral
from fip_jax.config import default_config
from fip_jax.data.split import Split
from fip_jax.defend import begin
from fip_jax.models import MODELS
from fip_jax.network import make_objective, split_module
from fip_jax.objective import Settings

RTOL = 1e-9


@pytest.fixture
def case(x64):
    """(plain, factorised, batch), each of the two as (network, params, model_state), in double precision."""
    network, params, model_state, batch = conv_net(6)
    return (network, params, model_state), spectral.factorise(network, params, model_state), batch


def shifted(params, seed=0):
    """Parameters of a factorised network with every entry moved, the last singular value of each layer below zero."""
    flat, unravel = ravel_pytree(params)
    moved = unravel(flat + 0.4 * np.random.default_rng(seed).standard_normal(flat.shape))
    return {
        layer: {name: part.at[-1].set(-9) if name == "values" else part for name, part in parts.items()}
        for layer, parts in moved.items()
    }


def test_zero_shift_is_the_same_function(case):
    (network, *trees), (factorised, *others), batch = case
    expected, _ = network(*trees, batch["image"])
    np.testing.assert_allclose(factorised(*others, batch["image"])[0], expected, rtol=RTOL, atol=1e-12)


def test_statistics_move_alike():
    network, params, model_state, batch = conv_net(6, np.float32)
    factorised, *others = spectral.factorise(network, params, model_state)
    expected, moved = network(params, model_state, batch["image"], batch_statistics=True)
    found, carried = factorised(*others, batch["image"], batch_statistics=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    _, statistics = spectral.fold(others[0], carried, (params, model_state))
    assert_trees_close(statistics, moved, 1e-4, 1e-5)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_can_be_factorised_and_folded(name):
    plain = split_module(drawn_model(name, 5, 32, width=6))
    network, params, model_state = spectral.factorise(*plain)
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
    expected, _ = plain[0](*plain[1:], images)
    np.testing.assert_allclose(network(params, model_state, images)[0], expected, rtol=1e-3, atol=1e-3)
    folded = spectral.fold(params, model_state, plain[1:])
    assert_trees_close(folded[0], plain[1], 0, 2e-6)
    assert_trees_equal(folded[1], plain[2])


def test_parameters_are_the_singular_values_and_the_norms(case):
    _, (_, params, _), _ = case
    # 3 x 3 x 3 -> 4 has rank 4, 3 x 3 x 4 -> 4 too, the dense layer 4 -> 3 has 3; two BatchNorms of 4 channels.
    assert sorted(jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)) == [
        "['conv1']['values']",
        "['conv2']['values']",
        "['linear']['values']",
        "['norm1']['bias']",
        "['norm1']['scale']",
        "['norm2']['bias']",
        "['norm2']['scale']",
    ]
    assert [params[layer]["values"].shape for layer in ("conv1", "conv2", "linear")] == [(4,), (4,), (3,)]


def test_the_head_may_stay_whole(case):
    (network, *trees), _, batch = case
    head = network.head(*trees, (6, 6, 3))
    assert head == ("linear",)
    factorised, params, carried = spectral.factorise(network, *trees, head)
    assert_trees_equal(params["linear"], trees[0]["linear"])
    assert set(params["conv1"]) == {"values"}
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    expected, _ = factorised(moved, carried, batch["image"])
    folded = spectral.fold(moved, carried, tuple(trees))
    assert_trees_equal(folded[0]["linear"], moved["linear"])
    np.testing.assert_allclose(network(*folded, batch["image"])[0], expected, rtol=RTOL, atol=1e-12)


@pytest.mark.parametrize(
    "name, head", [("small_vgg", "classifier"), ("preact_resnet18", "linear"), ("vit_small", "heads.head")]
)
def test_the_head_is_the_last_dense_layer_called(name, head):
    network, *trees = split_module(drawn_model(name, 5, 32, width=6))
    assert network.head(*trees, (32, 32, 3)) == tuple(head.split("."))


def test_folding_is_the_formula(case):
    (_, params, model_state), (_, factored, carried), _ = case
    moved = shifted(factored)
    found, _ = spectral.fold(moved, carried, (params, model_state))
    for layer in ("conv1", "conv2", "linear"):
        kernel = np.asarray(params[layer]["kernel"])
        # The paper's matrix of a convolution: C_out by the rest.
        u, values, vt = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]).T, full_matrices=False)
        scale = np.maximum(values + np.asarray(moved[layer]["values"] - factored[layer]["values"]), 0)
        assert scale[-1] == 0
        expected = ((u * scale) @ vt).T.reshape(kernel.shape)
        np.testing.assert_allclose(found[layer]["kernel"], expected, rtol=RTOL, atol=1e-12)
    np.testing.assert_array_equal(found["linear"]["bias"], params["linear"]["bias"])
    assert_trees_equal(found["norm1"], moved["norm1"])


def test_the_folded_network_is_the_shifted_one(case):
    (network, *trees), (factorised, params, carried), batch = case
    moved = shifted(params, seed=1)
    expected, _ = factorised(moved, carried, batch["image"])
    found, _ = network(*spectral.fold(moved, carried, tuple(trees)), batch["image"])
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=1e-12)


def test_trace_of_the_shifts_by_finite_differences(case):
    _, (network, params, carried), batch = case
    params = shifted(params, seed=2)
    log_prob_fn = make_log_prob_fn(network)
    flat, unravel = ravel_pytree(params)
    log_probs = jax.jit(
        jax.vmap(lambda p, example: log_prob_fn(unravel(p), carried, example), in_axes=(None, 0))
    )
    step, total = 1e-6, 0.0
    for i in range(len(flat)):
        up, down = (log_probs(flat.at[i].add(sign * step), batch) for sign in (1, -1))
        total += np.mean(((up - down) / (2 * step)) ** 2)
    found = fisher.trace(lambda p, example: log_prob_fn(p, carried, example), params, batch)
    np.testing.assert_allclose(found, total, rtol=1e-5)


def test_the_step_takes_no_gradient_of_a_kernel():
    """In the program of a whole step no convolution or product has the shape of a kernel, or a batch of kernels."""
    network, params, carried = spectral.factorise(*split_module(drawn_model("small_vgg", 5, 32, width=6)))
    chosen = Settings(0.1, 3, eta_f=1.0, num_probes=0, trace_batch_size=4)
    step = purify.make_step(
        make_objective(network, batch_statistics=True, dropout=False), chosen, lambda key, step, data: data
    )
    state = purify.init_state(chosen, params, carried, jax.random.key(0))
    batch = {"image": jnp.zeros((7, 32, 32, 3)), "label": jnp.zeros(7, jnp.int32)}
    jaxpr = jax.make_jaxpr(step)(state, None, batch)
    kernels = {
        tuple(sorted(leaf.shape)) for leaf in jax.tree.leaves(carried) if leaf.ndim > 1 and leaf.size > 36
    }
    made = [
        tuple(sorted(var.aval.shape))
        for equation in _equations(jaxpr.jaxpr)
        if equation.primitive.name in ("conv_general_dilated", "dot_general")
        for var in equation.outvars
    ]
    assert len(made) > 30
    for shape in made:
        assert shape not in kernels
        assert all(tuple(sorted((4, *kernel))) != shape for kernel in kernels)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


@pytest.mark.parametrize("whole", [False, True])
def test_the_default_trains_the_head_whole_and_decays_it_alone(whole):
    network, *trees = split_module(drawn_model("small_vgg", 5, 8, width=2))
    config = default_config()
    config.defense.update({"name": "fast_fip", "steps": 1, "batch_size": 4})
    assert config.defense.fast_fip.whole_head
    config.defense.fast_fip.whole_head = whole
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    start = begin(config, network, *trees, Split(images, np.arange(4, dtype=np.int32)))
    assert set(start.state.params["classifier"]) == ({"kernel", "bias"} if whole else {"values"})
    decayed = jax.tree_util.tree_leaves_with_path(purify.kernels(start.state.params))
    assert [jax.tree_util.keystr(path) for path, is_kernel in decayed if is_kernel] == (
        ["['classifier']['kernel']"] if whole else []
    )


@pytest.mark.parametrize("values", [False, True])
def test_the_gate_of_singular_values(values):
    network, *trees = split_module(drawn_model("small_vgg", 5, 8, width=2))
    config = default_config()
    config.defense.update({"name": "fast_fip", "steps": 1, "batch_size": 4})
    config.defense.fast_fip.update({"weight_decay": 0.1, "decay_values": values})
    config.defense.fast_fip.gate.over = "weight"
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    start = begin(config, network, *trees, Split(images, np.arange(4, dtype=np.int32)))
    for path, share in jax.tree_util.tree_leaves_with_path(start.anchor.gate):
        name = jax.tree_util.keystr(path)
        assert ((share >= 0) & (share <= 1)).all()
        if name.endswith("['values']") and values:
            # Half of them are more important than the median, and decay by less than half.
            assert abs((share < 0.5).mean() - 0.5) <= 0.5 / share.size + 1e-6, name
        elif name == "['classifier']['kernel']":
            assert share.shape == start.state.params["classifier"]["kernel"].shape
        else:
            assert (share == 0).all(), name


def test_shared_and_grouped_layers():
    class Odd(nnx.Module):
        def __init__(self):
            self.grouped = nnx.Conv(4, 4, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))
            self.first = nnx.Linear(4, 4, rngs=nnx.Rngs(1))
            self.second = self.first
            self.gain = nnx.Param(jnp.ones(4))
            self.norm = nnx.InstanceNorm(4, rngs=nnx.Rngs(2))

        def __call__(self, x, rngs=None):
            return self.second(
                self.first(self.norm(self.grouped(x)) * self.gain[...].reshape(1, 1, 1, 4))
            ).mean((1, 2))

    network, params, model_state = split_module(Odd(), (0.0,) * 4, (1.0,) * 4)
    factorised, shifts, carried = spectral.factorise(network, params, model_state)
    assert {key: set(part) for key, part in shifts.items()} == {
        "first": {"values"},
        "norm": {"scale", "bias"},
    }
    images = jax.random.uniform(jax.random.key(0), (2, 5, 5, 4))
    expected, _ = network(params, model_state, images)
    np.testing.assert_allclose(factorised(shifts, carried, images)[0], expected, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda leaf: leaf + 0.3, shifts)
    expected, _ = factorised(moved, carried, images)
    found, _ = network(*spectral.fold(moved, carried, (params, model_state)), images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
