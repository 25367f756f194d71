"""Files of weights from elsewhere: which tensors are the network's, and the same file with other numbers in them."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from fip_jax.errors import UserError
from fip_jax.interop import onnx_file, torch_file, torch_writer, whole_module
from fip_jax.interop.kinds import HEAD, check_kind, explained
from fip_jax.interop.names import parts_of
from fip_jax.interop.onnx_file import OnnxFile, looks_like
from fip_jax.interop.pickled_values import Opaque, TensorRef
from fip_jax.interop.torch_file import MoreThanWeights, TorchFile
from fip_jax.interop.whole_module import PLACES

# Tied weights share their numbers; thousands of names for the same ones would take hours to check.
_MAX_SHARING = 8
_MAX_NAME = 300


class Foreign(NamedTuple):
    """A file of weights.

    Attributes:
      path: the file.
      keys: each tensor's name, without what wrappers put before it -> its name in the file.
      arrays: the tensors by their names in the file, in its order; read-only.
      source: for files of PyTorch and ONNX the whole file, for safetensors their metadata.
      place: for files of PyTorch the tensors of `arrays` in it.
      masks: of each pruned tensor (PyTorch's `weight_orig` and `weight_mask`) the name of its mask in the file.
      mean, std: of a first layer that normalises images in [0, 1], one number or three; empty without such a layer.
      transposed: names in the file of dense kernels that lie `[in, out]` there, and not as PyTorch has them.
      written_anew: what the file is, where it is not written again with other numbers: a state dict is written then.
      copies: where a file of PyTorch holds tensors of the same shapes as the network's kernels once more, such as
        averages of them.
    """

    path: Path
    keys: dict[str, str]
    arrays: dict[str, np.ndarray]
    source: TorchFile | OnnxFile | dict[str, str]
    place: dict[str, TensorRef]
    masks: dict[str, str]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    transposed: frozenset[str] = frozenset()
    written_anew: str = ""
    copies: tuple[str, ...] = ()

    def network(self, arrays: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """The tensors by name, pruned ones as their masks leave them.

        Args:
          arrays: as from `with_network`; None: those in the file.
        """
        arrays = self.arrays if arrays is None else arrays
        found = {name: self._turned(key, arrays[key]) for name, key in self.keys.items()}
        return found | {
            name: found[name] * arrays[mask].astype(found[name].dtype) for name, mask in self.masks.items()
        }

    def _turned(self, key: str, array: np.ndarray) -> np.ndarray:
        return array.T if key in self.transposed else array

    def named(self, names: Mapping[str, str]) -> "Foreign":
        """The same file with other names for its tensors: `names` are new ones -> those of `keys`."""
        keys = {new: self.keys[old] for new, old in names.items()}
        return self._replace(
            keys=keys, masks={new: self.masks[old] for new, old in names.items() if old in self.masks}
        )

    def with_network(self, changes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All tensors by their names in the file, of their types there; those in `changes` with its numbers.

        Where a mask is 0 the number of the file stays, which counts for nothing.
        """
        replaced = {}
        for name, array in changes.items():
            key = self.keys[name]
            new = self._turned(key, np.asarray(array)).astype(self.arrays[key].dtype)
            masked = name in self.masks
            replaced[key] = (
                np.where(self.arrays[self.masks[name]] != 0, new, self.arrays[key]) if masked else new
            )
        return self.arrays | replaced

    def rewritten(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        """The file with other numbers: the same keys, nesting, types, and whatever else is in it.

        Of a whole module, or a file that refers to what is not known, the state dict alone: a copy would be as harmful.

        Args:
          arrays: as from `with_network`.
        """
        if self.written_anew:
            return torch_writer.to_bytes(dict(arrays))
        if isinstance(self.source, TorchFile):
            # What shares its numbers with a changed tensor must not write the old ones over it.
            changed = {key: array for key, array in arrays.items() if array is not self.arrays[key]}
            return self.source.replaced((self.place[key], array) for key, array in changed.items())
        if isinstance(self.source, OnnxFile):
            return self.source.replaced((self.keys[name], arrays[self.keys[name]]) for name in self.keys)
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
        source, place, arrays, anew = _read(path)
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
    if isinstance(source, OnnxFile):
        return Foreign(path, {name: name for name in arrays}, arrays, source, {}, {})
    parts = parts_of(arrays)
    return Foreign(
        path,
        parts.keys,
        arrays,
        source,
        place,
        parts.masks,
        parts.mean,
        parts.std,
        written_anew=anew,
        copies=copies,
    )


class _Content(NamedTuple):
    """`source`, `place`, `arrays` and `written_anew` of a `Foreign`."""

    source: TorchFile | OnnxFile | dict[str, str]
    place: dict[str, TensorRef]
    arrays: dict[str, np.ndarray]
    written_anew: str = ""


def _read(path: Path) -> _Content:
    with path.open("rb") as file:
        head = file.read(HEAD)
    # A safetensors file begins with the length of its header, which begins with a brace.
    if head[8:9] == b"{" and head[:1] != b"{":
        return _Content(*_read_safetensors(path))
    if looks_like(head):
        return _read_onnx(path)
    check_kind(path, head)
    try:
        return _read_torch(path, torch_file.read(path), "")
    except UserError as error:
        script = "TorchScript" in str(error)
        found = whole_module.read(path, script=script) if isinstance(error, MoreThanWeights) else None
        if found is None:
            raise explained(path, head, error) from error
        return _read_torch(path, *found)


def _read_onnx(path: Path) -> _Content:
    file = onnx_file.read(path)
    arrays = {
        name: t.array for name, t in file.tensors.items() if t.array.dtype.kind in "fV" and t.start >= 0
    }
    if not arrays:
        raise UserError(f"{path}: found a graph of ONNX without weights, expected one with a network's")
    return _Content(file, {}, arrays)


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


def _read_torch(path: Path, file: TorchFile, written_anew: str) -> _Content:
    place = _state_dict(path, file.content)
    arrays = {key: file.array(ref) for key, ref in place.items()}
    stored = sum(entry.length for entry in file.entries.values())
    if sum(array.nbytes for array in arrays.values()) > _MAX_SHARING * stored:
        raise UserError(
            f"{path}: found {len(arrays)} tensors that share their numbers, expected a network's weights"
        )
    return _Content(file, place, arrays, written_anew)


def _state_dict(path: Path, content: Any) -> dict[str, TensorRef]:
    """The tensors of the network: `content` itself, or what is under one of the usual keys, or under the only one."""
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: found a {type(content).__name__}, expected a state_dict or a dictionary with one"
        )
    # Tensors can lie beside a state dict, such as the grids of WaNet, so that it is looked for first.
    for found in (*(content.get(key) for key in PLACES), content):
        if isinstance(found, dict) and any(isinstance(value, TensorRef) for value in found.values()):
            return _tensors(path, found)
    with_tensors = [value for value in content.values() if _all_tensors(value)]
    if len(with_tensors) == 1:
        return _tensors(path, with_tensors[0])
    keys = ", ".join(repr(key)[:40] for key in list(content)[:12]) or "nothing"
    raise UserError(f"{path}: found {keys}, expected a state_dict, bare or under one of {', '.join(PLACES)}")


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


def _all_tensors(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, TensorRef) for v in value.values())


def _tensors(path: Path, found: dict) -> dict[str, TensorRef]:
    for key, value in found.items():
        if type(key) is not str or not isinstance(value, TensorRef):
            raise UserError(
                f"{path}: found {str(key)[:80]!r} of type {type(value).__name__} among the weights, expected tensors"
            )
    return found
