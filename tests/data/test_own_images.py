"""The user's own images: folders and arrays, their classes, and one sentence where something is amiss."""

import io
import os
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from fip_jax.data import own_images, source
from fip_jax.data.held_out import keep_back
from fip_jax.data.npz import read_npy, read_npz
from fip_jax.data.pixels import to_square
from fip_jax.data.split import Split
from fip_jax.errors import UserError


def paint(path, colour, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


def colours(split):
    return [tuple(image[0, 0]) for image in split.images]


def refusal(name):
    with pytest.raises(UserError) as caught:
        source.load(str(name), image_size=8)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_folders_by_name_are_numbered_alphabetically(tmp_path):
    paint(tmp_path / "clean/zebra/1.png", (1, 1, 1))
    paint(tmp_path / "clean/ant/b.jpg", (200, 200, 200), size=(20, 10))
    paint(tmp_path / "clean/ant/a.png", (3, 3, 3), mode="L")
    paint(tmp_path / "test/bee/1.bmp", (4, 4, 4), mode="P")
    (tmp_path / "clean/ant/._a.png").write_text("what macOS leaves beside a file")
    data = source.load(str(tmp_path), image_size=8)
    assert data.class_names == ("ant", "bee", "zebra")
    assert data.train is None
    assert data.own
    np.testing.assert_array_equal(data.clean.labels, [0, 0, 2])
    assert colours(data.clean) == [(3, 3, 3), (200, 200, 200), (1, 1, 1)]
    assert data.clean.images.dtype == np.uint8
    assert data.clean.images.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(data.test.labels, [1])


def test_images_without_labels(tmp_path):
    paint(tmp_path / "clean/ant/1.png", (1, 1, 1))
    assert source.load(str(tmp_path), image_size=8).unlabeled is None
    paint(tmp_path / "unlabeled/b.png", (2, 2, 2), size=(20, 10))
    paint(tmp_path / "unlabeled/more/a.png", (3, 3, 3))
    (tmp_path / "unlabeled/notes.txt").write_text("from the cellar")
    data = source.load(str(tmp_path), image_size=8)
    assert data.class_names == ("ant",)
    assert data.unlabeled.shape == (2, 8, 8, 3)
    assert data.unlabeled.dtype == np.uint8
    assert data.unlabeled[:, 0, 0, 0].tolist() == [2, 3]
    arrays = {"clean_images": np.zeros((1, 8, 8, 3), np.uint8), "clean_labels": np.zeros(1, np.int64)}
    for pixels in (data.unlabeled, data.unlabeled / 255):
        np.savez(tmp_path / "own.npz", **arrays, unlabeled_images=pixels)
        np.testing.assert_array_equal(
            source.load(str(tmp_path / "own.npz"), image_size=8).unlabeled, data.unlabeled
        )
    np.savez(tmp_path / "own.npz", **arrays, unlabeled_images=np.zeros((2, 8), np.uint8))
    assert "unlabeled_images is uint8 [2, 8], expected" in refusal(tmp_path / "own.npz")
    (tmp_path / "hollow/clean/ant").mkdir(parents=True)
    paint(tmp_path / "hollow/clean/ant/1.png", (1, 1, 1))
    (tmp_path / "hollow/unlabeled").mkdir()
    assert "found no images in" in refusal(tmp_path / "hollow")


def test_folders_with_numbers_are_the_classes(tmp_path):
    for label in (2, 10):
        paint(tmp_path / f"train/{label:05}/1.png", (label,) * 3)
    data = source.load(str(tmp_path), image_size=8)
    assert len(data.class_names) == 11
    np.testing.assert_array_equal(data.train.labels, [2, 10])
    assert data.test is None


def test_numbers_are_said_to_be_indices(tmp_path, capsys):
    for name in ("90", "180", "270"):
        paint(tmp_path / f"clean/{name}/1.png", (0, 0, 0))
    source.load(str(tmp_path), image_size=8)
    said = "names are numbers and are taken for the indices of classes, 90 to 270, of which 0 has no images"
    assert said in capsys.readouterr().out
    paint(tmp_path / "test/0/1.png", (0, 0, 0))
    source.load(str(tmp_path), image_size=8)
    assert "classes, 0 to 270\n" in capsys.readouterr().out


def test_folders_of_one_number(tmp_path):
    for name in ("1", "01", "2"):
        paint(tmp_path / f"clean/{name}/1.png", (0, 0, 0))
    assert "found the folders 01, 1 in" in refusal(tmp_path)


def test_what_is_passed_over_is_said(tmp_path, capsys):
    paint(tmp_path / "clean/ant/1.png", (0, 0, 0))
    paint(tmp_path / "clean/ant/more/2.png", (0, 0, 0))
    (tmp_path / "clean/ant/linked.png").symlink_to("1.png")
    (tmp_path / "clean/ant/gone.png").symlink_to("nowhere.png")
    (tmp_path / "clean/bee").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "clean/ant/pipe.png")
    paint(tmp_path / "clean/stray.png", (0, 0, 0))
    assert len(source.load(str(tmp_path), image_size=8).clean.labels) == 2
    said = capsys.readouterr().out
    for part in (
        "1 folders inside of a class's passed over, clean/ant/more",
        "2 links to nothing passed over, clean/ant/gone.png",
        "1 pipes or devices passed over, clean/ant/pipe.png",
        "1 files outside of the folders of classes passed over, clean/stray.png",
    ):
        assert part in said, said


def test_numbers_among_words_are_words(tmp_path):
    for name in ("10", "9", "B"):
        paint(tmp_path / f"clean/{name}/1.png", (0, 0, 0))
    data = source.load(str(tmp_path), image_size=8)
    assert data.class_names == ("10", "9", "B")
    np.testing.assert_array_equal(data.clean.labels, [0, 1, 2])


def test_files_that_are_no_images_by_name_are_left_out_and_said(tmp_path, capsys):
    paint(tmp_path / "clean/0/1.PNG", (5, 5, 5))
    (tmp_path / "clean/0/GT-00000.csv").write_text("Filename;Width")
    data = source.load(str(tmp_path), image_size=8)
    assert colours(data.clean) == [(5, 5, 5)]
    assert "1 files are none of PNG" in (said := capsys.readouterr().out)
    assert "GT-00000.csv" in said


@pytest.mark.parametrize(
    ("mode", "ending", "options"),
    [
        # Palette colours with an alpha each: what lies under the transparent ones, and no warning.
        ("P", "png", {"transparency": bytes([0, 128, 255])}),
        ("RGBA", "webp", {"lossless": True}),
        ("RGBA", "png", {}),
    ],
)
def test_transparency_is_taken_off(tmp_path, mode, ending, options):
    path = tmp_path / f"clean/0/1.{ending}"
    path.parent.mkdir(parents=True)
    picture = Image.new(mode, (8, 8), 0 if mode == "P" else (9, 8, 7, 100))
    if mode == "P":
        picture.putpalette([9, 8, 7] * 256)
    picture.save(path, **options)
    assert colours(source.load(str(tmp_path), image_size=8).clean) == [(9, 8, 7)]


def test_what_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("gtsrb/train", "cifar10/clean", "mine/clean", "prepared/1.0.0", "data/mine", "clean"):
        (tmp_path / folder).mkdir(parents=True)
    paths = ("./gtsrb", "gtsrb/", "data/mine", "mine", "~/x", "/x", "a.npz", "..", "gone/")
    assert all(map(own_images.is_path, paths))
    # A folder called like a data set does not take its place, nor does one that is not there.
    names = ("gtsrb", "cifar10", "cifar10/clean", "prepared", "imagenette/160px", "cifar10:3.0.2", "")
    assert not any(map(own_images.is_path, names))


def test_endings_in_capitals_and_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "x.npz", clean_images=np.zeros((2, 8, 8, 3), np.uint8), clean_labels=np.arange(2))
    (tmp_path / "x.npz").rename(tmp_path / "x.NPZ")
    assert own_images.is_path("x.NPZ")
    assert own_images.load("~/x.NPZ", 8, "auto").clean.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match=rf"^dataset\.manual_dir: found no folder {tmp_path}/none, expected"):
        source.load("gtsrb", data_dir="~/data", manual_dir="~/none")
    assert not list(tmp_path.glob("~*"))


def test_the_crop_reaches_the_images(tmp_path):
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 4:12] = 255
    (tmp_path / "clean/0").mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "clean/0/1.png")
    np.savez(tmp_path / "own.npz", clean_images=picture[None], clean_labels=np.array([0]))
    for name in (str(tmp_path), str(tmp_path / "own.npz")):
        for crop, white in (("center", True), ("whole", False), ("auto", False)):
            assert (source.load(name, image_size=8, crop=crop).clean.images == 255).all() == white


@pytest.mark.parametrize(
    ("names", "prefix"), [(("clean_images", "clean_labels"), "clean"), (("x_train", "y_train"), "train")]
)
def test_arrays(tmp_path, names, prefix):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 3, 1, 1])
    # Floats are rounded to the nearest 255th.
    off = (images / 255 + np.where(images < 128, 0.4, -0.4) / 255).astype(np.float32)
    for shown in (images, images.transpose(0, 3, 1, 2), images / 255, off):
        np.savez(tmp_path / "own.npz", **dict(zip(names, (shown, labels), strict=True)))
        data = source.load(str(tmp_path / "own.npz"), image_size=8)
        split = getattr(data, prefix)
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
        assert len(data.class_names) == 4


def test_class_names_and_compressed_arrays(tmp_path):
    rng = np.random.default_rng(0)
    np.savez_compressed(
        tmp_path / "own.npz",
        train_images=rng.integers(0, 256, (3, 8, 8), dtype=np.uint8),
        train_labels=np.array([[0], [1], [0]], np.uint8),
        test_images=rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8),
        test_labels=np.array([1, 0]),
        class_names=np.array(["cat", "dog"]),
    )
    data = source.load(str(tmp_path / "own.npz"), image_size=8)
    assert data.class_names == ("cat", "dog")
    assert data.train.images.shape == (3, 8, 8, 3)
    assert data.test.images.shape == (2, 8, 8, 3)


def test_the_centred_square_is_cut_out():
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 2:6] = 255
    assert (to_square(Image.fromarray(picture), 4, "center") == 255).all()
    assert not (to_square(Image.fromarray(picture), 4, "whole") == 255).all()


def test_what_is_kept_back_is_apart_and_of_every_class():
    labels = np.repeat([0, 1, 2], [10, 2, 1]).astype(np.int32)
    clean = Split(np.arange(13, dtype=np.uint8).reshape(13, 1, 1, 1), labels)
    rest, kept = keep_back(clean, 0.2, seed=0)
    assert sorted([*rest.images.ravel(), *kept.images.ravel()]) == list(range(13))
    assert np.bincount(kept.labels, minlength=3).tolist() == [2, 1, 0]
    again, _ = keep_back(clean, 0.2, seed=0)
    np.testing.assert_array_equal(again.images, rest.images)
    others = {tuple(keep_back(clean, 0.2, seed)[1].images.ravel()) for seed in range(10)}
    assert len(others) > 5
    with pytest.raises(UserError, match="one clean image of each class"):
        keep_back(clean.take(np.array([0, 12])), 0.2, seed=0)


def test_folders_that_are_none(tmp_path):
    assert "found no folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "neither" in refusal(tmp_path / "empty")
    (tmp_path / "bare/clean").mkdir(parents=True)
    assert "expected a folder for each class" in refusal(tmp_path / "bare")
    (tmp_path / "hollow/clean/ant").mkdir(parents=True)
    assert "found no images" in refusal(tmp_path / "hollow")
    for number in ("999999999", "1" + "0" * 200):
        paint(tmp_path / "far/clean" / number / "1.png", (0, 0, 0))
        assert f"the class {number[:50]} in" in refusal(tmp_path / "far")
        shutil.rmtree(tmp_path / "far")
    assert "found no folder ~nobody_of_that_name" in refusal("~nobody_of_that_name")


def test_images_that_are_none(tmp_path):
    path = tmp_path / "clean/ant/1.png"
    paint(path, (0, 0, 0))
    whole = path.read_bytes()
    # 16 bits, which Pillow would cut off at 255, a format not on the list, a text, half a file, a page description.
    deep, pcx = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(pcx, "PCX")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(deep, "PNG")
    for content in (
        deep.getvalue(),
        pcx.getvalue(),
        b"<html>",
        whole[: len(whole) // 2],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ):
        path.write_bytes(content)
        assert str(path) in refusal(tmp_path)


@pytest.mark.parametrize("side", [9_000, 11_000, 60_000])  # where Pillow is silent, warns, and refuses
def test_images_that_claim_too_many_pixels(tmp_path, side):
    path = tmp_path / "clean/ant/1.png"
    paint(path, (0, 0, 0))
    whole = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + whole[24:29]
    path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    message = refusal(tmp_path)
    assert str(path) in message
    assert "pixels" in message


def with_arrays(path, **arrays):
    np.savez(
        path, **({"clean_images": np.zeros((2, 8, 8, 3), np.uint8), "clean_labels": np.arange(2)} | arrays)
    )
    return path


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"clean_labels": np.arange(3)}, "clean_labels is int64 [3], expected integers [2]"),
        ({"clean_labels": np.array([0.0, 1.0])}, "clean_labels is float64 [2]"),
        ({"clean_labels": np.array([0, -1])}, "clean_labels goes from -1 to 0"),
        (
            {"clean_labels": np.array([0, 2**63], np.uint64)},
            "clean_labels goes from 0 to 9223372036854775808",
        ),
        ({"clean_images": np.full((2, 8, 8, 3), 7.0)}, "clean_images is float64 [2, 8, 8, 3] from 7 to 7"),
        ({"clean_images": np.full((2, 8, 8, 3), np.nan)}, "from nan to nan"),
        ({"clean_images": np.zeros((2, 8, 8, 5), np.uint8)}, "[2, 8, 8, 5]"),
        ({"clean_images": np.zeros((2, 8), np.uint8)}, "[2, 8]"),
        (
            {"clean_images": np.zeros((2, 8, 8, 3), np.int64)},
            "clean_images is int64 [2, 8, 8, 3], expected uint8",
        ),
        ({"x_test": np.zeros((2, 8, 8), np.uint8)}, "found no y_test, expected both x_test and y_test"),
        (
            {"x_clean": np.zeros((2, 8, 8), np.uint8), "y_clean": np.arange(2)},
            "found clean_images and x_clean, expected one of the two",
        ),
        ({"clean_images": np.zeros((0, 8, 8, 3), np.uint8), "clean_labels": np.arange(0)}, "[0, 8, 8, 3]"),
        ({"class_names": np.array(["cat"])}, "class_names is <U3 [1], expected 2 strings"),
        ({"class_names": np.arange(2)}, "class_names is int64 [2]"),
        ({"clean_images": np.array([{}, {}])}, "expected whole NumPy arrays"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, part):
    assert part in refusal(with_arrays(tmp_path / "own.npz", **arrays))


def test_numbers_that_are_no_characters(tmp_path):
    for code in (0x110000, 0xD800, 0xFFFFFFFF):
        names = np.array(["cat", "dog"])
        names.view(np.uint32)[1] = code
        with zipfile.ZipFile(with_arrays(tmp_path / "own.npz"), "a") as archive:
            file = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<U3", "fortran_order": False, "shape": (2,)}
            )
            archive.writestr("class_names.npy", file.getvalue() + names.tobytes())
        assert "no characters" in refusal(tmp_path / "own.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["clean_labels.npy", "clean_labels"])
def test_two_arrays_of_one_name(tmp_path, second):
    with zipfile.ZipFile(with_arrays(tmp_path / "own.npz"), "a") as archive:
        archive.writestr(second, npy_header((2,)) + bytes(2))
    assert "two arrays named 'clean_labels'" in refusal(tmp_path / "own.npz")


def test_small_images_are_not_enlarged_without_end(tmp_path):
    images = {"clean_images": np.zeros((2, 2, 8, 3), np.uint8)}
    path = with_arrays(tmp_path / "own.npz", **images)
    assert source.load(str(path), image_size=32).clean.images.shape == (2, 32, 32, 3)
    with pytest.raises(
        UserError, match=r"clean_images: found images of 8 x 2 pixels, expected at least 3, a sixt"
    ):
        source.load(str(path), image_size=33)
    paint(tmp_path / "folder/clean/a/1.png", (0, 0, 0), size=(1, 1))
    with pytest.raises(UserError, match=r"1\.png: found images of 1 x 1 pixels, expected at least 2"):
        source.load(str(tmp_path / "folder"), image_size=32)


def test_more_images_than_memory(tmp_path):
    path = with_arrays(tmp_path / "own.npz")
    with pytest.raises(UserError, match="found 2 images, expected at most 17179869184 bytes"):
        own_images._empty(str(path), 2, 1 << 17)


def test_image_files_without_bound(tmp_path):
    path = tmp_path / "clean/ant/1.png"
    paint(path, (0, 0, 0))
    with path.open("ab") as file:
        file.truncate(8 << 30)
    assert "8589934592 bytes, at most" in refusal(tmp_path)


def test_names_that_are_no_text_are_shown_as_escapes(tmp_path, capsys):
    names = {
        b"caf\xe9": r"caf\udce9",
        "\u202egnp".encode(): r"\u202egnp",
        b"\x1b[2J": r"\x1b[2J",
        "größe".encode(): "größe",
    }
    for name in names:
        folder = os.fsencode(tmp_path / "clean") + b"/" + name
        os.makedirs(folder)
        Image.new("RGB", (8, 8)).save(folder + b"/1.png")
        with open(folder + b"/\x1b[31mnotes.txt", "w"):
            pass
    assert sorted(source.load(str(tmp_path), image_size=8).class_names) == sorted(names.values())
    said = capsys.readouterr().out
    assert "\x1b" not in said and r"\x1b[31mnotes.txt" in said


def npy_header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("shape", [(10**15,), (10**9, 10**9), (3,)])
def test_arrays_that_lie_about_their_size(tmp_path, shape):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clean_images.npy", npy_header(shape) + b"12")
    with pytest.raises(UserError, match=r"expected whole NumPy arrays.*\(2 bytes for uint8"):
        read_npz(path)


@pytest.mark.parametrize(
    "header",
    [
        # NumPy parses a header as Python, which fails in many ways: a bracket left open, indentation, nesting.
        "{'descr': '|u1', 'shape': (",
        "\n  x\n y",
        "-" * 9000 + "1",
        "{1: 2}",
        # Shapes that are none, elements of no bytes, and a promise that the file does not keep.
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 99999999999999999999)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -3)}",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (99999999999999,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
    ],
)
def test_headers_that_are_none(tmp_path, header):
    whole = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    for data in (whole, whole + b"123", whole[:-1], whole[:7]):
        (tmp_path / "own.npy").write_bytes(data)
        with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
            archive.writestr("clean_images.npy", data)
        for read, name in ((read_npy, "own.npy"), (read_npz, "own.npz")):
            with pytest.raises(UserError, match=rf"{name}: expected whole NumPy arrays") as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = [np.arange(6).reshape(2, 3).T, np.array(["ä", "bc"]), np.array(2.5), np.zeros((0, 4), ">f4")]
    for array in arrays:
        np.save(tmp_path / "own.npy", array)
        found = read_npy(tmp_path / "own.npy")
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_methods_that_unpack_without_a_bound_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "own.npz", "w", method) as archive:
        archive.writestr("clean_images.npy", npy_header((2,)) + b"12")
    with pytest.raises(UserError, match="zip method"):
        read_npz(tmp_path / "own.npz")


def test_zip_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clean_images.npy", npy_header((1 << 24,)) + bytes(1 << 24))
    assert path.stat().st_size < 1 << 15
    with pytest.raises(UserError, match="bytes in a file of"):
        read_npz(path)


def test_files_that_are_no_npz(tmp_path):
    whole = with_arrays(tmp_path / "whole.npz").read_bytes()
    # The last has one byte of an image changed, which its checksum shows.
    for content in (b"", b"<html>", whole[:300], whole[:250] + b"x" + whole[251:]):
        (tmp_path / "own.npz").write_bytes(content)
        assert str(tmp_path / "own.npz") in refusal(tmp_path / "own.npz")
