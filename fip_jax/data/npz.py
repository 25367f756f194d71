"""`.npy` and `.npz` files from elsewhere, read without trusting what they say of their size."""

import math
import warnings
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from fip_jax import plain
from fip_jax.errors import UserError

_MAX_BYTES = 8 << 30
_MAX_ALONE = 1 << 28  # of one array, a trigger or a mask
# What deflate makes of real images stays far below this; of zeros it makes a thousandth.
_MAX_RATIO = 200


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by name, not to be written to.

    Raises:
      UserError: not an `.npz`, damaged, with pickled objects, or larger in memory than plausible.
    """
    try:
        plain.check_file(path, _MAX_BYTES)
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path.stat().st_size)
            arrays: dict[str, np.ndarray] = {}
            for record in archive.infolist():
                name = record.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"two arrays named {name[:80]!r}")
                with archive.open(record) as file:
                    arrays[name] = _read(file, record.file_size)
            return arrays
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises many types over damaged files
        raise _refusal(path, error) from error


def read_npy(path: Path) -> np.ndarray:
    """The array of an `.npy`, not to be written to.

    Raises:
      UserError: not an `.npy`, damaged, or with pickled objects.
    """
    try:
        plain.check_file(path, _MAX_ALONE)
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except MemoryError:
        raise
    except Exception as error:  # of a shape that is none, NumPy raises many types
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{path}: expected whole NumPy arrays of numbers, found something else ({reason})")


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses an archive of `size` bytes before anything in it is unpacked."""
    declared = sum(record.file_size for record in archive.infolist())
    if declared > min(_MAX_BYTES, _MAX_RATIO * size + (1 << 20)):
        raise ValueError(f"{declared} bytes in a file of {size}")
    for record in archive.infolist():
        # zipfile bounds what it unpacks by the size asked for only with these two methods.
        if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"zip method {record.compress_type}")


def _read(file: IO[bytes], size: int) -> np.ndarray:
    """The array in a file of `size` bytes, if the header agrees with what is left after it."""
    shape, fortran_order, dtype = _header(file)
    if dtype.kind not in "biufU":
        raise ValueError(f"type {dtype}")
    rest = size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"{rest} bytes for {dtype} {list(shape)}")
    data = file.read(rest)
    if len(data) != rest:
        raise ValueError(f"{len(data)} of {rest} bytes")
    if dtype.kind == "U":
        _check_text(np.frombuffer(data, dtype.str[0] + "u4"))
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def _check_text(codes: np.ndarray) -> None:
    """Refuses numbers that are no characters, at which Python itself fails later."""
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise ValueError("text with numbers that are no characters")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the file was written under Python 2
            return readers[version](file)
    except Exception as error:  # the header is parsed as Python, which fails in many ways
        raise ValueError(f"no header of an npy file: {error}") from error
