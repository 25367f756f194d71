"""Small synthetic GTSRB archives in the official layout."""

import io
import zipfile

import numpy as np
import pytest
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


def ppm(pixels):
    """PPM file of a uint8 [height, width, 3] array."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PPM")
    return file.getvalue()


def sign(label, size, box):
    """Blue image [height, width, 3] whose region of interest has the colour (5 * label, 100, 0)."""
    width, height = size
    pixels = np.full((height, width, 3), BLUE, np.uint8)
    pixels[box[1] : box[3] + 1, box[0] : box[2] + 1] = (5 * label, 100, 0)
    return pixels


def row(name, size, box, label):
    return ";".join(map(str, (name, *size, *box, label)))


def make():
    """Contents of the three archives: {archive: {member: bytes}}; 3 classes of 2 tracks of 3 frames."""
    train, test = {}, {}
    for label in TRAIN_LABELS:
        rows = [HEADER]
        for track in range(2):
            for frame in range(3):
                size, box = (40 + 10 * track + label, 30 + 5 * frame), (4, 5, 25 + frame, 24)
                name = f"{track:05d}_{frame:05d}.ppm"
                rows.append(row(name, size, box, label))
                train[f"{TRAIN}{label:05d}/{name}"] = ppm(sign(label, size, box))
        train[f"{TRAIN}{label:05d}/GT-{label:05d}.csv"] = "\r\n".join([*rows, ""]).encode()
    rows = [HEADER]
    rng = np.random.default_rng(0)
    for index in range(TEST_FILES):
        size, box = (25 + 9 * index, 60 - 7 * index), (2, 3, 24, 28)
        rows.append(row(f"{index:05d}.ppm", size, box, 40 - index))
        test[f"{TEST}{index:05d}.ppm"] = ppm(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    test[f"{TEST}GT-final_test.test.csv"] = b"ignored"
    labels = {"GT-final_test.csv": "\r\n".join(rows).encode()}
    return {gtsrb.TRAIN_IMAGES: train, gtsrb.TEST_IMAGES: test, gtsrb.TEST_LABELS: labels}


def write(folder, contents, compression=zipfile.ZIP_DEFLATED):
    folder.mkdir(exist_ok=True)
    for name, members in contents.items():
        with zipfile.ZipFile(folder / name, "w", compression) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    return folder


def prepare(data_dir, manual_dir, config="cropped"):
    builder = gtsrb.Gtsrb(config=config, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    return builder


def refusal(tmp_path, contents):
    """Message of the UserError for these archives; nothing may be left, and good archives must then work."""
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "data", write(tmp_path / "manual", contents))
    assert_nothing_prepared(tmp_path / "data")
    builder = prepare(tmp_path / "data", write(tmp_path / "manual", make()))
    assert len(builder.as_data_source(split="train")) == 18
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def assert_nothing_prepared(data_dir):
    assert not list(data_dir.glob("**/*array_record*"))
    assert not list(data_dir.glob("**/dataset_info.json"))
    assert not list(data_dir.glob("gtsrb/cropped/*"))
