"""The user's own images: a folder per class, or arrays in an `.npz`."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from fip_jax.data.npz import read_npz
from fip_jax.data.pixels import FORMATS, check_growth, open_picture, to_bytes, to_square
from fip_jax.data.split import DataSet, Split
from fip_jax.errors import UserError
from fip_jax.progress import console
from fip_jax.shown import shown

SPLITS = ("clean", "train", "test")
UNLABELED = "unlabeled"
MAX_LABEL = 100_000
_MAX_BYTES = 1 << 34  # of all images of a split, as they are held


def is_path(name: str) -> bool:
    """Whether a data set's name is a place on disk, and not a data set of TFDS.

    It is where it begins or ends like a path, or is that of a folder with a separator, `clean/` or `train/` in it; but
    a folder that happens to be called like a data set of TFDS needs `./` in front.
    """
    if name.lower().endswith((".npz", os.sep)) or name.startswith((".", "~", os.sep)):
        return True
    folder = Path(name)
    inside = any((folder / split).is_dir() for split in ("clean", "train"))
    if not name or not (inside or (os.sep in name and folder.is_dir())):
        return False
    import tensorflow_datasets as tfds  # takes a while, and is seldom asked

    return name.split(os.sep)[0] not in tfds.list_builders(with_community_datasets=False)


def load(name: str, image_size: int, crop: str) -> DataSet:
    """The images in a folder or an `.npz`.

    A folder holds `clean/` or `train/`, and optionally `test/`, each with a folder of images per class, as TFDS's
    ImageFolder reads it (which needs TensorFlow to give the images out). Where all classes are whole numbers these are
    their indices; otherwise the classes are numbered in alphabetical order, as there and in torchvision. Images in
    `unlabeled/`, or in folders in it, belong to no class.

    An `.npz` holds `clean_images` and `clean_labels` or `train_images` and `train_labels` (or `x_train` and `y_train`),
    and optionally the same of `test`, `class_names`, and `unlabeled_images`. Images are uint8, or float in [0, 1],
    which is rounded to the nearest 255th: `[N, H, W]`, `[N, H, W, 1 or 3]` or `[N, 1 or 3, H, W]`; labels are integers
    `[N]`.

    Args:
      name: path.
      image_size: height and width in pixels that images are resized to.
      crop: "center" or the whole image (see `pixels.to_square`).

    Raises:
      UserError: names the file or folder, what was found, and what was expected.
    """
    path = Path(os.path.expanduser(name))  # which, unlike Path's, leaves the home of nobody as it is
    if path.suffix.lower() == ".npz":
        return _from_arrays(path, image_size, crop)
    if not path.is_dir():
        raise UserError(f"dataset.name: found no folder {path}, expected one with clean/ or train/")
    found = {split: _classes(path / split) for split in SPLITS if (path / split).is_dir()}
    _say_what_is_passed_over(path)
    if not found.keys() & {"clean", "train"}:
        raise UserError(f"dataset.name: found neither {path}/clean nor {path}/train, expected one of them")
    names, numbers = _numbered(path, {name for classes in found.values() for name in classes})
    splits = {
        split: _read_split(path / split, classes, numbers, image_size, crop)
        for split, classes in found.items()
    }
    unlabeled = None
    if (path / UNLABELED).is_dir():
        files = sorted(p for p in (path / UNLABELED).rglob("*") if p.is_file() and not p.name.startswith("."))
        unlabeled = _read_split(path / UNLABELED, {"": files}, {"": 0}, image_size, crop).images
    return DataSet(splits.get("train"), splits.get("test"), names, splits.get("clean"), True, unlabeled)


def _say_what_is_passed_over(path: Path) -> None:
    """Names what lies where images are expected and is none of them: links to nothing, pipes, folders in folders."""
    strange: dict[str, list[Path]] = {}
    for place in sorted(entry for split in SPLITS for entry in (path / split).glob("*")):
        entries = sorted(place.iterdir()) if place.is_dir() else [place]
        for entry in entries:
            if entry.name.startswith(".") or place.name.startswith("."):
                continue
            if kind := _kind(entry, inside=place.is_dir()):
                strange.setdefault(kind, []).append(entry)
    for kind, entries in strange.items():
        console.print(
            f"{path}: {len(entries)} {kind} passed over, {entries[0].relative_to(path)} for one", markup=False
        )


def _kind(entry: Path, inside: bool) -> str:
    """What is passed over, in words; "" for a file in the folder of a class."""
    if entry.is_dir():
        return "folders inside of a class's" if inside else ""
    if entry.is_file():
        return "" if inside else "files outside of the folders of classes"
    return "links to nothing" if entry.is_symlink() else "pipes or devices"


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, in the order of their names; hidden ones do not count."""
    return {
        entry.name: sorted(p for p in entry.iterdir() if p.is_file() and not p.name.startswith("."))
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }


def _numbered(path: Path, folders: set[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """(names of the classes, index of each folder)."""
    if not folders:
        raise UserError(
            f"dataset.name: found no folders in those of {path}, expected a folder for each class"
        )
    if not all(folder.isdecimal() for folder in folders):
        names = sorted(folders)
        return tuple(map(shown, names)), {name: index for index, name in enumerate(names)}
    # Not int() of a name of any length, which Python refuses.
    numbers = {folder: int(folder[-10:]) for folder in folders}
    for number in sorted(set(numbers.values())):
        if len(same := sorted(folder for folder in folders if numbers[folder] == number)) > 1:
            raise UserError(
                f"dataset.name: found the folders {', '.join(same)} in {path}, which are one number, expected one "
                f"folder for the class {number}"
            )
    strange = [folder for folder in sorted(folders) if len(folder) > 10 or numbers[folder] > MAX_LABEL]
    if strange:
        raise UserError(
            f"dataset.name: found the class {strange[0][:50]} in {path}, expected at most {MAX_LABEL}"
        )
    low, high = min(numbers.values()), max(numbers.values())
    console.print(
        f"{path}: the folders' names are numbers and are taken for the indices of classes, {low} to {high}"
        + (", of which 0 has no images" if low else ""),
        markup=False,
    )
    return tuple(map(str, range(1 + high))), numbers


def _read_split(
    folder: Path, classes: dict[str, list[Path]], numbers: dict[str, int], size: int, crop: str
) -> Split:
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    files = [(file, numbers[name]) for name, members in classes.items() for file in members]
    pictures = [(file, label) for file, label in files if file.suffix.lower() in endings]
    others = [file for file, _ in files if file.suffix.lower() not in endings]
    if not pictures:
        raise UserError(
            f"dataset.name: found no images in {folder}, expected some, or no such folder"
            if folder.name == UNLABELED
            else f"dataset.name: found no images in {folder}, expected a folder of images for each class"
        )
    if others:
        console.print(
            f"{folder}: {len(others)} files are none of {', '.join(FORMATS)} by their names and are left out, "
            f"{others[0].name} for one",
            markup=False,
        )
    images = _empty(str(folder), len(pictures), size)
    for index, (file, _) in enumerate(pictures):
        picture = open_picture(file)
        check_growth(str(file), *picture.size, size)
        images[index] = to_square(picture, size, crop)
    return Split(images, np.array([label for _, label in pictures], np.int32))


def _empty(where: str, count: int, size: int) -> np.ndarray:
    if count * size**2 * 3 > _MAX_BYTES:
        raise UserError(
            f"{where}: found {count} images, expected at most {_MAX_BYTES} bytes of them at dataset.image_size = {size}"
        )
    return np.empty((count, size, size, 3), np.uint8)


def _from_arrays(path: Path, image_size: int, crop: str) -> DataSet:
    arrays = read_npz(path)
    splits = {}
    for split, (images_key, labels_key) in _keys(path, arrays).items():
        pixels = _pixels(f"{path}: {images_key}", arrays[images_key])
        labels = _labels(f"{path}: {labels_key}", arrays[labels_key], len(pixels))
        splits[split] = Split(_squares(f"{path}: {images_key}", pixels, image_size, crop), labels)
    count = 1 + max(int(split.labels.max()) for split in splits.values())
    names = arrays.get("class_names", np.arange(count).astype(str))
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < count:
        raise UserError(
            f"{path}: class_names is {names.dtype} {list(names.shape)}, expected {count} strings, one a class"
        )
    class_names = tuple(shown(str(name)) for name in names)
    key, unlabeled = f"{UNLABELED}_images", None
    if key in arrays:
        where = f"{path}: {key}"
        unlabeled = _squares(where, _pixels(where, arrays[key]), image_size, crop)
    return DataSet(splits.get("train"), splits.get("test"), class_names, splits.get("clean"), True, unlabeled)


def _squares(where: str, pixels: np.ndarray, image_size: int, crop: str) -> np.ndarray:
    check_growth(where, pixels.shape[2], pixels.shape[1], image_size)
    images = _empty(where, len(pixels), image_size)
    for index, image in enumerate(pixels):
        images[index] = to_square(Image.fromarray(image), image_size, crop)
    return images


def _keys(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """The names of the images and of the labels of each split."""
    found: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        for pair in ((f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")):
            missing = [key for key in pair if key not in arrays]
            if len(missing) == 1:
                raise UserError(f"{path}: found no {missing[0]}, expected both {pair[0]} and {pair[1]}")
            if not missing and found.setdefault(split, pair) != pair:
                raise UserError(f"{path}: found {found[split][0]} and {pair[0]}, expected one of the two")
    if not found.keys() & {"clean", "train"}:
        raise UserError(
            f"{path}: found {', '.join(arrays)[:200] or 'nothing'}, expected clean_images and clean_labels, or "
            "train_images and train_labels"
        )
    return found


def _labels(where: str, labels: np.ndarray, count: int) -> np.ndarray:
    """int32 `[N]`."""
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise UserError(
            f"{where} is {labels.dtype} {list(labels.shape)}, expected integers [{count}], one an image"
        )
    if labels.min() < 0 or labels.max() > MAX_LABEL:
        raise UserError(
            f"{where} goes from {labels.min()} to {labels.max()}, expected classes from 0 to {MAX_LABEL}"
        )
    return labels.reshape(-1).astype(np.int32)


def _pixels(where: str, images: np.ndarray) -> np.ndarray:
    """uint8 `[N, H, W, 3]` of `[N, H, W]`, `[N, H, W, 1 or 3]` or `[N, 1 or 3, H, W]`, uint8 or float in [0, 1]."""
    images = to_bytes(where, images)
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(f"{where} is {images.dtype} {list(images.shape)}, expected [N, H, W, 3]")
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.shape[-1] not in (1, 3):
        raise UserError(f"{where} is {list(shape)}, expected [N, H, W, 3]")
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))
