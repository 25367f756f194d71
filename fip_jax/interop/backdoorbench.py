"""What BackdoorBench leaves beside a poisoned network: its triggered test images, and how it was attacked.

Source: https://github.com/SCLBD/BackdoorBench, `attack_result.pt` with `bd_test_dataset/` and `info.pickle` beside it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fip_jax.attacks.poison import TriggeredSet
from fip_jax.errors import UserError
from fip_jax.interop import torch_file
from fip_jax.interop.foreign import Foreign
from fip_jax.interop.pickled_values import Opaque
from fip_jax.interop.torch_file import TorchFile

_CHANNELS = {"RGB": 3, "L": 1}
# Images are read in this format alone, which is what BackdoorBench writes.
_FORMATS = ("PNG",)
# Of what a file may ask for: it can name one image any number of times.
_MAX_BYTES = 1 << 33
_MAX_CLASSES = 1 << 20


class AttackResult(NamedTuple):
    """An `attack_result.pt`.

    Attributes:
      model_name: BackdoorBench's name of the network.
      num_classes: number of classes.
      triggered: its test images with the trigger, or None if it holds none.
      attack: name of the attack as `info.pickle` beside the file gives it, or None.
    """

    model_name: str
    num_classes: int
    triggered: TriggeredSet | None
    attack: str | None


def read(foreign: Foreign, image_size: int) -> AttackResult | None:
    """What an `attack_result.pt` holds beside the weights, or None for any other file.

    Paths in it point to where it was made; images are looked for under the folder's name beside the file.

    Args:
      foreign: the file.
      image_size: height and width in pixels that the images must have.

    Raises:
      UserError: an image is missing, unreadable or of another size, or the file is not as BackdoorBench writes it.
    """
    content = foreign.source.content if isinstance(foreign.source, TorchFile) else None
    if not isinstance(content, dict) or not {"model_name", "num_classes", "bd_test"} <= content.keys():
        return None
    name, num_classes = content["model_name"], content["num_classes"]
    if (
        type(name) is not str
        or not name.isprintable()
        or type(num_classes) is not int
        or not 0 < num_classes <= _MAX_CLASSES
    ):
        raise UserError(f"{foreign.path}: model_name and num_classes are no name and number, expected both")
    triggered = _triggered(foreign.path, content["bd_test"], num_classes, image_size)
    return AttackResult(name, num_classes, triggered, _attack_name(foreign.path.parent / "info.pickle"))


def _attack_name(path: Path) -> str | None:
    if not path.is_file():
        return None
    settings = torch_file.read(path).content
    name = settings.get("attack") if isinstance(settings, dict) else None
    return name if type(name) is str and re.fullmatch(r"[\w.+-]{1,40}", name) else None


def _triggered(path: Path, bd_test: Any, num_classes: int, image_size: int) -> TriggeredSet | None:
    container = bd_test.get("bd_data_container") if isinstance(bd_test, dict) else None
    found = container.get("data_dict") if isinstance(container, dict) else None
    if not isinstance(container, dict) or not isinstance(found, dict):
        raise UserError(
            f"{path}: bd_test has no bd_data_container with a data_dict, expected BackdoorBench's"
        )
    if len(found) * image_size**2 * 3 > _MAX_BYTES:
        raise UserError(
            f"{path}: found {len(found)} images in bd_test, expected {_MAX_BYTES} bytes of them at most"
        )
    images, labels, targets = [], [], []
    for image, target, label in _examples(path, container.get("save_folder_path"), found):
        if image.shape != (image_size, image_size, 3):
            raise UserError(
                f"{path}: found triggered images of {image.shape[1]} x {image.shape[0]} pixels, expected "
                f"dataset.image_size = {image_size}"
            )
        for value in (target, label):
            if type(value) is not int or not 0 <= value < num_classes:
                plain = type(value) in (int, float, str)  # others can nest without end
                shown = repr(str(value)[:20])[1:-1] if plain else f"of type {type(value).__name__}"
                raise UserError(f"{path}: found a label {shown} in bd_test, expected 0 to {num_classes - 1}")
        if target != label:
            images.append(image)
            labels.append(label)
            targets.append(target)
    if not images:
        return None
    return TriggeredSet(np.stack(images), np.array(labels, np.int32), np.array(targets, np.int32), None)


def _examples(path: Path, folder: Any, found: dict) -> Iterator[tuple[np.ndarray, Any, Any]]:
    """(image uint8 [H, W, 3], the attacker's class, the true class) of each entry of a `data_dict`."""
    for entry in found.values():
        if isinstance(entry, dict) and type(entry.get("path")) is str and type(folder) is str:
            info = entry.get("other_info")
            image = _read_png(*_relocated(path, folder, entry["path"]))
        elif isinstance(entry, tuple | list) and len(entry) >= 3 and isinstance(entry[0], Opaque):
            info, image = entry[1:3], _pixels(path, entry[0])
        else:
            raise UserError(
                f"{path}: found an entry of bd_test that is no image, expected a path or an image"
            )
        if not isinstance(info, list | tuple) or len(info) < 2:
            raise UserError(f"{path}: found an image of bd_test without labels, expected two")
        yield image, info[0], info[1]


def _relocated(path: Path, folder: str, image: str) -> tuple[Path, Path]:
    """Where an image lies now, and the folder that it must be in: the one of that last name beside the file."""
    parts = image.replace("\\", "/").split("/")
    name = folder.replace("\\", "/").rstrip("/").split("/")[-1]
    if name not in parts or ".." in parts[parts.index(name) :] or name in ("", ".", ".."):
        raise UserError(f"{path}: found the image path {image[:120]!r}, expected one inside of {name[:60]!r}")
    return path.parent.joinpath(*parts[parts.index(name) :]), path.parent / name


def _read_png(path: Path, folder: Path) -> np.ndarray:
    shown = repr(str(path)[-200:])[1:-1]
    try:
        # A pipe would be waited for, and links can lead anywhere.
        if path.exists() and not (path.is_file() and path.resolve().is_relative_to(folder.resolve())):
            raise ValueError("no file, or one elsewhere")
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > 1 << 24:
                raise ValueError("too many pixels")
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"{shown}: found no such image, expected it beside attack_result.pt") from error
    except Exception as error:  # Pillow raises many types over damaged images
        raise UserError(f"{shown}: expected a PNG image, found another or a damaged file") from error


def _pixels(path: Path, image: Opaque) -> np.ndarray:
    """A pickled `PIL.Image.Image`, whose state is [info, mode, (width, height), palette, bytes]."""
    state = image.state
    expected = UserError(f"{path}: found a pickled image of an unknown kind, expected 8-bit RGB or grey")
    if not isinstance(state, list | tuple) or len(state) < 5:
        raise expected
    if type(state[1]) is not str or state[1] not in _CHANNELS:  # others may take for ever to hash
        raise expected
    mode, size, data = state[1], state[2], state[4]
    if not isinstance(size, tuple) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise expected
    channels = _CHANNELS[mode]
    if type(data) is not bytes or len(data) != size[0] * size[1] * channels:
        raise expected
    pixels = np.frombuffer(data, np.uint8).reshape(size[1], size[0], channels)
    return np.broadcast_to(pixels, (size[1], size[0], 3))
