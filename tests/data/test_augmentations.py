"""Changed and mixed images against coordinates and mixtures worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.data import augmentations

KEY = jax.random.key(0)
STILL = {"turn": 0.0, "zoom": 0.0, "shift": 0.0, "shear": 0.0}


def images(count=6, height=9, width=12):
    return jnp.asarray(np.random.default_rng(0).uniform(size=(count, height, width, 3)), jnp.float32)


def test_nothing_is_moved_by_nothing():
    plain = images()
    np.testing.assert_allclose(augmentations.affine(KEY, plain, **STILL), plain, atol=1e-5)


@pytest.mark.parametrize("change, most", [("turn", 30.0), ("zoom", 0.3), ("shift", 0.2), ("shear", 20.0)])
def test_a_linear_image_shows_where_its_pixels_come_from(change, most):
    """Of an image whose values are the coordinates, the change can be read off at the middle, and is in its range."""
    side, count = 33, 200
    ramp = (np.arange(side) + 0.5) / side - 0.5
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    plain = jnp.asarray(np.stack([rows, columns], axis=-1)[None].repeat(count, axis=0), jnp.float32)
    found = np.asarray(augmentations.affine(KEY, plain, **STILL | {change: most}))
    middle = found[:, 16, 16]
    down = (found[:, 17, 16] - found[:, 15, 16]) * side / 2  # derivatives of (row, column) along the rows
    right = (found[:, 16, 17] - found[:, 16, 15]) * side / 2
    if change == "shift":
        assert 0.9 * most < np.abs(middle).max() <= most
        assert abs(np.corrcoef(middle.T)[0, 1]) < 0.3  # each way by itself
        np.testing.assert_allclose(down, [[1, 0]] * count, atol=1e-3)
    else:
        np.testing.assert_allclose(middle, 0, atol=1e-5)
    if change == "turn":
        angle = np.degrees(np.arctan2(right[:, 0], right[:, 1]))
        assert 0.9 * most < np.abs(angle).max() <= most
        np.testing.assert_allclose(np.linalg.norm(down, axis=1), 1, atol=1e-3)
        np.testing.assert_allclose((down * right).sum(axis=1), 0, atol=1e-3)
    if change == "zoom":
        scale = 1 / down[:, 0]
        assert 1 - most <= scale.min() < 1 - 0.9 * most
        assert 1 + 0.9 * most < scale.max() <= 1 + most
        np.testing.assert_allclose(down[:, 0], right[:, 1], atol=1e-3)
    if change == "shear":
        np.testing.assert_allclose(right, [[0, 1]] * count, atol=1e-3)
        angle = np.degrees(np.arctan2(-down[:, 1], down[:, 0]))
        assert 0.9 * most < np.abs(angle).max() <= most


def test_what_comes_in_from_outside_is_the_border():
    plain = images(50)
    found = np.asarray(augmentations.affine(KEY, plain, **STILL | {"shift": 0.9}))
    low, high = (np.asarray(getattr(plain, f)(axis=(1, 2), keepdims=True)) for f in ("min", "max"))
    assert (low - 1e-6 <= found).all()
    assert (found <= high + 1e-6).all()


def test_light_changes_mean_and_contrast_by_factors():
    plain = 0.4 + 0.2 * images(300)
    found = np.asarray(augmentations.light(KEY, plain, 0.3, 0.1))
    plain = np.asarray(plain)
    mean, new = (x.mean(axis=(1, 2, 3)) for x in (plain, found))
    assert 0.27 < np.abs(new / mean - 1).max() <= 0.3 + 1e-5
    factor = found.std(axis=(1, 2, 3)) / plain.std(axis=(1, 2, 3))
    assert 0.09 < np.abs(factor - 1).max() <= 0.1 + 1e-4
    expected = (plain - mean[:, None, None, None]) * factor[:, None, None, None] + new[:, None, None, None]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_mixing_blends_a_share_and_cuts_squares_into_another():
    count = 1000
    # Every image has a number of its own in all pixels.
    plain = jnp.broadcast_to(jnp.arange(count, dtype=jnp.float32)[:, None, None, None], (count, 12, 12, 1))
    found = np.asarray(augmentations.mix(KEY, plain, 0.5, 0.25))[..., 0]
    kinds = [len(np.unique(image)) for image in found]
    cut = np.array(kinds) == 2
    own = np.arange(count, dtype=np.float32)
    same = (found == own[:, None, None]).all(axis=(1, 2))
    # 500, 250 and 250 of 1000, with deviations of 16 and 14.
    assert abs((~cut & ~same).sum() - 500) < 80
    assert abs(cut.sum() - 250) < 70
    for number in np.flatnonzero(cut):
        square = found[number] != number
        rows, columns = (np.flatnonzero(square.any(axis=axis)) for axis in (1, 0))
        assert square.sum() == len(rows) * len(columns)
        assert max(len(rows), len(columns)) <= 9  # three quarters of 12
    # Nobody is mixed with a number that there is not.
    assert found.min() >= 0
    assert found.max() <= count - 1
