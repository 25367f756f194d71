"""A known trigger, pixel by pixel, against numbers worked out by hand."""

import numpy as np
import pytest
from PIL import Image

from fip_jax.attacks import create_attack
from fip_jax.errors import UserError

SHAPE = (2, 3, 3)
GREY = np.full((1, *SHAPE), 100, np.uint8)
# Red in one pixel, half grey in another, black elsewhere.
PATTERN = np.zeros(SHAPE, np.uint8)
PATTERN[0, 0] = (255, 0, 0)
PATTERN[1, 2] = (128, 128, 128)


@pytest.fixture
def png(tmp_path):
    Image.fromarray(PATTERN).save(tmp_path / "pattern.png")
    return str(tmp_path / "pattern.png")


def stamp(images=GREY, **options):
    return create_attack("pattern", images.shape[1:], options).stamp(images)[0]


def saved(tmp_path, name, array):
    np.save(tmp_path / name, array)
    return str(tmp_path / name)


def test_replace_puts_the_pattern_where_it_is_not_black(png):
    expected = GREY[0].copy()
    expected[0, 0], expected[1, 2] = (255, 0, 0), 128
    np.testing.assert_array_equal(stamp(file=png), expected)


def test_replace_through_a_mask(png, tmp_path):
    mask = np.zeros((3, 2, 3), np.float32)  # channels first, as published masks are
    mask[:, 0, 1] = 1
    mask[0, 0, 0] = 0.5
    expected = GREY[0].copy()
    expected[0, 1] = 0
    expected[0, 0, 0] = 178  # 50 + 127.5, to the nearest even of 177.5
    np.testing.assert_array_equal(stamp(file=png, mask=saved(tmp_path, "mask.npy", mask)), expected)


def test_add_is_clipped(png):
    expected = GREY[0].astype(int) + PATTERN
    np.testing.assert_array_equal(stamp(file=png, apply="add"), np.minimum(expected, 255))


def test_blend_covers_the_whole_image(png):
    expected = np.full(SHAPE, 80)  # 0.8 * 100
    expected[0, 0, 0] = 131  # 80 + 0.2 * 255
    expected[1, 2] = 106  # 80 + 0.2 * 128 = 105.6
    np.testing.assert_array_equal(stamp(file=png, apply="blend", alpha=0.2), expected)


def test_arrays_are_patterns_as_well(png, tmp_path):
    for index, array in enumerate((PATTERN, PATTERN.transpose(2, 0, 1), PATTERN / 255.0)):
        found = stamp(file=saved(tmp_path, f"{index}.npy", array))
        np.testing.assert_array_equal(found, stamp(file=png))
    grey = saved(tmp_path, "grey.npy", np.full(SHAPE[:2], 255, np.uint8))
    np.testing.assert_array_equal(stamp(file=grey), np.full(SHAPE, 255))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"file": ""}, "attack.pattern.file: found no file ''"),
        ({"apply": "paint"}, "attack.pattern.apply: found 'paint'"),
        ({"alpha": 0.5}, "attack.pattern.alpha: found 0.5"),
        ({"apply": "blend", "alpha": 0.0}, "attack.pattern.alpha: found 0.0"),
        ({"mask": "nowhere.png"}, "attack.pattern.mask: found no file 'nowhere.png'"),
    ],
)
def test_bad_options_are_named(png, options, part):
    with pytest.raises(UserError) as caught:
        stamp(**({"file": png} | options))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.uint8), np.full(SHAPE, 2.0), np.full(SHAPE, np.nan), np.array([{}])]
)
def test_bad_files_are_named(tmp_path, array):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=r"bad\.npy"):
        stamp(file=str(tmp_path / "bad.npy"))
    (tmp_path / "bad.png").write_text("<html>")
    with pytest.raises(UserError, match=r"bad\.png"):
        stamp(file=str(tmp_path / "bad.png"))
