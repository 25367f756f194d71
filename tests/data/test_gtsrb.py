"""The GTSRB builder on small synthetic archives, and on the real ones if present."""

import io
import os
import struct
import sys
import zipfile

import numpy as np
import pytest
from gtsrb_archives import (
    BLUE,
    HEADER,
    TEST,
    TEST_FILES,
    TRAIN,
    TRAIN_LABELS,
    assert_nothing_prepared,
    make,
    prepare,
    refusal,
    write,
)
from PIL import Image

from fip_jax.data import gtsrb, source
from fip_jax.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Both configurations, prepared from the synthetic archives: {name: builder}."""
    folder = tmp_path_factory.mktemp("gtsrb")
    manual = write(folder / "manual", make())
    return {config: prepare(folder / "data", manual, config) for config in ("cropped", "whole")}


@pytest.mark.parametrize("crop, config", [("auto", "cropped"), ("whole", "whole"), ("center", "whole")])
def test_the_setting_chooses_the_configuration(prepared, crop, config):
    builder = prepared[config]
    data = source.load("gtsrb", data_dir=str(builder.data_path.parents[2]), crop=crop)
    expected = [example["image"] for example in builder.as_data_source(split="train")]
    np.testing.assert_array_equal(data.train.images, expected)
    assert set(data.test.tracks) == {-1}


def _by_key(source):
    return sorted(source, key=lambda example: (int(example["track"]), example["image"].tobytes()))


def test_features_counts_labels_and_tracks(prepared):
    builder = prepared["cropped"]
    assert builder.info.features["image"].shape == (32, 32, 3)
    assert builder.info.features["track"].np_dtype == np.int32
    assert builder.info.features["label"].names[14] == "stop"
    train, test = builder.as_data_source(split="train"), builder.as_data_source(split="test")
    assert (len(train), len(test)) == (18, TEST_FILES)
    assert all(e["image"].shape == (32, 32, 3) and e["image"].dtype == np.uint8 for e in train)
    found = sorted((int(e["label"]), int(e["track"])) for e in train)
    assert found == sorted((c, c * 10_000 + t) for c in TRAIN_LABELS for t in range(2) for _ in range(3))
    assert sorted((int(e["label"]), int(e["track"])) for e in test) == [(c, -1) for c in range(36, 41)]


def test_class_names():
    assert len(gtsrb.CLASS_NAMES) == len(set(gtsrb.CLASS_NAMES)) == 43
    known = {0: "20", 8: "120", 12: "priority", 17: "no entry", 33: "right", 40: "roundabout"}
    assert all(text in gtsrb.CLASS_NAMES[label] for label, text in known.items())


def test_default_is_cropped_and_tensorflow_is_not_loaded(prepared, tmp_path):
    builder = gtsrb.Gtsrb(data_dir=tmp_path)
    assert (builder.name, builder.builder_config.name, str(builder.version)) == ("gtsrb", "cropped", "2.0.0")
    assert "tensorflow" not in sys.modules


def test_crop_leaves_only_the_region_of_interest(prepared):
    for example in prepared["cropped"].as_data_source(split="train"):
        assert (example["image"] == (5 * int(example["label"]), 100, 0)).all()
    for example in prepared["whole"].as_data_source(split="train"):
        assert (example["image"][0, -1] == BLUE).all() and (example["image"][-1, -1] == BLUE).all()
        assert (example["image"][12, 6] == (5 * int(example["label"]), 100, 0)).all()


@pytest.mark.parametrize("config", ["cropped", "whole"])
def test_resize_equals_pil(prepared, config):
    members = make()[gtsrb.TEST_IMAGES]
    found = {int(e["label"]): e["image"] for e in prepared[config].as_data_source(split="test")}
    for index in range(TEST_FILES):
        image = Image.open(io.BytesIO(members[f"{TEST}{index:05d}.ppm"]))
        if config == "cropped":
            image = image.crop((2, 3, 25, 29))
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(found[40 - index], expected)


def test_preparing_twice_gives_the_same_examples_in_the_same_order(prepared, tmp_path):
    again = prepare(tmp_path / "data", write(tmp_path / "manual", make(), zipfile.ZIP_STORED))
    pairs = zip(
        again.as_data_source(split="train"), prepared["cropped"].as_data_source(split="train"), strict=True
    )
    for left, right in pairs:
        assert left["track"] == right["track"]
        np.testing.assert_array_equal(left["image"], right["image"])


CSV_0 = f"{TRAIN}00000/GT-00000.csv"
IMAGE_0 = f"{TRAIN}00000/00001_00002.ppm"


def _with_row(row):
    """Archives in which the last row of class 0 is `row`."""
    contents = make()
    lines = contents[gtsrb.TRAIN_IMAGES][CSV_0].decode().split("\r\n")[:-2]
    contents[gtsrb.TRAIN_IMAGES][CSV_0] = "\r\n".join([*lines, row]).encode()
    return contents


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("00001_00002.ppm;50;40;4;5", "columns Filename;Width"),
        ("00001_00002.ppm;50;40;4;5;x;24;0", "columns Filename;Width"),
        ("00001_00002.ppm;50;40;4;5;27;24;0;9", "columns Filename;Width"),
        ("00001_00002.ppm;50;40;4;5;27;24;43", "label 43, expected 0 to 42"),
        ("00001_00002.ppm;50;40;4;5;27;24;-1", "label -1, expected 0 to 42"),
        ("00001_00002.ppm;50;40;4;5;27;24;7", "has label 7 for 00001_00002.ppm, expected 0"),
        ("00001_00002.ppm;50;40;4;5;4;24;0", "region (4, 5, 4, 24), expected 0 <= X1 < X2"),
        ("00001_00002.ppm;50;40;-1;5;27;24;0", "region (-1, 5, 27, 24)"),
        ("00001_00002.ppm;50;40;4;5;51;24;0", "a box inside its 50x40 pixels"),
        ("00001_00002.ppm;50;40;4;5;27;41;0", "a box inside its 50x40 pixels"),
        ("../../../etc/passwd;50;40;4;5;27;24;0", "file name '../../../etc/passwd'"),
        ("10001_00002.ppm;50;40;4;5;27;24;0", "file name '10001_00002.ppm'"),
        ("00001_00001.ppm;50;40;4;5;27;24;0", "names 00001_00001.ppm a second time"),
        ("00001_00009.ppm;50;40;4;5;27;24;0", "00001_00009.ppm in "),
    ],
)
def test_bad_csv_row(tmp_path, row, expected):
    message = refusal(tmp_path, _with_row(row))
    assert expected in message and str(tmp_path / "manual" / gtsrb.TRAIN_IMAGES) in message


def test_region_outside_the_image_does_not_matter_for_whole_images(tmp_path):
    contents = _with_row("00001_00002.ppm;50;40;4;5;51;24;0")
    builder = prepare(tmp_path / "data", write(tmp_path / "manual", contents), "whole")
    assert len(builder.as_data_source(split="train")) == 18


CLASS_43 = f"{HEADER}\r\n00001_00002.ppm;50;40;4;5;27;24;43\r\n".encode()


def _big_header(width, height):
    return f"P6\n{width} {height}\n255\n".encode() + b"\0" * 100


@pytest.mark.parametrize(
    ("archive", "member", "data", "expected"),
    [
        (gtsrb.TRAIN_IMAGES, CSV_0, None, f"{CSV_0} in "),
        (gtsrb.TRAIN_IMAGES, CSV_0, b"", "starts with ''"),
        (gtsrb.TRAIN_IMAGES, CSV_0, b"Filename,Width\r\n", "starts with 'Filename,Width'"),
        (gtsrb.TRAIN_IMAGES, CSV_0, b"\xff\xfe\0\0", "starts with"),
        (gtsrb.TRAIN_IMAGES, CSV_0, HEADER.encode(), "has no label"),
        (gtsrb.TRAIN_IMAGES, CSV_0, b"x" * (64 * 2**20 + 1), "has 67108865 bytes, expected at most 67108864"),
        (gtsrb.TRAIN_IMAGES, IMAGE_0, None, "is missing"),
        (gtsrb.TRAIN_IMAGES, IMAGE_0, b"", "not a readable image"),
        (gtsrb.TRAIN_IMAGES, IMAGE_0, b"no image", "not a readable image"),
        (gtsrb.TRAIN_IMAGES, IMAGE_0, _big_header(50, 40), "not a readable image"),
        (gtsrb.TRAIN_IMAGES, IMAGE_0, _big_header(5000, 5000), "is RGB of 5000x5000 pixels"),
        (gtsrb.TRAIN_IMAGES, IMAGE_0, _big_header(10_000, 10_000), "not a readable image"),
        (gtsrb.TRAIN_IMAGES, IMAGE_0, _big_header(10**6, 10**6), "not a readable image"),
        (gtsrb.TRAIN_IMAGES, IMAGE_0, b"P5\n50 40\n255\n" + b"\0" * 2000, "is L of 50x40 pixels"),
        (
            gtsrb.TRAIN_IMAGES,
            IMAGE_0,
            b"\0" * (16 * 2**20 + 1),
            "has 16777217 bytes, expected at most 16777216",
        ),
        (gtsrb.TRAIN_IMAGES, f"{TRAIN}00043/GT-00043.csv", CLASS_43, "has the label 43, expected 0 to 42"),
        (gtsrb.TEST_LABELS, "GT-final_test.csv", None, "GT-final_test.csv in "),
        (gtsrb.TEST_IMAGES, f"{TEST}00001.ppm", None, f"{TEST}00001.ppm in "),
        (gtsrb.TEST_IMAGES, f"{TEST}00001.ppm", b"P6", "not a readable image"),
        (gtsrb.TEST_IMAGES, f"{TEST}00009.ppm", b"P6", "has no label, expected a row in GT-final_test.csv"),
    ],
)
def test_bad_member(tmp_path, archive, member, data, expected):
    contents = make()
    contents[archive][member] = data
    if data is None:
        del contents[archive][member]
    message = refusal(tmp_path, contents)
    assert expected in message and str(tmp_path / "manual") in message


def test_archive_without_class_folders(tmp_path):
    message = refusal(tmp_path, {**make(), gtsrb.TRAIN_IMAGES: {"readme.txt": b""}})
    assert "has no class folders, expected GTSRB/Final_Training/Images/00000/" in message


def test_unsupported_zip_method(tmp_path):
    manual = write(tmp_path / "manual", make())
    write(manual, {gtsrb.TEST_IMAGES: make()[gtsrb.TEST_IMAGES]}, zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match="has zip method 14, expected stored"):
        prepare(tmp_path / "data", manual)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "folder", "bit flip"])
def test_damaged_archive_then_a_good_one(tmp_path, damage):
    manual = write(tmp_path / "manual", make())
    path = manual / gtsrb.TRAIN_IMAGES
    good = path.read_bytes()
    path.unlink()
    flipped = bytearray(good)
    flipped[60 + good.index(b"00001_00002.ppm")] ^= 255  # in the deflated data of that image
    bad = {"truncated": good[: len(good) // 2], "text": b"<html>", "empty": b"", "bit flip": bytes(flipped)}
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(bad[damage])
    reason = "cannot be unpacked" if damage == "bit flip" else "is not a readable zip file"
    with pytest.raises(UserError, match=reason) as caught:
        prepare(tmp_path / "data", manual)
    assert str(path) in str(caught.value)
    assert_nothing_prepared(tmp_path / "data")

    if damage == "folder":
        path.rmdir()
    path.write_bytes(good)
    builder = prepare(tmp_path / "data", manual)
    assert len(builder.as_data_source(split="train")) == 18


def test_member_that_lies_about_its_size_is_not_unpacked_further(tmp_path):
    contents = make()
    contents[gtsrb.TRAIN_IMAGES][IMAGE_0] = b"\0" * 2**26
    manual = write(tmp_path / "manual", contents)
    path = manual / gtsrb.TRAIN_IMAGES
    sizes = struct.pack("<L", 2**26)
    path.write_bytes(path.read_bytes().replace(sizes, struct.pack("<L", 1000)))
    with pytest.raises(UserError, match="cannot be unpacked"):
        prepare(tmp_path / "data", manual)


@pytest.mark.skipif(
    "FIP_JAX_GTSRB" not in os.environ, reason="FIP_JAX_GTSRB names no folder with the archives"
)
def test_real_archives(tmp_path):
    builder = prepare(tmp_path, os.environ["FIP_JAX_GTSRB"])
    train, test = builder.as_data_source(split="train"), builder.as_data_source(split="test")
    assert (len(train), len(test)) == (39_209, 12_630)
    labels = {}
    for example in train:
        labels.setdefault(int(example["track"]), set()).add(int(example["label"]))
    assert len(labels) == 1307
    assert all(len(found) == 1 for found in labels.values())
    assert set().union(*labels.values()) == set(range(43))
    assert {int(example["track"]) for example in test} == {-1}
