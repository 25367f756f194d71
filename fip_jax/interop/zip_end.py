"""The end of a zip file, which says where its directory lies.

Programs go by different fields of it: Python's `zipfile` by the directory's length, the one in PyTorch by its offset.
Where these disagree a file is two, and what is purified need not be what PyTorch loads.
"""

import struct
import zipfile

from fip_jax.interop.pickled_values import PickleError

_END, _LOCATOR, _END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_END_SIZE, _LOCATOR_SIZE, _END64_SIZE = 22, 20, 56
# A network has thousands of entries at most; each takes some 100 bytes here, and 600 in memory.
_MAX_DIRECTORY = 10_000_000


def check_end(data: bytes) -> int:
    """Refuses a zip file whose directory is not exactly where every field says, right before the end.

    Returns:
      The number of entries that it claims.
    """
    at = len(data) - _END_SIZE
    if at < 0 or data[at : at + 4] != _END:
        raise PickleError("a damaged zip file, or one with a comment, which PyTorch never writes")
    disk, start_disk, here, count, size, offset, comment = struct.unpack_from("<4xHHHHIIH", data, at)
    if disk or start_disk or here != count or comment:
        raise PickleError("a zip file in several parts")
    locator = at - _LOCATOR_SIZE
    if locator >= 0 and data[locator : locator + 4] == _LOCATOR:
        at = locator - _END64_SIZE
        count, size, offset = _end64(data, locator, at)
    if size > _MAX_DIRECTORY:
        raise PickleError(f"a zip directory of {size:,} bytes, more than a network has")
    if offset + size != at:
        raise PickleError("a zip file with more than one directory")
    return count


def _end64(data: bytes, locator: int, at: int) -> tuple[int, int, int]:
    """(entries, bytes of the directory, its offset) as the record at `at` has them, which the locator has to mean."""
    disk, offset, disks = struct.unpack_from("<4xIQI", data, locator)
    if at < 0 or disk or disks > 1 or offset != at or data[at : at + 4] != _END64:
        raise PickleError("a zip file with more than one directory")
    length, _, _, this, start, here, count, size, start_at = struct.unpack_from("<4xQHHIIQQQQ", data, at)
    if length != _END64_SIZE - 12 or this or start or here != count:
        raise PickleError("a zip file in several parts")
    return count, size, start_at


def check_records(records: list[zipfile.ZipInfo], count: int) -> None:
    """Refuses a directory of another length than claimed, and names that programs read, or tell apart, differently.

    PyTorch goes by the number, and ignores case.
    """
    if len(records) != count:
        raise PickleError(f"{len(records)} zip entries where the end says {count}")
    names = [record.filename for record in records]
    if any(
        not record.orig_filename.isascii() or record.orig_filename != record.filename for record in records
    ):
        raise PickleError("a zip entry whose name is not ASCII")
    if len({name.lower() for name in names}) != len(names):
        raise PickleError("two zip entries of one name")
