"""Running statistics that move along with their inputs, against convolutions worked out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_trees_close, conv_net

from fip_jax.network import FunctionNetwork
from fip_jax.statistics import moved_along


def scaled(params, factor):
    return {**params, "conv1": {"kernel": factor * params["conv1"]["kernel"]}}


def first_outputs(network, params, images):
    shift, scale = (jnp.asarray(v).reshape(1, 1, 1, 3) for v in (network.mean, network.std))
    y = jax.lax.conv_general_dilated(
        (images - shift) / scale,
        params["conv1"]["kernel"],
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return np.asarray(y).reshape(-1, 4)


def test_where_nothing_changes_nothing_moves():
    network, params, model_state, batch = conv_net(6, np.float32)
    found = moved_along(network, (params, model_state), (params, model_state), batch, 4)
    assert_trees_close(found, model_state, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [6, 3])
def test_means_move_by_differences_and_variances_by_quotients(chunk_size):
    network, params, model_state, batch = conv_net(6, np.float32)
    found = moved_along(network, (params, model_state), (scaled(params, 2.0), model_state), batch, chunk_size)
    y = first_outputs(network, params, batch["image"])
    old = model_state["norm1"]
    np.testing.assert_allclose(found["norm1"]["mean"], old["mean"] + y.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["norm1"]["var"], 4 * old["var"], rtol=1e-5)
    # Normalised by the batch, the next layer sees what it saw.
    np.testing.assert_allclose(found["norm2"]["mean"], model_state["norm2"]["mean"], rtol=1e-3)


def test_a_plain_function_has_none_to_move():
    network = FunctionNetwork(lambda params, images: images.reshape(len(images), -1) @ params)
    state = {}
    assert moved_along(network, (jnp.ones((3, 2)), state), (jnp.zeros((3, 2)), state), {}, 2) is state
