"""Images held back from a purification, and images without labels: who gets which, and what they say."""

import jax.numpy as jnp
import numpy as np
import pytest

import fip_jax
from fip_jax import defend
from fip_jax.config import default_config
from fip_jax.data.split import Split
from fip_jax.errors import UserError
from fip_jax.held_back import HeldBack
from fip_jax.network import FunctionNetwork

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = (np.arange(40) % 4).astype(np.int32)


def apply_fn(params, images):
    """Class 1 where the mean brightness is above the threshold, else 0."""
    above = (images.mean(axis=(1, 2, 3)) - params["threshold"])[:, None]
    return above * jnp.array([[-1.0, 1.0, 0.0, 0.0]]) + jnp.array([[0.0, 0.0, -9.0, -9.0]])


def test_what_is_said_of_images_held_back():
    grey = np.array([10, 90, 110, 200], np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    held = Split(grey, np.array([0, 1, 1, 2], np.int32))
    look = HeldBack(FunctionNetwork(apply_fn), {"threshold": jnp.array(100 / 255)}, {}, held)
    # At 100 the answers are 0, 0, 1, 1: the first and the third are right.
    assert look({"threshold": jnp.array(100 / 255)}, {}) == (0.5, 1.0)
    # At 50 they are 0, 1, 1, 1: three are right, and three are as before.
    assert look({"threshold": jnp.array(50 / 255)}, {}) == (0.75, 0.75)


def started(unlabeled=None, **changes):
    config = default_config()
    config.defense.name = "ft"
    config.defense.update({"steps": 2, "batch_size": 8} | changes)
    params = {"threshold": jnp.array(0.5)}
    clean = Split(IMAGES, LABELS)
    return defend.begin(config, FunctionNetwork(apply_fn), params, {}, clean, unlabeled=unlabeled)


def test_what_is_held_back_is_not_learnt_from():
    start = started(hold_back=0.2)
    learnt = np.asarray(start.data["image"])
    # A fifth of the ten images of each class.
    assert np.bincount(start.data["label"]).tolist() == [8] * 4
    everything = {image.tobytes() for image in IMAGES}
    assert everything - {image.tobytes() for image in learnt} == {
        image.tobytes() for image in start.held_back._images.images
    }
    assert started().held_back is None
    assert len(started().data["image"]) == 40


def test_too_few_to_hold_back():
    with pytest.raises(UserError, match=r"^defense\.hold_back: found one clean image of each class"):
        fip_jax.purify_function(
            apply_fn, {"threshold": jnp.array(0.5)}, IMAGES[:4], LABELS[:4], hold_back=0.2, steps=1
        )


def test_images_without_labels_go_to_the_teacher():
    more = RNG.integers(0, 256, (100, 8, 8, 3), dtype=np.uint8)
    start = started(more, hold_back=0.2)
    np.testing.assert_array_equal(start.data["pool"], np.concatenate([start.data["image"], more]))
    assert "pool" not in started().data
    assert "pool" not in started(more[:0]).data


def test_images_without_labels_from_python(capsys):
    params = {"w": jnp.asarray(RNG.normal(size=(192, 4)) / 8, jnp.float32)}

    def linear(params, images):
        return images.reshape(len(images), -1) @ params["w"]

    def purified(**more):
        options = {"method": "ft", "steps": 2, "batch_size": 8}
        found = fip_jax.purify_function(linear, params, IMAGES, LABELS, **options, **more)
        return np.asarray(found["w"])

    more = RNG.integers(0, 256, (100, 8, 8, 3), dtype=np.uint8)
    plain, other = purified(), purified(unlabeled=more, hold_back=0.25)
    assert np.abs(plain - other).max() > 1e-5
    assert "images held back: ACC" in capsys.readouterr().out
    for wrong, found in (
        (more / 127, r"is float64 \[100, 8, 8, 3\] from 0 to 2.00787, expected uint8"),
        (more[:, :4], r"found \[100, 4, 8, 3\], expected \[M, 8, 8, 3\]"),
    ):
        with pytest.raises(UserError, match=rf"^unlabeled:? {found}"):
            purified(unlabeled=wrong)
