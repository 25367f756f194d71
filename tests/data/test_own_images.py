"""The user's own images: folders and arrays, their classes, and one sentence where something is amiss."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from fip_jax.data import source
from fip_jax.data.held_out import keep_back
from fip_jax.data.npz import read_npz
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
    (tmp_path / "clean/ant/.hidden").write_text("no image")
    data = source.load(str(tmp_path), image_size=8)
    assert data.class_names == ("ant", "bee", "zebra")
    assert data.train is None
    assert data.own
    np.testing.assert_array_equal(data.clean.labels, [0, 0, 2])
    assert colours(data.clean) == [(3, 3, 3), (200, 200, 200), (1, 1, 1)]
    assert data.clean.images.dtype == np.uint8
    assert data.clean.images.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(data.test.labels, [1])


def test_folders_with_numbers_are_the_classes(tmp_path):
    for label in (2, 10):
        paint(tmp_path / f"train/{label:05}/1.png", (label,) * 3)
    data = source.load(str(tmp_path), image_size=8)
    assert len(data.class_names) == 11
    np.testing.assert_array_equal(data.train.labels, [2, 10])
    assert data.test is None


@pytest.mark.parametrize(
    ("names", "prefix"), [(("clean_images", "clean_labels"), "clean"), (("x_train", "y_train"), "train")]
)
def test_arrays(tmp_path, names, prefix):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 3, 1, 1])
    for shown in (images, images.transpose(0, 3, 1, 2), images / 255):
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
    paint(tmp_path / "mixed/clean/ant/1.png", (0, 0, 0))
    paint(tmp_path / "mixed/clean/7/1.png", (0, 0, 0))
    assert "numbers and words" in refusal(tmp_path / "mixed")
    paint(tmp_path / "far/clean/999999999/1.png", (0, 0, 0))
    assert "999999999" in refusal(tmp_path / "far")


def test_images_that_are_none(tmp_path):
    path = tmp_path / "clean/ant/1.png"
    paint(path, (0, 0, 0))
    whole = path.read_bytes()
    # A header that claims 60,000 x 60,000 pixels, a text, half a file, a page description.
    bomb = whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:]
    for content in (
        bomb,
        b"<html>",
        whole[: len(whole) // 2],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ):
        path.write_bytes(content)
        assert str(path) in refusal(tmp_path)


def with_arrays(path, **arrays):
    np.savez(
        path, **({"clean_images": np.zeros((2, 8, 8, 3), np.uint8), "clean_labels": np.arange(2)} | arrays)
    )
    return path


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"clean_labels": np.arange(3)}, "labels of clean are int64 [3]"),
        ({"clean_labels": np.array([0.0, 1.0])}, "float64"),
        ({"clean_labels": np.array([0, -1])}, "out of range"),
        ({"clean_images": np.full((2, 8, 8, 3), 7.0)}, "images of clean are float64"),
        ({"clean_images": np.zeros((2, 8, 8, 5), np.uint8)}, "[2, 8, 8, 5]"),
        ({"clean_images": np.zeros((0, 8, 8, 3), np.uint8), "clean_labels": np.arange(0)}, "[0, 8, 8, 3]"),
        ({"class_names": np.array(["cat"])}, "class_names"),
        ({"clean_images": np.array([{}, {}])}, "expected whole NumPy arrays"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, part):
    assert part in refusal(with_arrays(tmp_path / "own.npz", **arrays))


def npy_header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("shape", [(10**15,), (10**9, 10**9), (3,)])
def test_arrays_that_lie_about_their_size(tmp_path, shape):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clean_images.npy", npy_header(shape) + b"12")
    with pytest.raises(UserError, match="expected whole NumPy arrays"):
        read_npz(path)


def test_zip_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clean_images.npy", npy_header((1 << 27,)) + bytes(1 << 27))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="bytes in a file of"):
        read_npz(path)


def test_files_that_are_no_npz(tmp_path):
    for content in (b"", b"<html>", with_arrays(tmp_path / "whole.npz").read_bytes()[:300]):
        (tmp_path / "own.npz").write_bytes(content)
        assert str(tmp_path / "own.npz") in refusal(tmp_path / "own.npz")
