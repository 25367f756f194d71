"""Files of `torch.save`, read and written without PyTorch: the zip container and the one before PyTorch 1.6.

A file is kept whole, as bytes. Tensors are views of it, and a changed copy of the file has other numbers at the same
places: keys, nesting, types and everything else that is in it stay as they were.
"""

import contextlib
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fip_jax.errors import UserError
from fip_jax.interop import pickled
from fip_jax.interop.pickled_values import Opaque, PickleError, Storage, TensorRef, UnknownName
from fip_jax.interop.zip_end import check_end, check_records

_MAX_BYTES = 1 << 33
_LEGACY_PROTOCOL = 1001
# Magic number, protocol and system take a few dozen instructions.
_LEGACY_HEAD_OPERATIONS = 1000
_LOCAL, _DESCRIPTOR = b"PK\x03\x04", b"PK\x07\x08"


class MoreThanWeights(UserError):
    """A file that is in order, but refers to more than tensors and plain values."""


class Entry(NamedTuple):
    """Where the numbers of a storage lie in the file, and the zip's record of them (None in old files)."""

    start: int
    length: int
    record: zipfile.ZipInfo | None


class TorchFile(NamedTuple):
    """A file of `torch.save`.

    Attributes:
      data: the file.
      content: what was saved, as plain values (see `pickled.read`), with a `TensorRef` for each tensor.
      entries: place of each storage.
    """

    data: bytes
    content: Any
    entries: dict[str, Entry]

    def array(self, ref: TensorRef) -> np.ndarray:
        """The numbers of a tensor, a read-only view of the file."""
        return _view(self.data, self.entries, ref)

    def overlapping(self, refs: Iterable[TensorRef]) -> bool:
        """Whether two of these tensors share numbers, or one of them shows a number of the file in two places."""
        taken = {key: np.zeros(entry.length, bool) for key, entry in self.entries.items()}
        for ref in refs:
            if 0 in ref.shape:
                continue
            size, reach = ref.storage.dtype.itemsize, 0
            for stride, count in sorted(zip(ref.strides, ref.shape, strict=True)):
                if count > 1 and stride <= reach:
                    return True
                reach += stride * (count - 1)
            first = taken[ref.storage.key][size * (ref.storage.first + ref.offset) :]
            view = np.lib.stride_tricks.as_strided(first, ref.shape, [size * n for n in ref.strides])
            if view.any():
                return True
            view[...] = True
        return False

    def replaced(self, changes: Iterable[tuple[TensorRef, np.ndarray]]) -> bytes:
        """A copy of the file with other numbers in some tensors, rounded to the types that these have there.

        Raises:
          UserError: two of these tensors share numbers in the file and were given different ones.
        """
        data = bytearray(self.data)
        written = []
        for ref, values in changes:
            view = _view(data, self.entries, ref)
            view[...] = np.asarray(values).astype(view.dtype)
            written.append((ref, view, np.asarray(values).astype(view.dtype)))
        if not all(np.array_equal(view, wanted) for _, view, wanted in written):
            raise UserError(
                "victim.checkpoint: found tensors that share their numbers in the file, and that are not the same any "
                "more, expected a network whose tensors each have their own"
            )
        touched = {ref.storage.key: self.entries[ref.storage.key] for ref, *_ in written}
        _renew_checksums(data, touched.values())
        return bytes(data)


def _view(data: bytes | bytearray, entries: dict[str, Entry], ref: TensorRef) -> np.ndarray:
    storage = ref.storage
    if 0 in ref.shape:
        return np.zeros(ref.shape, storage.dtype)
    size = storage.dtype.itemsize
    start = entries[storage.key].start + size * storage.first
    flat = np.frombuffer(data, storage.dtype, storage.size, start)
    return np.lib.stride_tricks.as_strided(
        flat[ref.offset :], ref.shape, [size * n for n in ref.strides], writeable=isinstance(data, bytearray)
    )


def check_size(path: Path) -> None:
    """Raises UserError for a file that is larger than any network; a few bytes on the disk can claim to be that."""
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: found {path.stat().st_size} bytes, expected {_MAX_BYTES} at most")


def read(path: Path, *, any_name: bool = False) -> TorchFile:
    """Reads a file of `torch.save`, of either container.

    Args:
      path: the file.
      any_name: whether it may refer to classes that are not known, or be TorchScript: to read the tensors in it, and
        not to be written again.

    Raises:
      MoreThanWeights: it holds more than weights and plain values.
      UserError: it is neither, or is damaged.
    """
    check_size(path)
    data = path.read_bytes()
    try:
        return _read_zip(data, any_name) if data[:4] == _LOCAL else _read_legacy(data, any_name)
    except (PickleError, zipfile.BadZipFile, struct.error, NotImplementedError) as error:
        kind = MoreThanWeights if isinstance(error, UnknownName) else UserError
        raise kind(
            f"{path}: found {error}, expected a file of torch.save with a state_dict() and plain values alone; "
            "nothing in it was run"
        ) from error


def _read_zip(data: bytes, any_name: bool) -> TorchFile:
    count = check_end(data)
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # zipfile lets several types through over damaged files
        raise PickleError("a damaged zip file") from error
    check_records(archive.infolist(), count)
    entries = _entries(data, archive, any_name)
    programs = [n for n in entries if n == "data.pkl" or (n.endswith("/data.pkl") and n.count("/") == 1)]
    prefix = programs[0].removesuffix("data.pkl") if programs else ""
    if len(programs) != 1:
        raise PickleError("a zip file that is no state_dict (TorchScript, or not of PyTorch)")
    script = f"{prefix}constants.pkl" in entries
    if script and not any_name:
        raise UnknownName("TorchScript")
    if not script and any(name != prefix + name.removeprefix(prefix).lower() for name in entries):
        raise PickleError(
            "a zip entry that PyTorch, to which capitals are small letters, may take for another"
        )
    order = entries.get(f"{prefix}byteorder")
    if order is not None and data[order.start : order.start + order.length].strip() != b"little":
        raise PickleError("numbers that are not little-endian")
    program = entries[programs[0]]
    content, end = pickled.read(data[program.start : program.start + program.length], any_name=any_name)
    if end != program.length:
        raise PickleError("something after the pickle")
    folder = f"{prefix}data/"
    storages = {
        name.removeprefix(folder): entry for name, entry in entries.items() if name.startswith(folder)
    }
    _check_storages(content, storages)
    return TorchFile(data, content, storages)


def _entries(data: bytes, archive: zipfile.ZipFile, any_name: bool) -> dict[str, Entry]:
    """All entries by name, of TorchScript without its code.

    Each has its name and its bytes for itself: other numbers in one change nothing else, and other programs find the
    same ones.
    """
    found: dict[str, Entry] = {}
    end = 0
    for record in sorted(archive.infolist(), key=lambda record: record.header_offset):
        if record.header_offset < end:
            raise PickleError("zip entries that overlap")
        if record.compress_type == zipfile.ZIP_DEFLATED and "/code/" in record.filename:
            if not any_name:
                raise UnknownName("TorchScript")
            continue
        entry = _entry(data, record)
        end = max(entry.start + entry.length, _checksum_place(data, entry) + 4)
        found[record.filename] = entry
    if end > archive.start_dir:
        raise PickleError("zip entries that overlap")
    return found


def _entry(data: bytes, record: zipfile.ZipInfo) -> Entry:
    """Where the bytes of a record lie; it must be stored as it is, as PyTorch does, so that nothing is inflated."""
    if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
        raise PickleError("a compressed zip entry, which a file of weights has none of")
    at = record.header_offset
    if at < 0 or data[at : at + 4] != _LOCAL:
        raise PickleError("a damaged zip entry")
    name_length, extra_length = struct.unpack_from("<HH", data, at + 26)
    start = at + 30 + name_length + extra_length
    if start + record.file_size > len(data):
        raise PickleError("a zip entry that reaches beyond the file")
    entry = Entry(start, record.file_size, record)
    (noted,) = struct.unpack_from("<I", data, _checksum_place(data, entry))
    if not noted == record.CRC == zlib.crc32(memoryview(data)[start : start + record.file_size]):
        raise PickleError("a zip entry whose checksum does not match")
    return entry


def _checksum_place(data: bytes | bytearray, entry: Entry) -> int:
    """Where a zip entry's CRC-32 lies beside it: in front of it, or after it where a flag says so."""
    assert entry.record is not None
    end = entry.start + entry.length
    if struct.unpack_from("<H", data, entry.record.header_offset + 6)[0] & 8:
        return end + 4 * (data[end : end + 4] == _DESCRIPTOR)
    return entry.record.header_offset + 14


def _read_legacy(data: bytes, any_name: bool) -> TorchFile:
    """Five pickles one after the other (magic number, protocol, system, content, keys), then the storages."""
    with contextlib.suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "replace")
        raise PickleError("a tar file, in which PyTorch would look for other pickles")
    position, parts = 0, []
    for index in range(5):
        limit = _LEGACY_HEAD_OPERATIONS if index < 3 else pickled.MAX_OPERATIONS
        value, position = pickled.read(data, position, limit, any_name=any_name and index > 2)
        parts.append(value)
        if index == 0 and value != pickled.LEGACY_MAGIC:
            raise PickleError("a pickle that PyTorch did not write")
    _, protocol, system, content, keys = parts
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        raise PickleError("an unknown version of PyTorch's old container")
    if not system.get("little_endian", True):
        raise PickleError("numbers that are not little-endian")
    sizes = {storage.key: storage.dtype.itemsize for storage in _storages(content)}
    entries = {}
    for key in keys:
        if type(key) is not str or key not in sizes:
            raise PickleError("a storage that nothing refers to")
        if position + 8 > len(data):
            raise PickleError("a file that is cut short")
        (count,) = struct.unpack_from("<q", data, position)
        length = count * sizes[key]
        if count < 0 or position + 8 + length > len(data):
            raise PickleError("a file that is cut short")
        entries[key] = Entry(position + 8, length, None)
        position += 8 + length
    if position != len(data):
        raise PickleError("something after the numbers")
    _check_storages(content, entries)
    return TorchFile(data, content, entries)


def _storages(content: Any) -> list[Storage]:
    """Every storage that tensors in `content` refer to; without recursion, since nesting can be deep or circular."""
    found, seen, waiting = [], set(), [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, TensorRef):
            found.append(item.storage)
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, Opaque) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend((item.args, item.state))
    return found


def _check_storages(content: Any, entries: dict[str, Entry]) -> None:
    for storage in _storages(content):
        entry = entries.get(storage.key)
        if entry is None:
            raise PickleError(f"a tensor whose numbers ({storage.key[:40]!r}) are not in the file")
        if entry.length != storage.total * storage.dtype.itemsize:
            raise PickleError(
                f"{entry.length} bytes of numbers where a tensor says {storage.total * storage.dtype.itemsize}"
            )


def _renew_checksums(data: bytearray, entries: Iterable[Entry]) -> None:
    """Writes the CRC-32 of changed zip entries to the three places that can hold it."""
    changed = {
        entry.record.header_offset: (
            entry,
            zlib.crc32(memoryview(data)[entry.start : entry.start + entry.length]),
        )
        for entry in entries
        if entry.record is not None
    }
    if not changed:
        return
    for entry, checksum in changed.values():
        struct.pack_into("<I", data, _checksum_place(data, entry), checksum)
    for at, offset in _central_records(data):
        if offset in changed:
            struct.pack_into("<I", data, at + 16, changed[offset][1])


def _central_records(data: bytearray) -> list[tuple[int, int]]:
    """(position in the file, offset of what it describes) of each record of a zip's directory."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    at, found = archive.start_dir, []
    for record in archive.infolist():
        found.append((at, record.header_offset))
        at += 46 + sum(struct.unpack_from("<HHH", data, at + 28))
    return found
