"""What an attack has learnt, in a folder: `attack/` of a run, to be used on other networks."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fip_jax import checkpoint
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree

_FORMAT = "fip_jax attack 1"


def save_state(path: Path, settings: ConfigDict, state: PyTree) -> None:
    """Writes a state to a folder, whole or not at all, unless it is there; `settings` are `config.attack`."""
    if not path.exists():
        description = {
            "format": _FORMAT,
            "name": settings.name,
            "options": settings[settings.name].to_dict(),
        }
        checkpoint.save_model(path, jax.tree.map(np.asarray, state), {}, description)


def load_state(path: str | Path, name: str) -> PyTree:
    """A state as NumPy arrays.

    Raises:
      UserError: no such folder, damaged, or of another attack.
    """
    folder = Path(path).expanduser().absolute()
    description = checkpoint.load_description(folder, "attack.state")
    if description.get("format") != _FORMAT or description.get("name") != name:
        raise UserError(
            f"attack.state: {folder} is of {description.get('name') or description.get('model')!r}, expected one of "
            f"the attack {name}"
        )
    return jax.tree.map(np.asarray, checkpoint.load_arrays(folder)["params"])
