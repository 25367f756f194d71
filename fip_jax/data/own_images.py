"""The user's own images: a folder per class, or arrays in an `.npz`."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from fip_jax.data.npz import read_npz
from fip_jax.data.pixels import open_picture, to_square
from fip_jax.data.split import DataSet, Split
from fip_jax.errors import UserError

SPLITS = ("clean", "train", "test")


def is_path(name: str) -> bool:
    """Whether a data set's name is a place on disk: it begins like a path, exists, or ends in `.npz`."""
    return name.endswith(".npz") or name.startswith((".", "~", os.sep)) or bool(name and Path(name).is_dir())


def load(name: str, image_size: int, crop: str) -> DataSet:
    """The images in a folder or an `.npz`.

    A folder holds `clean/` or `train/`, and optionally `test/`, each with a folder of images per class, as TFDS's
    ImageFolder reads it (which needs TensorFlow to give the images out). Where all classes are whole numbers these are
    their indices; otherwise the classes are numbered in alphabetical order, as there and in torchvision.

    Args:
      name: path.
      image_size: height and width in pixels that images are resized to.
      crop: "center" or the whole image (see `pixels.to_square`).

    Raises:
      UserError: names the file or folder, what was found, and what was expected.
    """
    path = Path(name).expanduser()
    if path.suffix == ".npz":
        return _from_arrays(path, image_size, crop)
    if not path.is_dir():
        raise UserError(f"dataset.name: found no folder {path}, expected one with clean/ or train/")
    found = {split: _classes(path / split) for split in SPLITS if (path / split).is_dir()}
    if not found.keys() & {"clean", "train"}:
        raise UserError(f"dataset.name: found neither {path}/clean nor {path}/train, expected one of them")
    names = _class_names(path, {name for classes in found.values() for name in classes})
    numbers = {name: index for index, name in enumerate(names)} | {
        folder: int(folder) for classes in found.values() for folder in classes if folder.isdecimal()
    }
    splits = {
        split: _read_split(path / split, classes, numbers, image_size, crop)
        for split, classes in found.items()
    }
    return DataSet(splits.get("train"), splits.get("test"), names, splits.get("clean"), own=True)


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, in the order of their names; hidden files do not count."""
    return {
        entry.name: sorted(p for p in entry.iterdir() if p.is_file() and not p.name.startswith("."))
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }


def _class_names(path: Path, names: set[str]) -> tuple[str, ...]:
    if not names:
        raise UserError(
            f"dataset.name: found no folders in those of {path}, expected a folder for each class"
        )
    if not all(name.isdecimal() for name in names):
        # A stray number among names would be taken for an index.
        if any(name.isdecimal() for name in names):
            raise UserError(f"dataset.name: found numbers and words as classes in {path}, expected one kind")
        return tuple(sorted(names))
    highest = max(int(name) for name in names)
    if highest > 100_000:
        raise UserError(f"dataset.name: found the class {highest} in {path}, expected at most 100,000")
    return tuple(str(index) for index in range(highest + 1))


def _read_split(
    folder: Path, classes: dict[str, list[Path]], numbers: dict[str, int], size: int, crop: str
) -> Split:
    files = [(file, numbers[name]) for name, members in classes.items() for file in members]
    if not files:
        raise UserError(
            f"dataset.name: found no images in {folder}, expected a folder of images for each class"
        )
    images = np.empty((len(files), size, size, 3), np.uint8)
    for index, (file, _) in enumerate(files):
        images[index] = to_square(open_picture(file), size, crop)
    return Split(images, np.array([label for _, label in files], np.int32))


def _from_arrays(path: Path, image_size: int, crop: str) -> DataSet:
    arrays = read_npz(path)
    names = arrays.pop("class_names", None)
    splits = {}
    for split, (images, labels) in _pairs(path, arrays).items():
        pixels = _pixels(path, split, images)
        if labels.dtype.kind not in "iu" or labels.shape not in ((len(pixels),), (len(pixels), 1)):
            raise UserError(
                f"{path}: the labels of {split} are {labels.dtype} {list(labels.shape)}, expected integers "
                f"[{len(pixels)}], one an image"
            )
        if not len(pixels) or labels.min() < 0 or labels.max() > 100_000:
            raise UserError(
                f"{path}: found no images or labels out of range in {split}, expected 0 to 100,000"
            )
        squares = [to_square(Image.fromarray(image), image_size, crop) for image in pixels]
        splits[split] = Split(np.stack(squares), labels.reshape(-1).astype(np.int32))
    count = 1 + max(int(split.labels.max()) for split in splits.values())
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1 or len(names) < count):
        raise UserError(f"{path}: class_names does not hold {count} names, expected one for each class")
    class_names = tuple(map(str, range(count) if names is None else names))
    return DataSet(splits.get("train"), splits.get("test"), class_names, splits.get("clean"), own=True)


def _pairs(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(images, labels) of each split, also under the names that Keras uses."""
    found = {}
    for split in SPLITS:
        for images, labels in ((f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")):
            if images in arrays and labels in arrays:
                found[split] = (arrays[images], arrays[labels])
    if not found.keys() & {"clean", "train"}:
        raise UserError(
            f"{path}: found {', '.join(arrays) or 'nothing'}, expected clean_images and clean_labels, or "
            "train_images and train_labels"
        )
    return found


def _pixels(path: Path, split: str, images: np.ndarray) -> np.ndarray:
    """uint8 `[N, H, W, 3]` of `[N, H, W]`, `[N, H, W, 1 or 3]` or `[N, 1 or 3, H, W]`, uint8 or float in [0, 1]."""
    if images.dtype.kind == "f" and images.size and images.min() >= 0 and images.max() <= 1:
        images = np.rint(images * 255).astype(np.uint8)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"{path}: the images of {split} are {images.dtype} {list(images.shape)}, expected uint8, or float in "
            "[0, 1], [N, H, W, 3]"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.shape[-1] not in (1, 3):
        raise UserError(f"{path}: the images of {split} are {list(images.shape)}, expected [N, H, W, 3]")
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))
