"""Triggers pixel by pixel, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attackers import untrained

from fip_jax.attacks import ATTACKS, create_attack
from fip_jax.attacks.attack import saturate
from fip_jax.errors import UserError

SHAPE = (6, 8, 3)
IMAGES = np.random.default_rng(0).integers(0, 255, (5, *SHAPE), dtype=np.uint8)  # no 255 among them


def stamp(name, images, **options):
    return create_attack(name, images.shape[1:], options).stamp(images)


def flat(value):
    return np.full((1, *SHAPE), value, np.uint8)


@pytest.mark.parametrize(
    "size, margin, rows, columns",
    [
        # Of 6 x 8 pixels, counted from 0: the last three rows and columns.
        (3, 0, (3, 4, 5), (5, 6, 7)),
        # Two pixels, one away from either edge.
        (2, 1, (3, 4), (5, 6)),
        # One pixel as far away as fits: the first row, and the column as far from the right.
        (1, 5, (0,), (2,)),
        # The whole height.
        (6, 0, range(6), range(2, 8)),
    ],
)
def test_badnets_is_a_white_square_and_nothing_else(size, margin, rows, columns):
    found = stamp("badnets", IMAGES, size=size, margin=margin)
    white = (found == 255).all(axis=-1)
    expected = np.zeros(SHAPE[:2], bool)
    expected[np.ix_(rows, columns)] = True
    assert (white == expected).all()
    np.testing.assert_array_equal(found[:, ~expected], IMAGES[:, ~expected])


def test_blend_by_hand():
    # Black gives alpha p and white (1 - alpha) 255 + alpha p; alpha = 1 shows the pattern p itself.
    pattern = stamp("blend", flat(0), alpha=1.0).astype(int)
    np.testing.assert_array_equal(stamp("blend", flat(0), alpha=0.5), np.rint(pattern / 2))
    np.testing.assert_array_equal(stamp("blend", flat(255), alpha=0.2), np.rint(204 + pattern / 5))
    # A single pixel: 0.75 * 100 + 0.25 p.
    found = stamp("blend", flat(100), alpha=0.25)[0, 2, 3, 1]
    assert found == round(75 + 0.25 * pattern[0, 2, 3, 1])


def test_blend_patterns():
    pattern = stamp("blend", flat(0), alpha=1.0)
    # One pattern for every image, with whatever else is in the batch, and the same another time.
    black = np.zeros_like(IMAGES)
    np.testing.assert_array_equal(stamp("blend", black, alpha=1.0), np.repeat(pattern, len(black), axis=0))
    whole, alone = stamp("blend", IMAGES), stamp("blend", IMAGES[3:4])
    np.testing.assert_array_equal(whole[3:4], alone)
    np.testing.assert_array_equal(stamp("blend", IMAGES, pattern_seed=0), whole)
    # Noise over the full range, different in every channel, and another for another seed.
    assert pattern.min() < 20
    assert pattern.max() > 235
    assert pattern.std() == pytest.approx(256 / 12**0.5, rel=0.15)  # 74 for a uniform distribution
    assert not np.array_equal(pattern[..., 0], pattern[..., 1])
    other = stamp("blend", flat(0), alpha=1.0, pattern_seed=1)
    assert (other != pattern).mean() > 0.9


def test_sig_by_hand():
    # Two stripes across 8 columns: sin(pi j / 2) = 0, 1, 0, -1, 0, 1, 0, -1.
    found = stamp("sig", flat(100), amplitude=40.0, frequency=2.0)
    expected = np.array([100, 140, 100, 60] * 2)
    np.testing.assert_array_equal(found, np.broadcast_to(expected[None, None, :, None], (1, *SHAPE)))
    # One stripe: sin(pi j / 4), with 40 / sqrt(2) = 28.28 at j = 1.
    found = stamp("sig", flat(100), amplitude=40.0, frequency=1.0)
    assert found[0, 0, :, 0].tolist() == [100, 128, 140, 128, 100, 72, 60, 72]


def test_sig_saturates():
    # 250 + 40 and 5 - 40 would wrap around to 34 and 221.
    bright = stamp("sig", flat(250), amplitude=40.0, frequency=2.0)
    assert bright[0, 0, :4, 0].tolist() == [250, 255, 250, 210]
    dark = stamp("sig", flat(5), amplitude=40.0, frequency=2.0)
    assert dark[0, 0, :4, 0].tolist() == [5, 45, 5, 0]


@pytest.mark.parametrize("shape", [(28, 28, 1), (12, 18, 3)])
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"cba"}))  # whose images are composed of two
def test_triggers_of_any_shape(name, shape, tmp_path):
    options = {}
    if name == "pattern":
        np.save(tmp_path / "pattern.npy", np.full(shape, 255, np.uint8))
        options = {"file": str(tmp_path / "pattern.npy")}
    original = np.random.default_rng(3).integers(0, 255, (5, *shape), dtype=np.uint8)
    images, attack = original.copy(), create_attack(name, shape, options)
    state = untrained(attack, shape)
    found = attack.stamp(images, state)
    assert found.dtype == np.uint8
    assert found.shape == images.shape
    assert not np.shares_memory(found, images)
    np.testing.assert_array_equal(images, original)
    assert (found != images).any(axis=(1, 2, 3)).all()
    # Each image for itself, and the same inside of a compiled function.
    np.testing.assert_array_equal(attack.stamp(images[3:4], state), found[3:4])
    compiled = jax.jit(lambda state, images: saturate(attack.trigger(state, images)))
    np.testing.assert_allclose(compiled(state, jnp.asarray(images, jnp.float32)), found, atol=1)
    assert attack.stamp(images[:0], state).shape == (0, *shape)


@pytest.mark.parametrize(
    "name, options, key",
    [
        ("badnets", {"size": 0}, "attack.badnets"),
        ("badnets", {"margin": -1}, "attack.badnets"),
        ("badnets", {"size": 7}, "attack.badnets"),
        ("badnets", {"size": 3, "margin": 4}, "attack.badnets"),
        ("blend", {"alpha": 0.0}, "attack.blend.alpha"),
        ("blend", {"alpha": 1.1}, "attack.blend.alpha"),
        ("blend", {"alpha": float("nan")}, "attack.blend.alpha"),
        ("blend", {"pattern_seed": -1}, "attack.blend.pattern_seed"),
        ("sig", {"amplitude": 0.0}, "attack.sig"),
        ("sig", {"amplitude": 256.0}, "attack.sig"),
        ("sig", {"frequency": 0.0}, "attack.sig"),
        ("sig", {"frequency": float("nan")}, "attack.sig"),
        ("sig", {"frequency": float("inf")}, "attack.sig"),
        ("sig", {"frequency": SHAPE[1] / 2}, "attack.sig"),
        ("sig", {"frequency": float(SHAPE[1])}, "attack.sig"),
        ("sig", {"amplitude": 0.1}, "attack.sig"),
        ("nothing", {}, "attack.name"),
    ],
)
def test_refusals_name_the_key(name, options, key):
    with pytest.raises(UserError, match=f"^{key}: found") as caught:
        create_attack(name, SHAPE, options)
    for value in options.values():
        assert str(value) in str(caught.value)


def test_names():
    assert create_attack("none", SHAPE) is None
    clean_label = {
        name for name in set(ATTACKS) - {"pattern"} if create_attack(name, (16, 16, 3)).clean_label
    }
    assert clean_label == {"clb", "sig"}
