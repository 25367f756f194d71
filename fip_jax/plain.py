"""Files and folders that somebody else made: nothing but plain files of bounded size is ever opened."""

import json
import os
import stat
from pathlib import Path
from typing import Any

_MAX_ENTRIES = 20_000
_MAX_DEPTH = 8
_MAX_BYTES = 1 << 33
_CHUNK = 1 << 24


def read(path: Path, limit: int, *, links: bool = False) -> bytes:
    """The content of a plain file.

    Args:
      path: the file.
      limit: bytes that it may have.
      links: whether a symbolic link is followed.

    Raises:
      ValueError: a link, a pipe, a device, a folder, or a larger file.
      OSError: it is not there, or cannot be read.
    """
    # Opening a pipe would wait for a writer, and a link can lead to a device without an end.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    if not links and path.is_symlink():
        raise ValueError(f"{_name(path)} is a link, not a plain file")
    with open(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{_name(path)} is no plain file")
        if found.st_size > limit:
            raise ValueError(f"{_name(path)} has {found.st_size} bytes, at most {limit} are read")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{_name(path)} grows while it is read")
    return content


def check_file(path: Path, limit: int) -> None:
    """Raises ValueError unless `path`, or what it links to, is a plain file of up to `limit` bytes."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("no plain file")
    if found.st_size > limit:
        raise ValueError(f"{found.st_size} bytes, at most {limit} are read")


def read_json(path: Path, limit: int = 1 << 20) -> Any:
    """The content of a JSON file, in which no key is given twice and every number is finite.

    Raises:
      ValueError: not such a file, or not a plain one of up to `limit` bytes.
      OSError: it is not there, or cannot be read.
    """
    content = read(path, limit)
    try:
        return json.loads(content.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError(f"{_name(path)} nests without end") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def check_tree(folder: Path) -> None:
    """Raises ValueError unless a folder holds plain files and folders alone, in bounded number, depth and size.

    What is read later can still be exchanged meanwhile; `read` then refuses it again.
    """
    total, count, waiting = 0, 0, [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                count += 1
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and depth < _MAX_DEPTH:
                    waiting.append((Path(entry.path), depth + 1))
                elif stat.S_ISREG(found.st_mode):
                    total += found.st_size
                else:
                    raise ValueError(
                        f"{_name(Path(entry.path))} is neither a plain file nor a folder near the top"
                    )
                if count > _MAX_ENTRIES or total > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_ENTRIES} entries or {_MAX_BYTES} bytes")


def _name(path: Path) -> str:
    return repr(path.name[-80:])
