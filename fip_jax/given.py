"""What a run is given besides its settings: it neither goes on with other images, weights or triggers, nor answers for
them."""

import hashlib
import os
from pathlib import Path

from ml_collections import ConfigDict

from fip_jax import checkpoint
from fip_jax.data.split import Split, digest
from fip_jax.errors import UserError
from fip_jax.material import Material
from fip_jax.workdir import Workdir

_DATA = "dataset.name"
_OF_ATTACKS = ("file", "mask")  # options that name files


def check(config: ConfigDict, material: Material, workdir: Workdir) -> dict[str, str]:
    """Notes down what a run is begun with, or compares it.

    Args:
      config: the run's.
      material: from `material.prepare`.
      workdir: the run's folder, begun.

    Returns:
      SHA-256 in hexadecimal digits of each file and folder that a setting names, by setting, and of the images.

    Raises:
      UserError: something is not what it was when the run was begun.
    """
    now = {key: _digest(path, key) for key, path in _paths(config).items()}
    now[_DATA] = material.sha256
    if material.attack is None and material.triggered is not None:  # delivered with the network
        now["victim.checkpoint"] += digest(Split(material.triggered.images, material.triggered.targets))
    _compare(workdir.once("given", lambda: now), now, config)
    return now


def check_finished(config: ConfigDict, given: dict[str, str]) -> None:
    """Refuses to answer for other files than a finished run was given; for those that are gone, it answers.

    Args:
      config: the run's.
      given: from `check`, at that time.

    Raises:
      UserError: one has changed since.
    """
    now = {key: _digest(path, key) for key, path in _paths(config).items() if path.exists()}
    # Triggered images that came with a network are not read again.
    _compare({key: value[:64] for key, value in given.items() if key in now}, now, config)


def _paths(config: ConfigDict) -> dict[str, Path]:
    """Setting -> the file or folder that it names."""
    attack = config.attack.name
    options = config.attack.get(attack, ConfigDict())
    named = {"victim.checkpoint": config.victim.checkpoint, "attack.state": config.attack.state}
    named |= {f"attack.{attack}.{key}": options.get(key, "") for key in _OF_ATTACKS}
    return {key: Path(os.path.expanduser(value)).absolute() for key, value in named.items() if value}


def _digest(path: Path, key: str) -> str:
    if path.is_dir():
        return checkpoint.digest(path, key)
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{key}: found no plain file at {path}, expected one")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(before: dict[str, str], now: dict[str, str], config: ConfigDict) -> None:
    for key, value in before.items():
        if now.get(key) != value:
            name = config.dataset.name if key == _DATA else _paths(config)[key]
            raise UserError(
                f"{key}: {name} has changed since this run was begun, expected the same content, or another --workdir"
            )
