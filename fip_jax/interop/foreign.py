"""Files of weights from elsewhere: which tensors are the network's, and the same file with other numbers in them."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from fip_jax.errors import UserError
from fip_jax.interop import torch_file
from fip_jax.interop.pickled_values import Opaque, TensorRef
from fip_jax.interop.state_dict import COUNTERS
from fip_jax.interop.torch_file import TorchFile

# Where programs put a state dict inside of what they save; the first of these that is there counts.
_PLACES = ("net", "state_dict", "model", "netC", "model_state_dict", "classifier", "network", "weights")
_MAX_WRAPPERS = 4
# Tied weights share their numbers; thousands of names for the same ones would take hours to check.
_MAX_SHARING = 8
_MAX_NAME = 300
# First bytes of a dictionary with an entry or more; a pickle begins with 0x80.
_MSGPACK = (*range(0x81, 0x90), 0xDE, 0xDF)
_NEARLY_ALL = 0.8


class Foreign(NamedTuple):
    """A file of weights.

    Attributes:
      path: the file.
      keys: each tensor's name, without what wrappers put before it -> its name in the file.
      arrays: the tensors by their names in the file, in its order; read-only.
      source: for files of PyTorch the whole file, for safetensors their metadata.
      place: for files of PyTorch the tensors of `arrays` in it.
      copies: where a file of PyTorch holds tensors of the same shapes as the network's kernels once more, such as
        averages of them.
    """

    path: Path
    keys: dict[str, str]
    arrays: dict[str, np.ndarray]
    source: TorchFile | dict[str, str]
    place: dict[str, TensorRef]
    copies: tuple[str, ...] = ()

    def network(self) -> dict[str, np.ndarray]:
        """The tensors by name, without what wrappers put before the names."""
        return {name: self.arrays[key] for name, key in self.keys.items()}

    def with_network(self, changes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All tensors by their names in the file, of their types there; those in `changes` with its numbers."""
        replaced = {
            self.keys[name]: np.asarray(array).astype(self.arrays[self.keys[name]].dtype)
            for name, array in changes.items()
        }
        return self.arrays | replaced

    def rewritten(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        """The file with other numbers: the same keys, nesting, types, and whatever else is in it.

        Args:
          arrays: as from `with_network`.
        """
        if isinstance(self.source, TorchFile):
            # What shares its numbers with a changed tensor must not write the old ones over it.
            changed = {key: array for key, array in arrays.items() if array is not self.arrays[key]}
            return self.source.replaced((self.place[key], array) for key, array in changed.items())
        return to_safetensors(arrays, self.source)


def to_safetensors(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a `.safetensors` file, the same for the same arguments."""
    data = safetensors.numpy.save({k: np.asarray(a, order="C") for k, a in arrays.items()}, metadata or None)
    # The library writes metadata in an order that differs from call to call.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    told = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    told += b" " * (-len(told) % 8)  # so that the numbers begin at a multiple of 8
    return len(told).to_bytes(8, "little") + told + data[8 + size :]


def read(path: Path) -> Foreign:
    """Reads a file of PyTorch (either container) or safetensors; nothing in it is run.

    Raises:
      UserError: another kind of file, a damaged one, or without a network's weights.
    """
    if not path.is_file():
        raise UserError(f"victim.checkpoint: found no file {path}, expected one of PyTorch or safetensors")
    torch_file.check_size(path)
    try:
        source, place, arrays = _read(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected a file that can be read") from error
    for key, array in arrays.items():
        name = repr(key[:80])[1:-1]
        if not key.isprintable() or len(key) > _MAX_NAME:
            raise UserError(
                f"{path}: found a tensor named {name}, expected up to {_MAX_NAME} characters that can be printed"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            finite = array.dtype.kind not in "fV" or np.isfinite(array.astype(np.float32)).all()
        if not finite:
            raise UserError(
                f"{path}: found {name} with numbers that are not finite in float32, expected weights"
            )
    copies = _copies(source.content, place) if isinstance(source, TorchFile) else ()
    return Foreign(path, _plain_names(arrays), arrays, source, place, copies)


def _read(path: Path) -> tuple[TorchFile | dict[str, str], dict[str, TensorRef], dict[str, np.ndarray]]:
    """(source, place, arrays) of a `Foreign`, by what the file begins with."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise UserError(f"{path}: found an empty file, expected one of PyTorch or safetensors")
    # A safetensors file begins with the length of its header, which begins with a brace.
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.lstrip()[:1] == b"<":
        raise UserError(f"{path}: found text, perhaps a web page, expected a file of PyTorch or safetensors")
    if head[0] in _MSGPACK:
        raise UserError(f"{path}: found msgpack, perhaps of Flax, expected a file of PyTorch or safetensors")
    return _read_torch(path)


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, TensorRef], dict[str, np.ndarray]]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dictionary
    except Exception as error:  # safetensors raises types of its own and KeyError for what NumPy lacks
        reason = repr(str(error).split("\n")[0][:200])[1:-1]
        raise UserError(
            f"{path}: expected a whole safetensors file, found a damaged one ({reason})"
        ) from error
    if not arrays:
        raise UserError(f"{path}: found no tensors, expected a network's weights")
    return metadata, {}, arrays


def _read_torch(path: Path) -> tuple[TorchFile, dict[str, TensorRef], dict[str, np.ndarray]]:
    file = torch_file.read(path)
    place = _state_dict(path, file.content)
    arrays = {key: file.array(ref) for key, ref in place.items()}
    stored = sum(entry.length for entry in file.entries.values())
    if sum(array.nbytes for array in arrays.values()) > _MAX_SHARING * stored:
        raise UserError(
            f"{path}: found {len(arrays)} tensors that share their numbers, expected a network's weights"
        )
    return file, place, arrays


def _state_dict(path: Path, content: Any) -> dict[str, TensorRef]:
    """The tensors of the network: `content` itself, or what it has under one of the usual keys."""
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: found a {type(content).__name__}, expected a state_dict or a dictionary with one"
        )
    # Tensors can lie beside a state dict, such as the grids of WaNet, so that it is looked for first.
    for found in (*(content.get(key) for key in _PLACES), content):
        if isinstance(found, dict) and any(isinstance(value, TensorRef) for value in found.values()):
            return _tensors(path, found)
    keys = ", ".join(repr(key)[:40] for key in list(content)[:12]) or "nothing"
    raise UserError(f"{path}: found {keys}, expected a state_dict, bare or under one of {', '.join(_PLACES)}")


def _copies(content: dict, place: dict[str, TensorRef]) -> tuple[str, ...]:
    """Where else in `content` there are tensors of the shapes of the network's kernels, under whatever names."""
    shapes = Counter(ref.shape for ref in place.values() if len(ref.shape) > 1 and math.prod(ref.shape) > 1)
    found, seen, left = [], {id(content), id(place)}, list(_parts("", content))
    while left and shapes:
        where, value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        parts = list(_parts(where, value))
        if shapes <= Counter(part.shape for _, part in parts if isinstance(part, TensorRef)):
            found.append(repr(where[1:]))
        left.extend(part for part in parts if isinstance(part[1], dict | list | tuple | Opaque))
    return tuple(found)


def _parts(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(its place in words, part) of everything in a container."""
    if isinstance(value, Opaque):
        yield from ((where, value.args), (where, value.state))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield f"{where}.{key if type(key) is str else type(key).__name__}"[:40], part
    elif isinstance(value, list | tuple) and not isinstance(value, TensorRef):
        yield from ((f"{where}.{index}"[:40], part) for index, part in enumerate(value))


def _tensors(path: Path, found: dict) -> dict[str, TensorRef]:
    for key, value in found.items():
        if type(key) is not str or not isinstance(value, TensorRef):
            raise UserError(
                f"{path}: found {str(key)[:80]!r} of type {type(value).__name__} among the weights, expected tensors"
            )
    return found


def _plain_names(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Each name without the parts that all begin with, such as `module.` of DataParallel or `model.` of Lightning."""
    names = {key: key for key in arrays if key not in COUNTERS}
    for _ in range(_MAX_WRAPPERS if names else 0):
        first, dot, _ = next(iter(names)).partition(".")
        if not dot or not all(name.startswith(first + dot) for name in names):
            break
        names = {name.removeprefix(first + dot): key for name, key in names.items()}
    return names | {key: key for key in arrays if key in COUNTERS}


def nearly_plain(names: Collection[str]) -> str:
    """The end of a sentence about tensors that fit no network, where a few keep what the others begin with in place."""
    begun = Counter(name.partition(".")[0] for name in names if "." in name)
    first, count = begun.most_common(1)[0] if begun else ("", 0)
    others = [name for name in names if name.partition(".")[0] != first]
    if not others or count < _NEARLY_ALL * len(names):
        return ""
    return (
        f"; {first[:40]!r} is left out where all names begin with it, but {len(others)} of them do not, such as "
        f"{others[0][:80]!r}"
    )
