"""FIP's first move on a network: which leaves are kernels, what the budget means, and the decay by the same gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from oracles import assert_trees_close, assert_trees_equal, conv_net

from fip_jax import parallel, shrinking
from fip_jax.purify import with_gated_decay

OPTIONS = ConfigDict({"budget": 0.03, "power": 2.0, "fisher": "logits", "temperature": 1.0})
NOTHING = np.zeros(())
KERNELS = {"['conv1']['kernel']", "['conv2']['kernel']", "['linear']['kernel']"}


def gates(num=16, axis=None, dtype=np.float32, **options):
    network, params, model_state, batch = conv_net(num, dtype)
    options = ConfigDict({**OPTIONS.to_dict(), **options})
    found = shrinking.gates(options, network, params, model_state, batch, jax.random.key(3), 4, axis)
    return network, params, model_state, batch, found


def test_kernels_are_the_leaves_of_two_axes_or_more():
    _, params, _, _ = conv_net(dtype=np.float32)
    kernels, put_back = shrinking.split_kernels(params)
    assert set(kernels) == KERNELS
    assert_trees_equal(put_back(kernels), params)
    assert put_back({"['linear']['kernel']": 0})["linear"]["kernel"] == 0


@pytest.mark.parametrize("fisher", ["logits", "drawn", "empirical"])
def test_each_kernel_loses_its_part_of_the_budget(x64, fisher):
    network, params, model_state, batch, found = gates(dtype=np.float64, fisher=fisher)
    assert set(found) == KERNELS
    logits, _ = network(params, model_state, batch["image"])
    budget = 0.03 * float((logits**2).mean()) / 3
    fishers = shrinking.fisher_of_kernels(
        ConfigDict({**OPTIONS.to_dict(), "fisher": fisher}),
        network,
        params,
        model_state,
        batch,
        jax.random.key(3),
        4,
    )
    for name, kernel in shrinking.split_kernels(params)[0].items():
        fisher_matrix, gate = fishers[name], found[name]
        turned = (
            np.asarray(fisher_matrix.rotation[0]).T
            @ kernel.reshape(gate.share.shape)
            @ np.asarray(fisher_matrix.rotation[1])
        )
        energy = np.asarray(fisher_matrix.moments) * turned**2
        lost = (energy * np.asarray(gate.share) ** 2).sum()
        np.testing.assert_allclose(lost, min(budget, 0.05 * energy.sum()), rtol=1e-5)


def test_the_rest_of_the_network_stays_and_the_answers_nearly():
    network, params, model_state, batch, found = gates(budget=1e-4)
    after = shrinking.shrunk(params, found)
    kept = shrinking.split_kernels(params)[1](dict.fromkeys(KERNELS, NOTHING))
    assert_trees_equal(shrinking.split_kernels(after)[1](dict.fromkeys(KERNELS, NOTHING)), kept)
    before, now = (network(p, model_state, batch["image"])[0] for p in (params, after))
    assert 0 < float(((now - before) ** 2).mean()) < 1e-2 * float((before**2).mean())


def test_eight_devices_find_what_one_finds(x64):
    one, eight = (gates(axis=axis, dtype=np.float64)[-1] for axis in (None, parallel.AXIS))
    assert_trees_close(
        {name: gate.share for name, gate in eight.items()},
        {name: gate.share for name, gate in one.items()},
        rtol=1e-6,
        atol=1e-9,
    )


def test_the_decay_takes_the_part_that_the_gate_lets_go():
    _, params, _, _, found = gates()
    gradient = jax.tree.map(jnp.ones_like, params)
    total = with_gated_decay(gradient, params, shrinking.as_tree(params, found), 0.5)
    kernel = params["conv1"]["kernel"]
    part = found["['conv1']['kernel']"].part(kernel)
    assert float(jnp.abs(part).max()) > 0
    np.testing.assert_allclose(total["conv1"]["kernel"], 1 + 0.5 * part, rtol=1e-6)
    np.testing.assert_array_equal(total["norm1"]["scale"], 1)
