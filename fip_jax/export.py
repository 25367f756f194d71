"""The purified network as files for other programs, in the format that the suspicious one came in."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fip_jax.errors import UserError
from fip_jax.interop import torch_writer
from fip_jax.interop.foreign import Foreign, to_safetensors
from fip_jax.interop.state_dict import COUNTERS, from_torch, to_torch
from fip_jax.interop.torch_file import TorchFile
from fip_jax.shown import shown
from fip_jax.suspect import Suspect

_LONGEST_ENDING = 32


def as_exported(suspect: Suspect) -> Suspect:
    """The network with the weights that a file in its own format can hold: rounded to the types there.

    Numbers reported of a purified network are of this one.
    """
    if suspect.foreign is None:
        return suspect
    arrays = suspect.foreign.network(_in_file(suspect, suspect.foreign))
    rounded = {name: np.asarray(a).astype(np.float32) for name, a in arrays.items()}
    params, model_state = from_torch(rounded, suspect.params, suspect.model_state)
    return suspect._replace(params=params, model_state=model_state)


def check(suspect: Suspect) -> None:
    """Refuses, before any work is done, a network that could not be written again when it is purified.

    Raises:
      UserError: tensors that share their numbers in the file, or of types that a file of the same kind cannot hold.
    """
    foreign = suspect.foreign
    if foreign is None:
        return
    if isinstance(foreign.source, TorchFile) and not foreign.written_anew:
        changed = [foreign.place[key] for name, key in foreign.keys.items() if not name.endswith(COUNTERS)]
        if foreign.source.overlapping(changed):
            raise UserError(
                f"{foreign.path}: found tensors that share their numbers in the file, which a purified network could "
                "not keep, expected a network whose tensors each have their own"
            )
    try:
        arrays = {key: array.reshape(-1)[:1] for key, array in foreign.arrays.items()}
        to_safetensors(arrays, foreign.source if isinstance(foreign.source, dict) else None)
        if suspect.backdoorbench is not None:
            torch_writer.write(io.BytesIO(), arrays)
    except Exception as error:  # safetensors raises types of its own
        reason = shown(" ".join(str(error).split())[:200])
        raise UserError(
            f"{foreign.path}: found tensors that cannot be written again ({reason}), expected a network's weights"
        ) from error


def export(folder: Path, suspect: Suspect) -> list[Path]:
    """Writes `purified.safetensors` and, for a network that came in a file, the same kind of file.

    Args:
      folder: where to.
      suspect: purified.

    Returns:
      The files: `purified` with the ending of the file that came in, or `defense_result.pt` for BackdoorBench's
      `attack_result.pt`. Names of tensors, types and nesting are those of the file that came in.
    """
    foreign = suspect.foreign
    if foreign is None:
        return [_write(folder / "purified.safetensors", as_safetensors(suspect))]
    arrays = _in_file(suspect, foreign)
    written = []
    if suspect.backdoorbench is not None:
        content = {
            "model_name": suspect.backdoorbench.model_name,
            "num_classes": suspect.backdoorbench.num_classes,
            "model": arrays,
        }
        written.append(
            _write_with(folder / "defense_result.pt", lambda path: torch_writer.write(path, content))
        )
    elif not isinstance(foreign.source, dict):
        written.append(_write(folder / f"purified{_ending(foreign.path)}", foreign.rewritten(arrays)))
    metadata = foreign.source if isinstance(foreign.source, dict) else None
    return [*written, _write(folder / "purified.safetensors", to_safetensors(arrays, metadata))]


def as_safetensors(suspect: Suspect) -> bytes:
    """A safetensors file of a network that was made here: tensors by PyTorch's names, its kind in the header."""
    told = {key: str(value) for key, value in suspect.description["model"].items()}
    return to_safetensors(to_torch(suspect.params, suspect.model_state), told)


def _ending(path: Path) -> str:
    """Of a file of PyTorch. `.pth.tar` is one ending; a file without any gets `.pth`, since `purified` is a folder.

    So does one whose ending no file system would take once more, or that is called like the other file written here.
    """
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".tar" else path.suffix
    usable = ending.isascii() and ending.isprintable() and len(ending) <= _LONGEST_ENDING
    return ending if usable and ending and ending.lower() != ".safetensors" else ".pth"


def _in_file(suspect: Suspect, foreign: Foreign) -> dict[str, np.ndarray]:
    """All tensors by their names in the file that came in, of their types there."""
    return foreign.with_network(to_torch(suspect.params, suspect.model_state))


def _write(path: Path, data: bytes) -> Path:
    return _write_with(path, lambda draft: draft.write_bytes(data))


def _write_with(path: Path, write: Callable[[Path], object]) -> Path:
    """Writes a file that is whole or not there."""
    draft = path.with_name(f".{path.name}.draft")
    write(draft)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    return draft.replace(path)
