"""Corruptions pixel by pixel: where they are, how large and how strong, and of which images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.data import corruptions
from fip_jax.data.corruptions import CONTENTS, KINDS, corrupt

KEY = jax.random.key(0)
OPTIONS = {
    "patch": {"smallest": 0.1, "largest": 0.3, "contents": tuple(CONTENTS)},
    "wave": {"amplitude": 0.2, "frequency": 8.0},
    "overlay": {"opacity": 0.25},
    "warp": {"strength": 0.1, "points": 3},
    "posterize": {"fewest": 2, "most": 5},
}


def images(count=20, height=10, width=14, channels=3):
    """Images that differ in every pixel."""
    return jnp.asarray(
        np.random.default_rng(0).uniform(0.3, 0.7, (count, height, width, channels)), jnp.float32
    )


def test_each_image_gets_one_kind_or_none_by_the_rates():
    # Each kind replaced by one that writes its number.
    marks = {name: (lambda key, x, mark: jnp.full_like(x, mark)) for name in KINDS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corruptions, "KINDS", marks)
        kinds = {
            "patch": {"rate": 0.5, "mark": 1.0},
            "wave": {"rate": 0.0, "mark": 2.0},
            "overlay": {"rate": 0.2, "mark": 3.0},
        }
        found = np.asarray(corrupt(KEY, jnp.zeros((4000, 2, 2, 1)), kinds))
    assert (found == found[:, :1, :1]).all()
    values, counts = np.unique(found[:, 0, 0, 0], return_counts=True)
    # Of 4000: 1200 as they are, 2000 and 800, with deviations of 29, 32 and 25.
    assert values.tolist() == [0, 1, 3]
    assert (np.abs(counts - [1200, 2000, 800]) < 130).all()


def test_without_rates_nothing_happens():
    plain = images()
    np.testing.assert_array_equal(corrupt(KEY, plain, {}), plain)
    still = {name: {"rate": 0.0, **OPTIONS[name]} for name in KINDS}
    np.testing.assert_array_equal(corrupt(KEY, plain, still), plain)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(3, 8, 8, 1), (5, 9, 16, 3), (2, 32, 32, 4)])
def test_every_kind_takes_any_size_and_keeps_the_range(name, shape):
    plain = jnp.asarray(np.random.default_rng(1).uniform(size=shape), jnp.float32)
    found = jax.jit(lambda key, x: corrupt(key, x, {name: {"rate": 1.0, **OPTIONS[name]}}))(KEY, plain)
    assert found.shape == shape
    assert found.dtype == plain.dtype
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert (np.asarray(found) != np.asarray(plain)).any()
    other = corrupt(jax.random.key(1), plain, {name: {"rate": 1.0, **OPTIONS[name]}})
    assert (np.asarray(found) != np.asarray(other)).any()


@pytest.mark.parametrize("size", [2, 3])
def test_patches_are_squares_with_their_centre_anywhere(size):
    height, width = 5, 7
    plain = jnp.full((2000, height, width, 3), 2.0)  # which no content is
    found = np.asarray(corruptions.patch(KEY, plain, size / height, size / height, ("colour",)))
    places = set()
    for image, mask in zip(found, (found != 2).any(axis=-1), strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.sum() == len(rows) * len(columns)
        assert len(np.unique(image[mask], axis=0)) == 1
        # Cut off by the edges alone.
        for side, all_of in ((rows, height), (columns, width)):
            assert len(side) == size or side[0] == 0 or side[-1] == all_of - 1
        places.add((rows[0], rows[-1], columns[0], columns[-1]))
    # A square for each centre; none of them is cut off like another.
    assert len(places) == height * width


def test_patches_have_all_sizes_from_smallest_to_largest():
    plain = jnp.zeros((500, 32, 32, 1))
    mask = np.asarray(corruptions.squares(KEY, plain, 0.06, 0.22))[..., 0]
    sides = mask.any(axis=2).sum(axis=1)
    # 0.06 and 0.22 of 32 are 2 and 7; at the edge a part of it.
    assert set(sides) == {1, 2, 3, 4, 5, 6, 7}
    assert (mask.sum(axis=(1, 2)) == sides * mask.any(axis=1).sum(axis=1)).all()


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_of_patches(name):
    plain = images(50, 12, 12)
    found = np.asarray(corruptions.patch(KEY, plain, 0.25, 0.25, (name,)))
    for index, (before, after) in enumerate(zip(np.asarray(plain), found, strict=True)):
        changed = (before != after).any(axis=-1)
        pixels = after[changed]
        distinct = len(np.unique(pixels, axis=0))
        if name == "colour":
            assert distinct == 1
        elif name == "noise":
            assert distinct == len(pixels)
        elif name == "binary":
            assert set(np.unique(pixels)) <= {0.0, 1.0}
        elif changed.any():  # else it met itself
            sources = [i for i, x in enumerate(np.asarray(plain)) if np.array_equal(x[changed], pixels)]
            assert len(sources) == 1
            assert sources != [index]
    if name == "binary":
        assert {0.0, 1.0} <= set(np.unique(found))


def test_contents_are_equally_likely():
    plain = jnp.full((3000, 6, 6, 3), 0.5)
    found = np.asarray(corruptions.patch(KEY, plain, 0.5, 0.5, ("colour", "binary")))
    is_binary = np.isin(found, (0.0, 0.5, 1.0)).all(axis=(1, 2, 3))
    assert abs(is_binary.mean() - 0.5) < 0.04  # a deviation of 0.009


def test_waves_are_plane_waves():
    plain = jnp.full((40, 32, 32, 3), 0.5)
    added = np.asarray(corruptions.wave(KEY, plain, 0.2, 10.0)) - 0.5
    assert np.abs(added).max() <= 0.2
    assert np.abs(added).max(axis=(1, 2, 3)).std() > 0.03
    np.testing.assert_allclose(added, added[..., :1].repeat(3, axis=-1), atol=1e-6)
    rows, columns = np.meshgrid(np.arange(32) / 32, np.arange(32) / 32, indexing="ij")
    for image in added[:8, :, :, 0]:
        # Found again by its spectrum: of all plane waves the best explains nearly everything.
        best = 1.0
        for angle in np.linspace(0, np.pi, 90, endpoint=False):
            along = 2 * np.pi * (np.cos(angle) * columns + np.sin(angle) * rows).ravel()
            for cycles in np.arange(1, 10.01, 0.1):
                basis = np.stack([np.sin(cycles * along), np.cos(cycles * along)], axis=1)
                # The two are nearly orthogonal, with a squared length of 512.
                left = image.ravel() - basis @ (basis.T @ image.ravel()) / 512
                best = min(best, (left**2).sum() / (image**2).sum())
        assert best < 0.1


def test_overlays_are_mixtures_with_noise_or_another_image():
    plain = images(200, 6, 6)
    found = np.asarray(corruptions.overlay(KEY, plain, 0.25))
    originals = np.asarray(plain).reshape(200, -1)
    with_image = 0
    for index, (before, after) in enumerate(zip(originals, found.reshape(200, -1), strict=True)):
        difference = after - before
        # after = before + share (other - before)
        directions = originals - before
        share = (directions @ difference) / np.maximum((directions**2).sum(axis=1), 1e-9)
        left = ((difference - share[:, None] * directions) ** 2).sum(axis=1)
        left[index] = np.inf
        if left.min() < 1e-9 and np.abs(difference).max() > 0:
            with_image += 1
            assert 0 <= share[left.argmin()] <= 0.25
    # Half of them, with a deviation of 7.
    assert abs(with_image - 100) < 30


def test_posterized_images_have_so_many_levels():
    plain = jnp.linspace(0, 1, 256).reshape(1, 16, 16, 1).repeat(60, axis=0)
    found = np.asarray(corruptions.posterize(KEY, plain, 2, 5))
    levels = [np.unique(image) for image in found]
    assert {len(values) for values in levels} == {2, 3, 4, 5}
    for values in levels:
        np.testing.assert_allclose(values, np.linspace(0, 1, len(values)), atol=1e-6)
    assert np.abs(found - np.asarray(plain)).max() <= 0.5 + 1e-6


def test_a_warp_moves_pixels_a_little_and_smoothly():
    side = 32
    centres = (np.arange(side) + 0.5) / side - 0.5
    rows, columns = np.meshgrid(centres, centres, indexing="ij")
    # Of an image whose values are its coordinates, the values are where they come from.
    plain = jnp.asarray(np.stack([rows, columns], axis=-1)[None].repeat(50, axis=0), jnp.float32)
    moved = np.asarray(corruptions.warp(KEY, plain, 0.05, 4) - plain)[:, 4:-4, 4:-4]
    # Cubic interpolation overshoots its points by a little.
    assert 0.03 < np.abs(moved).max() < 0.08
    # From point to point, 8 pixels, by at most 0.1, at most one and a half times as steep on the way.
    assert np.abs(np.diff(moved, axis=1)).max() < 1.5 * 0.1 / 8 + 0.005
    assert (np.abs(moved).max(axis=(1, 2)) > 0.005).all()
    assert np.abs(np.asarray(corruptions.warp(KEY, plain, 0.0, 4) - plain)).max() < 1e-5
