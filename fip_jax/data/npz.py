"""`.npy` and `.npz` files from elsewhere, read without trusting what they say of their size."""

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fip_jax.errors import UserError

_MAX_BYTES = 8 << 30
# What deflate makes of real images stays far below this; of zeros it makes a thousandth.
_MAX_RATIO = 200


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by name.

    Raises:
      UserError: not an `.npz`, damaged, with pickled objects, or larger in memory than plausible.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = path.stat().st_size
            declared = sum(record.file_size for record in archive.infolist())
            if declared > min(_MAX_BYTES, _MAX_RATIO * size + (1 << 20)):
                raise ValueError(f"{declared} bytes in a file of {size}")
            arrays = {}
            for record in archive.infolist():
                with archive.open(record) as file:
                    arrays[record.filename.removesuffix(".npy")] = _read(file.read(record.file_size + 1))
            return arrays
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise _refusal(path, error) from error


def read_npy(path: Path) -> np.ndarray:
    """The array of an `.npy`.

    Raises:
      UserError: not an `.npy`, damaged, or with pickled objects.
    """
    try:
        return _read(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path}: expected whole NumPy arrays of numbers, found something else ({reason})")


def _read(data: bytes) -> np.ndarray:
    """An array whose header agrees with the length of what follows, checked before anything is allocated."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("unknown version of the npy format")
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "biufU":
        raise ValueError(f"type {dtype}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{len(data) - file.tell()} bytes for an array of shape {list(shape)}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
