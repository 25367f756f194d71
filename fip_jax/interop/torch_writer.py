"""Writes files that `torch.load` and `load_state_dict` read, without PyTorch."""

import io
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from fip_jax.interop.pickled_values import STORAGES

_STORAGES = {dtype: name for name, dtype in STORAGES.items()}


def to_bytes(content: dict[str, Any]) -> bytes:
    """The content of the file that `write` makes."""
    file = io.BytesIO()
    write(file, content)
    return file.getvalue()


def write(path: Path | IO[bytes], content: dict[str, Any]) -> None:
    """Writes a zip container as `torch.save` does.

    Args:
      path: the file, or what takes its bytes.
      content: nested dicts with keys of type str, lists and tuples of None, bool, int, float, str, and arrays, which
        become tensors.

    Raises:
      TypeError: content of another type.
    """
    arrays: list[np.ndarray] = []
    program = b"\x80\x02" + _instructions(content, arrays) + b"."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(arrays):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def _instructions(value: Any, arrays: list[np.ndarray]) -> bytes:
    """The pickle instructions that leave `value` on the stack; its arrays are added to `arrays`."""
    if isinstance(value, np.ndarray):
        return _tensor(value, arrays)
    if isinstance(value, dict):
        items = b"".join(_instructions(part, arrays) for pair in value.items() for part in pair)
        return b"ccollections\nOrderedDict\n)R(" + items + b"u"
    if isinstance(value, list | tuple):
        items = b"".join(_instructions(part, arrays) for part in value)
        return b"](" + items + b"e" if isinstance(value, list) else b"(" + items + b"t"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        number = value.to_bytes(9, "little", signed=True)
        return b"\x8a\x09" + number
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    raise TypeError(f"cannot be written to a file for PyTorch: {type(value)}")


def _tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    """A call of `_rebuild_tensor_v2` over a storage of its own."""
    if array.dtype not in _STORAGES:
        raise TypeError(f"cannot be written to a file for PyTorch: numbers of type {array.dtype}")
    array = np.asarray(array, order="C")
    strides = [stride // array.itemsize for stride in array.strides]
    storage = f"ctorch\n{_STORAGES[array.dtype]}\n".encode()
    key, device = _instructions(str(len(arrays)), arrays), _instructions("cpu", arrays)
    arrays.append(array)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (b"(" + _instructions("storage", arrays) + storage + key + device)
        + _instructions(array.size, arrays)
        + b"tQ"
        + _instructions(0, arrays)
        + _instructions(array.shape, arrays)
        + _instructions(tuple(strides), arrays)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )
