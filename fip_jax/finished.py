"""What a finished run has left, so that a later start notices what a power cut or a hand has taken of it."""

import hashlib
from pathlib import Path
from typing import Any

_NETWORKS = ("purified*", "defense_result.pt", "victim", "attack")
_SHOWN = ("figures",)


def inventory(folder: Path) -> dict[str, str]:
    """SHA-256 in hexadecimal digits of every file of the networks, and "" for those that are there to be looked at.

    Args:
      folder: a run's.
    """
    networks = (file for file in _files(folder, _NETWORKS) if not _note(file.relative_to(folder)))
    found = {str(file.relative_to(folder)): _sha256(file) for file in networks}
    return found | {str(file.relative_to(folder)): "" for file in _files(folder, _SHOWN)}


def damaged(folder: Path, summary: dict[str, Any]) -> list[str]:
    """The files of `inventory`, as the summary has it, that are gone, empty, or networks with other bytes."""
    files = summary.get("files")  # which earlier versions did not note down
    if not isinstance(files, dict):
        return []
    return [name for name, wanted in files.items() if not _whole(folder / name, wanted)]


def _note(name: Path) -> bool:
    """Whether a file is a note of Orbax, with its times, and nothing of a network."""
    return (
        len(name.parts) > 1 and name.name not in ("description.json", "zarr.json") and "c" not in name.parts
    )


def _whole(file: Path, wanted: str) -> bool:
    if not file.is_file():
        return False
    return _sha256(file) == wanted if wanted else file.stat().st_size > 0


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    places = [place for pattern in patterns for place in folder.glob(pattern)]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return sorted(file for file in files if file.is_file() and not file.name.startswith("."))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
