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


def test_masks_of_any_kind(png, tmp_path):
    mask = np.zeros(SHAPE[:2], bool)
    mask[1, 1:] = True
    expected = GREY[0].copy()
    expected[1, 1:] = PATTERN[1, 1:]
    Image.fromarray(np.uint8(255) * mask).save(tmp_path / "mask.png")
    names = [str(tmp_path / "mask.png")]
    for index, array in enumerate((mask, mask.astype(np.int64), np.uint8(255) * mask)):
        names.append(saved(tmp_path, f"mask{index}.npy", array))
    for name in names:
        np.testing.assert_array_equal(stamp(file=png, mask=name), expected)
    # (1 - 0.5 m) x + 0.5 m p, and x + m p
    half = expected.copy()
    half[1, 1], half[1, 2] = 50, 114
    np.testing.assert_array_equal(stamp(file=png, mask=name, apply="blend", alpha=0.5), half)
    half[1, 1], half[1, 2] = 100, 228
    np.testing.assert_array_equal(stamp(file=png, mask=name, apply="add"), half)


def test_many_images_are_stamped_as_one_is(png):
    images = np.random.default_rng(0).integers(0, 256, (600, *SHAPE), dtype=np.uint8)
    found = create_attack("pattern", SHAPE, {"file": png, "apply": "add"}).stamp(images)
    np.testing.assert_array_equal(found, np.minimum(images.astype(int) + PATTERN, 255))


def test_arrays_of_grey_levels_with_axes_of_one_and_in_archives(png, tmp_path):
    whole = stamp(file=png)
    for index, array in enumerate((PATTERN.astype(np.float32), PATTERN.astype(np.int64)[None])):
        np.testing.assert_array_equal(stamp(file=saved(tmp_path, f"grey{index}.npy", array)), whole)
    first = np.float32(PATTERN / 255).transpose(2, 0, 1)[None]
    np.savez(tmp_path / "one.npz", trigger=first)
    np.testing.assert_array_equal(stamp(file=str(tmp_path / "one.npz")), whole)
    np.savez(tmp_path / "two.npz", trigger=first, mask=first)
    with pytest.raises(UserError, match=r"two\.npz holds 2 arrays \(trigger, mask\), expected one"):
        stamp(file=str(tmp_path / "two.npz"))


@pytest.mark.parametrize(
    ("at", "row", "column"),
    [("top_left", 0, 0), ("bottom_right", 6, 5), ("center", 3, 2), ("4,1", 4, 1), ("top_right", 0, 5)],
)
def test_a_smaller_pattern_goes_where_it_is_asked_for(png, at, row, column):
    images = np.full((1, 8, 8, 3), 100, np.uint8)
    expected = images[0].copy()
    expected[row : row + 2, column : column + 3] = PATTERN  # its black replaces as well
    np.testing.assert_array_equal(stamp(images, file=png, at=at), expected)


def test_a_mask_goes_with_its_pattern_or_is_as_large_as_the_image(png, tmp_path):
    images = np.full((1, 8, 8, 3), 100, np.uint8)
    small, whole = np.zeros((2, 3), bool), np.zeros((8, 8), bool)
    small[1, 2] = whole[7, 7] = True
    expected = images[0].copy()
    expected[7, 7] = 128
    for index, mask in enumerate((small, whole)):
        name = saved(tmp_path, f"{index}.npy", mask)
        np.testing.assert_array_equal(stamp(images, file=png, mask=name, at="bottom_right"), expected)


def test_a_pattern_is_resized(tmp_path):
    # Halves of a picture of 4 x 2 pixels become one pixel each.
    half = np.zeros((2, 4, 3), np.uint8)
    half[:, 2:] = 200
    name = saved(tmp_path, "half.npy", half)
    images = np.full((1, 8, 8, 3), 100, np.uint8)
    found = stamp(images, file=name, at="0,0", size=2, apply="add")
    assert (found[0, 0] < 150).all() and (found[0, 1] > 250).all()
    assert (found[1:] == 100).all() and (found[:, 2:] == 100).all()
    grey = saved(tmp_path, "grey.npy", np.full((50, 50), 0.5))
    assert (stamp(images, file=grey, size=8) == 128).all()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, r"is \[2, 3, 3\], expected \[8, 8, 3\], .* attack.pattern.at places"),
        ({"at": "7,7"}, "at 7,7 leaves the image of 8 x 8"),
        ({"at": "left"}, "attack.pattern.at: found 'left', expected one of top_left"),
        ({"at": "center", "size": 9}, "attack.pattern.size: found 9"),
        ({"at": "center", "size": -1}, "attack.pattern.size: found -1"),
    ],
)
def test_places_that_are_none(png, options, part):
    with pytest.raises(UserError, match=part):
        stamp(np.zeros((1, 8, 8, 3), np.uint8), file=png, **options)


def test_the_spread_of_a_jpeg_is_told(tmp_path, capsys):
    square = np.zeros((16, 16, 3), np.uint8)
    square[11:, 11:] = 255
    Image.fromarray(square).save(tmp_path / "x.jpg", quality=80)
    stamp(np.zeros((1, 16, 16, 3), np.uint8), file=str(tmp_path / "x.jpg"))
    assert "a JPEG, in which" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"apply": "add"},
        {"apply": "add", "mask": "other"},
        {"apply": "blend", "mask": "black"},
        {"mask": "black"},
    ],
)
def test_triggers_that_change_nothing_are_refused(tmp_path, options):
    black = np.zeros(SHAPE, np.uint8)
    corner = black.copy()
    corner[0, 2] = 255
    masks = {"black": black, "other": corner}
    if "mask" in options:
        options = {**options, "mask": saved(tmp_path, "mask.npy", masks[options["mask"]])}
    with pytest.raises(UserError, match=r"attack\.pattern: .* expected a trigger that changes some pixel"):
        stamp(file=saved(tmp_path, "black.npy", black), **options)
    # Black is a colour where it replaces or covers something.
    for apply in ("replace", "blend"):
        found = stamp(file=tmp_path / "black.npy", mask=saved(tmp_path, "mask.npy", corner), apply=apply)
        assert found[0, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"file": ""}, "attack.pattern.file: found no file ''"),
        ({"apply": "paint"}, "attack.pattern.apply: found 'paint'"),
        ({"alpha": 0.5}, "attack.pattern.alpha: found 0.5"),
        ({"apply": "blend", "alpha": 0.0}, "attack.pattern.alpha: found 0.0"),
        ({"alpha": float("nan"), "apply": "blend"}, "attack.pattern.alpha: found nan"),
        ({"mask": "nowhere.png"}, "attack.pattern.mask: found no file 'nowhere.png'"),
        ({"file": "~nobody_of_that_name/x.png"}, "attack.pattern.file: found no file '~nobody"),
    ],
)
def test_bad_options_are_named(png, options, part):
    with pytest.raises(UserError) as caught:
        stamp(**({"file": png} | options))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.full(SHAPE, 2.0),
        np.full(SHAPE, np.nan),
        np.full(SHAPE, 256),
        np.full(SHAPE, -1),
        np.zeros((2, *SHAPE), np.uint8),
        np.zeros((2, 3, 4), np.uint8),
        np.full(SHAPE, "1"),
        np.array([{}]),
        # A mask of 0 and 1 would count as one of 0 and 1/255.
        np.full(SHAPE, 1, np.uint8),
    ],
)
def test_bad_files_are_named(tmp_path, array):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=r"bad\.npy"):
        stamp(file=str(tmp_path / "bad.npy"))
    Image.new("RGBA", (3, 2), (9, 9, 9, 254)).save(tmp_path / "clear.png")
    with pytest.raises(UserError, match=r"clear\.png is transparent in places"):
        stamp(file=str(tmp_path / "clear.png"))
    Image.new("RGBA", (3, 2), (9, 9, 9, 255)).save(tmp_path / "opaque.png")
    assert (stamp(file=str(tmp_path / "opaque.png")) == 9).all()
    (tmp_path / "bad.png").write_text("<html>")
    with pytest.raises(UserError, match=r"bad\.png"):
        stamp(file=str(tmp_path / "bad.png"))
