"""German Traffic Sign Recognition Benchmark (GTSRB) as a TFDS data set, prepared without TensorFlow.

Stallkamp, Schlipsing, Salmen, Igel: "The German Traffic Sign Recognition Benchmark: A multi-class
classification competition", IJCNN 2011; "Man vs. computer: Benchmarking machine learning algorithms for
traffic sign recognition", Neural Networks 32, 2012.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import resource
from tensorflow_datasets.core.download.util import DownloadError

from fip_jax.data.rendered_signs import CLASS_NAMES
from fip_jax.errors import UserError
from fip_jax.progress import console

BASE_URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
TEST_LABELS = "GTSRB_Final_Test_GT.zip"
TEST_IMAGES = "GTSRB_Final_Test_Images.zip"
TRAIN_IMAGES = "GTSRB_Final_Training_Images.zip"

# MD5 of the official archives, smallest archive first so that a dead link is noticed early.
ARCHIVE_MD5 = {
    TEST_LABELS: "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
    TEST_IMAGES: "c7e4e6327067d32654124b0fe9e82185",
    TRAIN_IMAGES: "f33fd80ac59bff73c82d25ab499e03a3",
}

NUM_IMAGES = (39_209, 12_630)  # training and test images of the official archives
IMAGE_SIZE = 32  # pixels, height and width of the prepared images
TRACKS_PER_CLASS = 10_000  # track = class * TRACKS_PER_CLASS + track number in the file name
MAX_IMAGE_BYTES = 16 * 2**20
MAX_CSV_BYTES = 64 * 2**20
TIMEOUTS = (10.0, 30.0)  # seconds to connect, and to wait for an answer
_TRAIN_ROOT = "GTSRB/Final_Training/Images/"
_TEST_ROOT = "GTSRB/Final_Test/Images/"
_TEST_CSV = "GT-final_test.csv"
_CSV_HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
_TRAIN_NAME = r"0([0-9]{4})_[0-9]{5}\.ppm"  # the group is the number of the track in its class
_TEST_NAME = r"[0-9]{5}\.ppm"
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError)

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels


class _Sample(NamedTuple):
    """One image: its path in the archive, its region of interest, its label and its track."""

    member: str
    box: Box
    label: int
    track: int


class Gtsrb(tfds.core.GeneratorBasedBuilder):
    """GTSRB at 32x32 pixels: 39,209 training images of 43 classes in 1,307 tracks, 12,630 test images.

    Features: `image` uint8 [32, 32, 3]; `label` int64 scalar in 0..42; `track` int32 scalar, the same for all
    photographs of one physical sign and unique over the training split, -1 for test images (not published).

    The archives are read from `DownloadConfig.manual_dir`; those not there are downloaded and checked by MD5.
    """

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (the name and type that TFDS looks for)
        tfds.core.BuilderConfig(name="cropped", description="Cut to the region of interest, then resized."),
        tfds.core.BuilderConfig(name="whole", description="The whole photograph, resized."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
            "track": tfds.features.Scalar(dtype=np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="German Traffic Sign Recognition Benchmark, 43 classes, resized to 32x32 pixels.",
            citation="Stallkamp et al., Man vs. computer, Neural Networks 32, 2012",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        paths = _locate_archives(dl_manager)
        # Both splits are indexed before the first image is decoded, so that most faults show within seconds.
        train = _index_train(paths[TRAIN_IMAGES])
        test = _index_test(paths[TEST_IMAGES], paths[TEST_LABELS])
        if (len(train), len(test)) != NUM_IMAGES:
            official = f"{NUM_IMAGES[0]} and {NUM_IMAGES[1]} in the official ones"
            console.print(f"note: these archives hold {len(train)} and {len(test)} images, {official}")
        return {
            "train": self._generate_examples(paths[TRAIN_IMAGES], train),
            "test": self._generate_examples(paths[TEST_IMAGES], test),
        }

    def _generate_examples(self, path: Path, samples: list[_Sample]) -> Iterator[tuple[str, dict[str, Any]]]:
        crop = self.builder_config.name == "cropped"
        with _open_archive(path) as archive:
            for sample in samples:
                image = _decode(archive, sample, crop)
                small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
                png = io.BytesIO()  # bytes, because TFDS needs TensorFlow to encode an array
                small.save(png, "PNG", compress_level=1)
                yield sample.member, {"image": png.getvalue(), "label": sample.label, "track": sample.track}


def _wrong(where: str, found: str, expected: str) -> UserError:
    return UserError(f"{where} {found}, expected {expected}.")


def _locate_archives(dl_manager: tfds.download.DownloadManager) -> dict[str, Path]:
    """Path of each archive by name: the user's copy where there is one, else a verified download."""
    # The public `manual_dir` raises for an absent or empty folder, where here the archives are downloaded.
    manual_dir = Path(dl_manager._manual_dir)
    paths = {name: manual_dir / name for name in ARCHIVE_MD5 if (manual_dir / name).exists()}
    for name in [name for name in ARCHIVE_MD5 if name not in paths]:
        try:
            paths[name] = _download(dl_manager, BASE_URL + name, ARCHIVE_MD5[name])
        except (OSError, DownloadError) as error:  # requests' exceptions are OSErrors
            missing = ", ".join(name for name in ARCHIVE_MD5 if name not in paths)
            raise UserError(
                f"{missing} not found in {manual_dir} and not downloaded from {BASE_URL} "
                f"({_root_cause(error)}); fetch what is missing by other means, put all three archives into "
                "one folder and give that folder as dataset.manual_dir."
            ) from error
    return paths


def _download(dl_manager: tfds.download.DownloadManager, url: str, md5: str) -> Path:
    """Download through TFDS, which keeps what it fetched for the next attempt, and verify the MD5."""
    cached = Path(dl_manager.download_dir) / Gtsrb.name / resource.get_dl_fname(url)
    if not resource.is_locally_cached(cached):
        # TFDS retries a dead server for minutes and has no timeout, so ask first whether the server answers.
        with requests.get(url, stream=True, timeout=TIMEOUTS) as response:
            response.raise_for_status()
    path = Path(dl_manager.download(url))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        path.unlink()
        resource.get_info_path(path).unlink(missing_ok=True)  # else TFDS takes the file for cached
        raise _wrong(f"The file downloaded from {url} (now removed)", f"has MD5 {found}", md5)
    return path


def _root_cause(error: BaseException) -> str:
    """The innermost message, for example "[Errno 111] Connection refused"."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise _wrong(str(path), f"is not a readable zip file ({error})", "the official archive") from error


def _member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> zipfile.ZipInfo:
    """Directory entry of `name`, refused if it is missing or could fill the memory."""
    where = f"{name} in {archive.filename}"
    info = archive.NameToInfo.get(name)
    if info is None:
        raise _wrong(where, "is missing", "it as in the official archive")
    if info.file_size > max_bytes:
        raise _wrong(where, f"has {info.file_size} bytes", f"at most {max_bytes}")
    # zipfile bounds what it unpacks by the size asked for only with these two methods.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _wrong(where, f"has zip method {info.compress_type}", "stored (0) or deflated (8)")
    return info


def _read(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    info = _member(archive, name, max_bytes)
    try:
        with archive.open(info) as file:
            return file.read(info.file_size)  # bounded: a member that lies about its size unpacks no further
    except _ZIP_ERRORS as error:
        raise _wrong(f"{name} in {archive.filename}", f"cannot be unpacked ({error})", "good data") from error


def _parse_row(line: str, where: str) -> tuple[str, Box, int]:
    """File name, ROI box and label of one line of a CSV file."""
    name, *fields = line.split(";")
    try:
        _, _, x1, y1, x2, y2, label = (int(field) for field in fields)
    except ValueError:
        raise _wrong(where, f"is {line[:100]!r}", f"the columns {_CSV_HEADER}") from None
    if not 0 <= label < len(CLASS_NAMES):
        raise _wrong(where, f"has the label {label}", f"0 to {len(CLASS_NAMES) - 1}")
    if not (0 <= x1 < x2 and 0 <= y1 < y2):
        raise _wrong(where, f"has the region {(x1, y1, x2, y2)}", "0 <= X1 < X2 and 0 <= Y1 < Y2")
    return name, (x1, y1, x2, y2), label


def _rows(archive: zipfile.ZipFile, member: str, pattern: str) -> Iterator[tuple[re.Match[str], Box, int]]:
    """Rows of a CSV file in the archive; each file name is unique and matches `pattern`."""
    where = f"{member} in {archive.filename}"
    text = _read(archive, member, MAX_CSV_BYTES).decode("latin-1")
    header, *lines = text.rstrip().splitlines() or [""]
    if header != _CSV_HEADER:
        raise _wrong(where, f"starts with {header[:100]!r}", _CSV_HEADER)
    seen = set()
    for number, line in enumerate(lines, start=2):
        place = f"Line {number} of {where}"
        name, box, label = _parse_row(line, place)
        match = re.fullmatch(pattern, name)
        if match is None:
            raise _wrong(place, f"has the file name {name[:100]!r}", f"one of the form {pattern}")
        if name in seen:
            raise _wrong(place, f"names {name} a second time", "each name once")
        seen.add(name)
        yield match, box, label


def _check_images(archive: zipfile.ZipFile, samples: list[_Sample], root: str, listing: str) -> None:
    """Refuse images that are listed but absent or too large, and images that are there but not listed."""
    for sample in samples:
        _member(archive, sample.member, MAX_IMAGE_BYTES)
    listed = {sample.member for sample in samples}
    for name in archive.namelist():
        if name.startswith(root) and name.endswith(".ppm") and name not in listed:
            raise _wrong(f"{name} in {archive.filename}", "has no label", f"a row in {listing}")


def _index_train(path: Path) -> list[_Sample]:
    samples = []
    with _open_archive(path) as archive:
        matches = (re.match(_TRAIN_ROOT + "([0-9]{5})/", name) for name in archive.namelist())
        folders = sorted({match[1] for match in matches if match})
        if not folders:
            raise _wrong(str(path), "has no class folders", f"{_TRAIN_ROOT}00000/ to 00042/")
        for folder in folders:
            csv = f"{_TRAIN_ROOT}{folder}/GT-{folder}.csv"
            for match, box, label in _rows(archive, csv, _TRAIN_NAME):
                if label != int(folder):
                    raise _wrong(f"{csv} in {path}", f"has label {label} for {match[0]}", str(int(folder)))
                track = label * TRACKS_PER_CLASS + int(match[1])
                samples.append(_Sample(f"{_TRAIN_ROOT}{folder}/{match[0]}", box, label, track))
        _check_images(archive, samples, _TRAIN_ROOT, "the CSV file of its folder")
    return samples


def _index_test(images: Path, labels: Path) -> list[_Sample]:
    with _open_archive(labels) as archive:
        rows = _rows(archive, _TEST_CSV, _TEST_NAME)
        samples = [_Sample(_TEST_ROOT + match[0], box, label, -1) for match, box, label in rows]
    with _open_archive(images) as archive:
        _check_images(archive, samples, _TEST_ROOT, f"{_TEST_CSV} of {labels}")
    return samples


def _decode(archive: zipfile.ZipFile, sample: _Sample, crop: bool) -> Image.Image:
    """RGB image of any height and width, if asked for cut to the region of interest.

    Roi.X1, Y1, X2, Y2 are the corner pixels of the region, which has both.
    """
    where = f"{sample.member} in {archive.filename}"
    data = _read(archive, sample.member, MAX_IMAGE_BYTES)
    try:
        with Image.open(io.BytesIO(data), formats=["PPM"]) as image:  # reads the header only
            width, height = image.size
            if image.mode != "RGB" or 3 * width * height > MAX_IMAGE_BYTES:
                raise _wrong(where, f"is {image.mode} of {width}x{height} pixels", "RGB of at most 16 MiB")
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, RuntimeWarning) as error:
        raise _wrong(where, f"is not a readable image ({error})", "a PPM file") from error
    if crop and (sample.box[2] > width or sample.box[3] > height):
        raise _wrong(where, f"has the region {sample.box}", f"a box inside its {width}x{height} pixels")
    left, top, right, bottom = sample.box
    return image.crop((left, top, min(right + 1, width), min(bottom + 1, height))) if crop else image
