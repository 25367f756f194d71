"""Batches as a function of key and step; windows and mirror images pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.data.batches import batch_indices, make_draw, random_crop, to_device, to_unit

KEY = jax.random.key(0)


def data(num=12, size=4):
    """Images that differ in every pixel, of values 1 to 255, and labels 0, 1, ..."""
    rng = np.random.default_rng(0)
    return to_device(rng.integers(1, 256, (num, size, size, 3)), np.arange(num))


def epoch(key, number, total, batch_size):
    steps = range(number * (total // batch_size), (number + 1) * (total // batch_size))
    return np.concatenate([batch_indices(key, jnp.int32(step), total, batch_size) for step in steps])


def test_every_epoch_visits_every_index_once():
    epochs = [epoch(KEY, number, 12, 4) for number in range(3)]
    for indices in epochs:
        assert sorted(indices) == list(range(12))
    assert len({tuple(indices) for indices in epochs}) == 3
    assert tuple(epoch(jax.random.key(1), 0, 12, 4)) != tuple(epochs[0])


def test_what_does_not_fill_a_batch_is_left_out_of_the_epoch():
    # 14 in fours: three batches of twelve different indices, and others left out in another epoch.
    epochs = [epoch(KEY, number, 14, 4) for number in range(4)]
    for indices in epochs:
        assert len(set(indices)) == 12
        assert set(indices) <= set(range(14))
    assert len({frozenset(indices) for indices in epochs}) > 1


def test_a_batch_is_a_function_of_key_and_step():
    draw = make_draw(4, crop_padding=1, flip=True)
    batch = draw(KEY, jnp.int32(7), data())
    for other in (draw(KEY, jnp.int32(7), data()), jax.jit(draw)(KEY, jnp.int32(7), data())):
        np.testing.assert_array_equal(batch["label"], other["label"])
        np.testing.assert_allclose(batch["image"], other["image"], rtol=1e-6)
    draw = jax.jit(draw)
    for other in (draw(KEY, jnp.int32(8), data()), draw(jax.random.key(1), jnp.int32(7), data())):
        assert (batch["label"] != other["label"]).any()


def test_images_and_labels_stay_together():
    whole = data()
    batch = make_draw(5)(KEY, jnp.int32(1), whole)
    assert batch["image"].dtype == jnp.float32
    assert batch["label"].dtype == jnp.int32
    expected = np.asarray(whole["image"])[np.asarray(batch["label"])].astype(np.float32) / 255
    np.testing.assert_allclose(batch["image"], expected, rtol=1e-6)


def test_further_leaves_come_along():
    whole = {**data(), "weight": jnp.arange(12.0) * 10}
    batch = make_draw(4)(KEY, jnp.int32(0), whole)
    np.testing.assert_array_equal(batch["weight"], batch["label"] * 10)


def test_a_data_set_smaller_than_a_batch():
    batch = make_draw(64)(KEY, jnp.int32(3), data(num=5))
    assert sorted(np.asarray(batch["label"])) == [0, 1, 2, 3, 4]


def test_unit_range():
    found = to_unit(jnp.array([0, 51, 255], jnp.uint8))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [0.0, 0.2, 1.0], rtol=1e-6)


@pytest.mark.parametrize("padding", [1, 2])
def test_crops_are_windows_of_the_padded_image(padding):
    images = np.asarray(data(num=300)["image"])
    found = np.asarray(random_crop(KEY, jnp.asarray(images), padding))
    assert found.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    offsets = []
    for image, canvas in zip(found, padded, strict=True):
        matching = [
            (y, x)
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            if np.array_equal(image, canvas[y : y + 4, x : x + 4])
        ]
        assert len(matching) == 1
        offsets += matching
    # All (2 padding + 1)^2 windows, at most 25, turn up among 300.
    assert len(set(offsets)) == (2 * padding + 1) ** 2


def test_flips_mirror_about_half_of_the_images_left_to_right():
    whole = data(num=400)
    batch = jax.jit(make_draw(400, flip=True))(KEY, jnp.int32(0), whole)
    originals = np.asarray(to_unit(whole["image"]))[np.asarray(batch["label"])]
    found = np.asarray(batch["image"])
    same = (found == originals).all(axis=(1, 2, 3))
    mirrored = (found == originals[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    # 200 with a deviation of 10.
    assert abs(mirrored.sum() - 200) < 40


@pytest.mark.parametrize("options", [{"crop_padding": 2}, {"flip": True}])
def test_augmentation_differs_from_step_to_step(options):
    # Copies of one image, so that the order of the batch does not matter.
    copies = {name: jnp.repeat(leaf, 50, axis=0) for name, leaf in data(num=1).items()}
    draw = jax.jit(make_draw(50, **options))
    first, second = (np.asarray(draw(KEY, jnp.int32(step), copies)["image"]) for step in (0, 1))
    assert not np.array_equal(first, second)
