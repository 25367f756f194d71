"""The GTSRB builder on small synthetic archives in the official layout, and on the real ones if present."""

import functools
import hashlib
import http.server
import io
import os
import socket
import struct
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from PIL import Image

from fip_jax.data import gtsrb
from fip_jax.errors import UserError

TRAIN = "GTSRB/Final_Training/Images/"
TEST = "GTSRB/Final_Test/Images/"
HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
BLUE = (0, 0, 255)  # margin around the region of interest
TRAIN_LABELS = (0, 7, 42)
TEST_FILES = 5


def _ppm(pixels):
    """PPM file of a uint8 [height, width, 3] array."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PPM")
    return file.getvalue()


def _sign(label, size, box):
    """Blue image [height, width, 3] whose region of interest has the colour (5 * label, 100, 0)."""
    width, height = size
    pixels = np.full((height, width, 3), BLUE, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = (5 * label, 100, 0)
    return pixels


def _row(name, size, box, label):
    return ";".join(map(str, (name, *size, *box, label)))


def _make():
    """Contents of the three archives: {archive: {member: bytes}}; 3 classes of 2 tracks of 3 frames."""
    train, test = {}, {}
    for label in TRAIN_LABELS:
        rows = [HEADER]
        for track in range(2):
            for frame in range(3):
                size, box = (40 + 10 * track + label, 30 + 5 * frame), (4, 5, 25 + frame, 24)
                name = f"{track:05d}_{frame:05d}.ppm"
                rows.append(_row(name, size, box, label))
                train[f"{TRAIN}{label:05d}/{name}"] = _ppm(_sign(label, size, box))
        train[f"{TRAIN}{label:05d}/GT-{label:05d}.csv"] = "\r\n".join([*rows, ""]).encode()
    rows = [HEADER]
    rng = np.random.default_rng(0)
    for index in range(TEST_FILES):
        size, box = (25 + 9 * index, 60 - 7 * index), (2, 3, 24, 28)
        rows.append(_row(f"{index:05d}.ppm", size, box, 40 - index))
        test[f"{TEST}{index:05d}.ppm"] = _ppm(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    test[f"{TEST}GT-final_test.test.csv"] = b"ignored"
    labels = {"GT-final_test.csv": "\r\n".join(rows).encode()}
    return {gtsrb.TRAIN_IMAGES: train, gtsrb.TEST_IMAGES: test, gtsrb.TEST_LABELS: labels}


def _write(folder, contents, compression=zipfile.ZIP_DEFLATED):
    folder.mkdir(exist_ok=True)
    for name, members in contents.items():
        with zipfile.ZipFile(folder / name, "w", compression) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    return folder


def _prepare(data_dir, manual_dir, config="cropped"):
    builder = gtsrb.Gtsrb(config=config, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    return builder


def _refusal(tmp_path, contents):
    """Message of the UserError for these archives; nothing may be left, and good archives must then work."""
    with pytest.raises(UserError) as caught:
        _prepare(tmp_path / "data", _write(tmp_path / "manual", contents))
    _assert_nothing_prepared(tmp_path / "data")
    builder = _prepare(tmp_path / "data", _write(tmp_path / "manual", _make()))
    assert len(builder.as_data_source(split="train")) == 18
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def _assert_nothing_prepared(data_dir):
    assert not list(data_dir.glob("**/*array_record*"))
    assert not list(data_dir.glob("**/dataset_info.json"))
    assert not list(data_dir.glob("gtsrb/cropped/*"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Both configurations, prepared from the synthetic archives: {name: builder}."""
    folder = tmp_path_factory.mktemp("gtsrb")
    manual = _write(folder / "manual", _make())
    return {config: _prepare(folder / "data", manual, config) for config in ("cropped", "whole")}


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
    assert (builder.name, builder.builder_config.name, str(builder.version)) == ("gtsrb", "cropped", "1.0.0")
    assert "tensorflow" not in sys.modules


def test_crop_leaves_only_the_region_of_interest(prepared):
    for example in prepared["cropped"].as_data_source(split="train"):
        assert (example["image"] == (5 * int(example["label"]), 100, 0)).all()
    for example in prepared["whole"].as_data_source(split="train"):
        assert (example["image"][0, -1] == BLUE).all() and (example["image"][-1, -1] == BLUE).all()
        assert (example["image"][12, 6] == (5 * int(example["label"]), 100, 0)).all()


@pytest.mark.parametrize("config", ["cropped", "whole"])
def test_resize_equals_pil(prepared, config):
    members = _make()[gtsrb.TEST_IMAGES]
    found = {int(e["label"]): e["image"] for e in prepared[config].as_data_source(split="test")}
    for index in range(TEST_FILES):
        image = Image.open(io.BytesIO(members[f"{TEST}{index:05d}.ppm"]))
        if config == "cropped":
            image = image.crop((2, 3, 24, 28))
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(found[40 - index], expected)


def test_preparing_twice_gives_the_same_examples_in_the_same_order(prepared, tmp_path):
    again = _prepare(tmp_path / "data", _write(tmp_path / "manual", _make(), zipfile.ZIP_STORED))
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
    contents = _make()
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
    message = _refusal(tmp_path, _with_row(row))
    assert expected in message and str(tmp_path / "manual" / gtsrb.TRAIN_IMAGES) in message


def test_region_outside_the_image_does_not_matter_for_whole_images(tmp_path):
    contents = _with_row("00001_00002.ppm;50;40;4;5;51;24;0")
    builder = _prepare(tmp_path / "data", _write(tmp_path / "manual", contents), "whole")
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
    contents = _make()
    contents[archive][member] = data
    if data is None:
        del contents[archive][member]
    message = _refusal(tmp_path, contents)
    assert expected in message and str(tmp_path / "manual") in message


def test_archive_without_class_folders(tmp_path):
    message = _refusal(tmp_path, {**_make(), gtsrb.TRAIN_IMAGES: {"readme.txt": b""}})
    assert "has no class folders, expected GTSRB/Final_Training/Images/00000/" in message


def test_unsupported_zip_method(tmp_path):
    manual = _write(tmp_path / "manual", _make())
    _write(manual, {gtsrb.TEST_IMAGES: _make()[gtsrb.TEST_IMAGES]}, zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match="has zip method 14, expected stored"):
        _prepare(tmp_path / "data", manual)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "folder", "bit flip"])
def test_damaged_archive_then_a_good_one(tmp_path, damage):
    manual = _write(tmp_path / "manual", _make())
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
        _prepare(tmp_path / "data", manual)
    assert str(path) in str(caught.value)
    _assert_nothing_prepared(tmp_path / "data")

    if damage == "folder":
        path.rmdir()
    path.write_bytes(good)
    builder = _prepare(tmp_path / "data", manual)
    assert len(builder.as_data_source(split="train")) == 18


def test_member_that_lies_about_its_size_is_not_unpacked_further(tmp_path):
    contents = _make()
    contents[gtsrb.TRAIN_IMAGES][IMAGE_0] = b"\0" * 2**26
    manual = _write(tmp_path / "manual", contents)
    path = manual / gtsrb.TRAIN_IMAGES
    sizes = struct.pack("<L", 2**26)
    path.write_bytes(path.read_bytes().replace(sizes, struct.pack("<L", 1000)))
    with pytest.raises(UserError, match="cannot be unpacked"):
        _prepare(tmp_path / "data", manual)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Folder served on 127.0.0.1 as the official site, holding the synthetic archives with their MD5."""
    folder = _write(tmp_path / "served", _make())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(gtsrb, "BASE_URL", f"http://127.0.0.1:{httpd.server_port}/")
        md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in gtsrb.ARCHIVE_MD5}
        monkeypatch.setattr(gtsrb, "ARCHIVE_MD5", md5)
        yield folder
        httpd.shutdown()
        thread.join()


def test_download(server, tmp_path):
    builder = _prepare(tmp_path / "data", tmp_path / "nothing here")
    assert len(builder.as_data_source(split="train")) == 18
    assert builder.info.download_size == sum(path.stat().st_size for path in server.iterdir())


def test_only_what_the_manual_folder_lacks_is_downloaded(server, tmp_path):
    manual = tmp_path / "manual"
    manual.mkdir()
    (server / gtsrb.TRAIN_IMAGES).rename(manual / gtsrb.TRAIN_IMAGES)
    assert len(_prepare(tmp_path / "data", manual).as_data_source(split="test")) == TEST_FILES


def test_download_is_cached(server, tmp_path, monkeypatch):
    _prepare(tmp_path / "data", tmp_path / "manual")
    monkeypatch.setattr(requests, "get", None)  # a cached archive needs no network
    for path in server.iterdir():
        path.unlink()
    assert len(_prepare(tmp_path / "data", tmp_path / "manual", "whole").as_data_source(split="train")) == 18


def test_download_with_another_md5_is_refused_and_removed(server, tmp_path):
    path = server / gtsrb.TEST_IMAGES
    good = path.read_bytes()
    path.write_bytes(good + b"\0")
    with pytest.raises(UserError, match=r"has MD5 [0-9a-f]{32}, expected [0-9a-f]{32}") as caught:
        _prepare(tmp_path / "data", tmp_path / "manual")
    assert gtsrb.BASE_URL + gtsrb.TEST_IMAGES in str(caught.value)
    _assert_nothing_prepared(tmp_path / "data")

    path.write_bytes(good)
    assert len(_prepare(tmp_path / "data", tmp_path / "manual").as_data_source(split="train")) == 18


def test_absent_download_names_what_is_missing(server, tmp_path):
    (server / gtsrb.TRAIN_IMAGES).unlink()
    with pytest.raises(UserError) as caught:
        _prepare(tmp_path / "data", tmp_path / "manual")
    message = str(caught.value)
    assert message.startswith(f"{gtsrb.TRAIN_IMAGES} not found in {tmp_path / 'manual'} ")
    assert "404" in message and "dataset.manual_dir" in message
    _assert_nothing_prepared(tmp_path / "data")


def test_refused_connection_fails_at_once(server, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(gtsrb, "BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}/")
        start = time.monotonic()
        with pytest.raises(UserError) as caught:
            _prepare(tmp_path / "data", tmp_path / "manual")
    assert time.monotonic() - start < 5.0
    message = str(caught.value)
    assert all(name in message for name in gtsrb.ARCHIVE_MD5)
    assert (
        gtsrb.BASE_URL in message and "Connection refused" in message and str(tmp_path / "manual") in message
    )
    _assert_nothing_prepared(tmp_path / "data")


def test_server_that_never_answers(server, tmp_path, monkeypatch):
    monkeypatch.setattr(gtsrb, "TIMEOUTS", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(gtsrb, "BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(UserError, match="timed out"):
            _prepare(tmp_path / "data", tmp_path / "manual")


def test_download_that_breaks_off(server, tmp_path, monkeypatch):
    def short(self, source, outputfile):
        outputfile.write(source.read(10))  # fewer bytes than the Content-Length that was announced

    monkeypatch.setattr(_Quiet, "copyfile", short)
    with pytest.raises(UserError, match="not downloaded from"):
        _prepare(tmp_path / "data", tmp_path / "manual")
    _assert_nothing_prepared(tmp_path / "data")


def test_official_addresses():
    assert gtsrb.BASE_URL.startswith("https://") and gtsrb.BASE_URL.endswith("/")
    assert all(len(md5) == 32 for md5 in gtsrb.ARCHIVE_MD5.values())


@pytest.mark.skipif(
    "FIP_JAX_GTSRB" not in os.environ, reason="FIP_JAX_GTSRB names no folder with the archives"
)
def test_real_archives(tmp_path):
    builder = _prepare(tmp_path, os.environ["FIP_JAX_GTSRB"])
    train, test = builder.as_data_source(split="train"), builder.as_data_source(split="test")
    assert (len(train), len(test)) == (39_209, 12_630)
    labels = {}
    for example in train:
        labels.setdefault(int(example["track"]), set()).add(int(example["label"]))
    assert len(labels) == 1307
    assert all(len(found) == 1 for found in labels.values())
    assert set().union(*labels.values()) == set(range(43))
    assert {int(example["track"]) for example in test} == {-1}
