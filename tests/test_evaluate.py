"""Rates by hand; predictions batch by batch against all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import conv_net

from fip_jax.attacks.poison import TriggeredSet
from fip_jax.data.split import Split
from fip_jax.evaluate import (
    Rates,
    accuracy,
    defense_effectiveness,
    effectiveness,
    make_predict,
    rates,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 3), dtype=np.uint8)


def first_pixel(params, model_state, images):
    """A predictor whose class is the value of the first pixel."""
    return images[:, 0, 0, 0].astype(np.int32)


def images_of(*classes):
    return np.asarray(classes, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def test_accuracy_by_hand():
    found = accuracy(np.array([0, 1, 2, 3]), np.array([0, 1, 1, 3]))
    assert found == 0.75
    assert isinstance(found, float)


def test_rates_by_hand():
    # Clean: 3 of 4 right. Triggered, with target 0: 2 of 5 taken for the target, 1 for what it is.
    test = Split(images_of(0, 1, 2, 2), np.array([0, 1, 2, 3]))
    triggered = TriggeredSet(
        images_of(0, 3, 0, 3, 1),
        labels=np.array([1, 2, 3, 3, 2]),
        targets=np.zeros(5, np.int32),
        indices=np.arange(5),
    )
    assert rates(first_pixel, None, None, test, triggered) == Rates(0.75, 0.4, 0.2)
    # The first and the last of each kind.
    assert rates(first_pixel, None, None, test, triggered, limit=2) == Rates(0.5, 0.5, 0.0)
    assert rates(first_pixel, None, None, test, None) == Rates(0.75, None, None)
    # Where they show class 1 as well, the last is right, too; of the first and the last, one.
    both = triggered._replace(others=np.ones(5, np.int32))
    assert rates(first_pixel, None, None, test, both) == Rates(0.75, 0.4, 0.4)
    assert rates(first_pixel, None, None, test, both, limit=2) == Rates(0.5, 0.5, 0.5)


def test_effectiveness_needs_a_trigger():
    before, after = Rates(0.9, 1.0, 0.0), Rates(0.8, 0.1, 0.7)
    assert effectiveness(before, after) == pytest.approx(0.9, abs=1e-12)
    assert effectiveness(before._replace(asr=None), after) is None
    assert effectiveness(before, after._replace(asr=None)) is None


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
    expected = np.argmax(np.asarray(logits), axis=-1)
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
