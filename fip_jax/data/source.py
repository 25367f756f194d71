"""Data sets by name, whole and in memory, read through TFDS without TensorFlow."""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from fip_jax.data import own_images
from fip_jax.data.gtsrb import Gtsrb
from fip_jax.data.pixels import FORMATS, to_square
from fip_jax.data.rendered_signs import RenderedSigns
from fip_jax.data.split import DataSet, Split
from fip_jax.errors import UserError
from fip_jax.progress import console

_READ_TOGETHER = 1024  # images

OWN_BUILDERS = {"gtsrb": Gtsrb, "rendered_signs": RenderedSigns}


def load(
    name: str, *, data_dir: str = "", manual_dir: str = "", image_size: int = 32, crop: str = "auto"
) -> DataSet:
    """Loads a data set, preparing it first where that has not been done.

    Args:
      name: `gtsrb`, `rendered_signs`, any TFDS image classification set (`name`, `name/config`), or a path to
        images of the user's own (see `own_images.py`).
      data_dir: where TFDS keeps prepared data sets; empty for TFDS's default.
      manual_dir: folder of archives that the user downloaded; empty for none.
      image_size: height and width in pixels that images are resized to (bilinear) if they are not so already.
      crop: what is resized: "auto", the region of interest where the data set knows one (`gtsrb`), else the whole
        image; "whole"; or "center", the largest centred square (of `gtsrb`, prepared as squares, the whole).

    Raises:
      UserError: unknown name, not a set of labelled images, or it cannot be prepared.
    """
    if own_images.is_path(name):
        return own_images.load(name, image_size, crop)
    # Shells leave a ~ after a = as it is.
    data_dir, manual_dir = map(os.path.expanduser, (data_dir, manual_dir))
    builder = _builder(name, data_dir, crop)
    if not {"image", "label"} <= set(builder.info.features or {}):
        raise UserError(f"dataset.name: {name} has no features 'image' and 'label', expected labelled images")
    if not builder.is_prepared():
        _prepare(builder, name, manual_dir)
        builder = _builder(name, data_dir, crop)  # with what lies on disk
    splits = builder.info.splits
    label = builder.info.features["label"]
    if not isinstance(label, tfds.features.ClassLabel):
        raise UserError(f"dataset.name: the labels of {name} are not classes, expected a classification set")
    labelled = [
        split for split in ("train", "test", "validation") if split in splits and _has_labels(builder, split)
    ]
    if labelled[:1] != ["train"] or len(labelled) == 1:
        raise UserError(
            f"dataset.name: {name} has splits {', '.join(splits)}, expected 'train' and 'test' or 'validation', with "
            "labels"
        )
    evaluation = labelled[1]
    side = (builder.info.features["image"].shape or (None,))[0]
    if side is not None and side < image_size:
        console.print(
            f"{name} is kept at {side} pixels and enlarged to dataset.image_size = {image_size}", markup=False
        )
    train, test = (_read(builder, split, image_size, crop) for split in ("train", evaluation))
    return DataSet(train, test, tuple(label.names))


def _builder(name: str, data_dir: str, crop: str) -> tfds.core.DatasetBuilder:
    options = {"data_dir": data_dir or None, "file_format": "array_record"}
    try:
        if name == "gtsrb":
            return Gtsrb(config="cropped" if crop == "auto" else "whole", **options)
        if name in OWN_BUILDERS:
            return OWN_BUILDERS[name](**options)
        return tfds.builder(name, **options)
    except (tfds.core.DatasetNotFoundError, ImportError, ValueError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"dataset.name: found {name!r}, expected {', '.join(OWN_BUILDERS)}, the path of a folder with clean/ or "
            f"train/ or of an .npz, or the name of a TFDS data set that is not yet prepared or prepared as "
            f"ArrayRecord ({reason})"
        ) from error


class _WithoutAnnouncement(io.TextIOBase):
    """A stream without TFDS's "Downloading and preparing dataset Unknown size", of a set that is drawn here."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Passes on what is no such announcement."""
        if self._stream is not None and "Downloading and preparing dataset" not in text:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Of the stream."""
        if self._stream is not None:
            self._stream.flush()

    def isatty(self) -> bool:
        """Of the stream."""
        return self._stream is not None and self._stream.isatty()


def _prepare(builder: tfds.core.DatasetBuilder, name: str, manual_dir: str) -> None:
    if manual_dir and not Path(manual_dir).is_dir():
        raise UserError(f"dataset.manual_dir: found no folder {manual_dir}, expected one")
    console.print(f"prepare {name}, once for all runs, in {builder.data_path}", markup=False)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(_WithoutAnnouncement(sys.stdout)):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir or None)
            )
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"dataset.name: preparing {name} needs TensorFlow, which is not installed; prepare it once where "
            f"it is, with file_format='array_record', and point dataset.data_dir there; or give an .npz with x_train, "
            f"y_train, x_test and y_test as dataset.name ({error})"
        ) from error
    except Exception as error:  # TFDS lets through whatever the download or the builder raised
        if builder.is_prepared():
            return  # another process came first
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"dataset.name: {name} could not be downloaded and prepared: {reason}") from error


def _encoded(builder: tfds.core.DatasetBuilder) -> dict[str, Any] | None:
    """Decoders that leave images to Pillow, which needs half of TFDS's time; None where they are not of 8 bits."""
    feature = builder.info.features["image"]
    fits = isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8
    return {"image": tfds.decode.SkipDecoding()} if fits else None


def _has_labels(builder: tfds.core.DatasetBuilder, split: str) -> bool:
    """Whether the labels were published; TFDS has -1 where they were not."""
    examples = builder.as_data_source(split=split, decoders=_encoded(builder))
    return len(examples) > 0 and examples[0]["label"] >= 0


def _read(builder: tfds.core.DatasetBuilder, split: str, image_size: int, crop: str) -> Split:
    examples = builder.as_data_source(split=split, decoders=_encoded(builder))
    images = np.empty((len(examples), image_size, image_size, 3), np.uint8)
    labels = np.empty(len(examples), np.int32)
    has_tracks = "track" in builder.info.features
    tracks = np.empty(len(examples), np.int32) if has_tracks else None
    for start in range(0, len(examples), _READ_TOGETHER):
        keys = range(start, min(start + _READ_TOGETHER, len(examples)))
        for index, example in zip(keys, examples.__getitems__(keys), strict=True):
            images[index] = to_square(_picture(example["image"]), image_size, crop)
            labels[index] = example["label"]
            if tracks is not None:
                tracks[index] = example["track"]
    return Split(images, labels, tracks)


def _picture(image: Any) -> Image.Image:
    if isinstance(image, bytes):
        return Image.open(io.BytesIO(image), formats=FORMATS)
    return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
