"""Arrays in a folder as Orbax writes them, read without it: a stranger may have written the folder.

Each array is a folder of its own, by the array's name: `zarr.json` says shape and type, and a single file `c/0/0`, a
zero for every axis, holds the numbers, uncompressed, followed by where they lie and a checksum of that. Anything else
that Zarr would allow (compression, several chunks, other codecs) is refused, so that no file makes more than it is.

Source of the format: Zarr's core specification 3.1 with its codecs `bytes` and `sharding_indexed`.
"""

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fip_jax import plain

_TYPES = ("float32", "float16", "bfloat16", "float64", "int32", "uint32", "int64", "uint8", "bool")
_MAX_ARRAYS = 4096
_MAX_AXES = 8
_MAX_HEADER = 1 << 14
_INDEX = struct.Struct("<QQI")  # offset and length of the numbers, and a checksum of these two

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def read_arrays(folder: Path, expected: Shapes | None, limit: int = 1 << 28) -> dict[str, np.ndarray]:
    """The arrays in a folder by name.

    Args:
      folder: with a folder for each array.
      expected: names, shapes and types that the arrays have to have; None for whatever is there.
      limit: bytes of all arrays, where nobody knows what they should be.

    Raises:
      ValueError: not such a folder, or arrays that are not as expected.
      OSError: something is not there, or cannot be read.
    """
    names = _names(folder)
    if expected is not None and names != set(expected):
        raise ValueError(_difference(names, set(expected)))
    found = {name: _header(folder / name) for name in sorted(names)}
    for name, like in (expected or {}).items():
        if found[name] != (tuple(like.shape), np.dtype(like.dtype)):
            shape, dtype = found[name]
            raise ValueError(f"{name} is {dtype} {list(shape)}, not {like.dtype} {list(like.shape)}")
    total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in found.values())
    if expected is None and total > limit:
        raise ValueError(f"{total} bytes of numbers, at most {limit} are read")
    return {name: _numbers(folder / name, *found[name]) for name in found}


def _names(folder: Path) -> set[str]:
    names: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            # Beside the arrays lie notes of Orbax, and a folder of them, which only Orbax needs.
            if not entry.is_dir(follow_symlinks=False) or entry.name == "array_metadatas":
                continue
            names.add(entry.name)
            if len(names) > _MAX_ARRAYS:
                raise ValueError(f"more than {_MAX_ARRAYS} arrays")
    return names


def _difference(found: set[str], expected: set[str]) -> str:
    lists = [
        f"{kind} {sorted(names)[:4]!r}"[:200]
        for kind, names in (("without", expected - found), ("with", found - expected))
        if names
    ]
    return "arrays of another network: " + ", ".join(lists)


def _header(folder: Path) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, type) in a `zarr.json`."""
    told = plain.read_json(folder / "zarr.json", _MAX_HEADER)
    if not isinstance(told, dict) or told.get("zarr_format") != 3 or told.get("node_type") != "array":
        raise ValueError(f"{folder.name!r} is no array")
    shape, kind = told.get("shape"), told.get("data_type")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_AXES
        or not all(type(n) is int and 0 < n < 1 << 40 for n in shape)
    ):
        raise ValueError(f"{folder.name!r} has no shape")
    if type(kind) is not str or kind not in _TYPES:
        raise ValueError(f"{folder.name!r} is of type {str(kind)[:40]!r}")
    if _layout(told) != (shape, shape, ["bytes"]) or told.get("storage_transformers"):
        raise ValueError(f"{folder.name!r} is compressed or in pieces, which is not read")
    return tuple(shape), jax.numpy.dtype(kind)


def _layout(told: dict[str, Any]) -> tuple[Any, Any, list[Any]] | None:
    """(shape of the file, shape of what is in it, codecs) of a `zarr.json`, or None for what is otherwise."""
    try:
        (shard,) = told["codecs"]
        inner = shard["configuration"]
        endian = [codec.get("configuration", {}).get("endian", "little") for codec in inner["codecs"]]
        index = [codec["name"] for codec in inner["index_codecs"]]
        usual = (
            shard["name"] == "sharding_indexed"
            and index == ["bytes", "crc32c"]
            and inner.get("index_location", "end") == "end"
            and endian == ["little"]
            and told["chunk_grid"]["name"] == "regular"
            and told["chunk_key_encoding"] == {"name": "default"}
        )
        grid = told["chunk_grid"]["configuration"]["chunk_shape"]
        return (grid, inner["chunk_shape"], [codec["name"] for codec in inner["codecs"]]) if usual else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _numbers(folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    place = folder.joinpath("c", *["0"] * len(shape))
    if any(part.is_symlink() for part in (folder, folder / "c", *place.parents[: len(shape)])):
        raise ValueError(f"{folder.name!r} is a link")
    content = plain.read(place, size + _INDEX.size)
    if len(content) != size + _INDEX.size or _INDEX.unpack_from(content, size)[:2] != (0, size):
        raise ValueError(
            f"{folder.name!r} has {len(content)} bytes of numbers, not the {size} of {dtype} {list(shape)}"
        )
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape)
