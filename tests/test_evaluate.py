"""Rates by hand; predictions batch by batch against all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import conv_net

from fip_jax.evaluate import accuracy, attack_success_rate, defense_effectiveness, make_predict

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 3), dtype=np.uint8)


def test_rates_by_hand():
    predictions, labels = np.array([0, 1, 2, 3]), np.array([0, 1, 1, 3])
    assert accuracy(predictions, labels) == 0.75
    assert isinstance(accuracy(predictions, labels), float)
    assert attack_success_rate(predictions, np.array([1, 1, 1, 1])) == 0.25


@pytest.mark.parametrize(
    "before, after, expected",
    [
        # (ACC, ASR): ASR falls by 0.9 and ACC by 0.1: (0.9 - 0.1 + 1) / 2.
        ((0.9, 1.0), (0.8, 0.1), 0.9),
        # Nothing changes.
        ((0.9, 1.0), (0.9, 1.0), 0.5),
        # ACC rises: no reward for that. ASR falls by 0.5.
        ((0.8, 1.0), (0.9, 0.5), 0.75),
        # ASR rises: counted as no fall. ACC falls by 0.4.
        ((0.9, 0.5), (0.5, 0.7), 0.3),
        # The extremes.
        ((1.0, 1.0), (1.0, 0.0), 1.0),
        ((1.0, 0.0), (0.0, 1.0), 0.0),
    ],
)
def test_defense_effectiveness_by_hand(before, after, expected):
    assert defense_effectiveness(*before, *after) == pytest.approx(expected, abs=1e-12)


def spied_network():
    network, params, model_state, _ = conv_net(dtype=np.float32)
    shapes = []

    def convolve(inputs, *arguments, **options):
        shapes.append(inputs.shape)
        return jax.lax.conv_general_dilated(inputs, *arguments, **options)

    return network._replace(convolve=convolve), params, model_state, shapes


def test_predictions_in_batches_equal_those_at_once():
    network, params, model_state, shapes = spied_network()
    # Spread over the classes, so that a wrong order shows.
    params["linear"]["kernel"] *= 20
    logits, _ = network(params, model_state, jnp.asarray(IMAGES, jnp.float32) / 255)
    params["linear"]["bias"] -= logits.mean(axis=0)
    logits, _ = network(params, model_state, jnp.asarray(IMAGES, jnp.float32) / 255)
    expected = np.argmax(logits, axis=-1)
    assert len(set(expected)) > 1
    shapes.clear()
    predict = make_predict(network)
    found = predict(params, model_state, IMAGES, batch_size=3)
    # The ragged batch of one is filled up: a single compilation, two convolutions.
    assert [shape[0] for shape in shapes] == [3, 3]
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(predict(params, model_state, IMAGES), expected)


def test_no_images_give_no_predictions():
    network, params, model_state, _ = conv_net(dtype=np.float32)
    found = make_predict(network)(params, model_state, IMAGES[:0])
    assert found.shape == (0,)
    assert found.dtype == np.int32
