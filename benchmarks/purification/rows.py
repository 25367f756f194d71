"""CSV files that a study appends to, a row a run, and goes on with after it was killed."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def done(path: Path, key: Sequence[str]) -> set[tuple[str, ...]]:
    """The keys of the rows that are there. A last line without an end, which a killed study may leave, is cut off."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
    with path.open(newline="") as file:
        return {tuple(row[name] for name in key) for row in csv.DictReader(file)}


def read(path: Path) -> list[dict[str, str]]:
    """All rows, every value as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds a row, on the disk when this returns; its keys are the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists() or not path.stat().st_size
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())
