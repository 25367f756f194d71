"""What an attack has learnt, in a folder: `attack/` of a run, to be used on other networks."""

import os
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fip_jax import checkpoint
from fip_jax.attacks import create_attack
from fip_jax.attacks.attack import Attack
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree

_FORMAT = "fip_jax attack 2"


def save_state(path: Path, settings: ConfigDict, image_shape: tuple[int, int, int], state: PyTree) -> None:
    """Writes a state to a folder, whole or not at all, unless it is there.

    Args:
      path: the folder.
      settings: `config.attack`.
      image_shape: (H, W, C) that the attack was made for.
      state: nested dict of arrays.
    """
    if not path.exists():
        description = {
            "format": _FORMAT,
            "name": settings.name,
            "options": settings[settings.name].to_dict(),
            "labels": _labels(settings),
            "image_shape": list(image_shape),
        }
        checkpoint.save_model(path, jax.tree.map(np.asarray, state), {}, description)


def load_state(
    path: str | Path, settings: ConfigDict, image_shape: tuple[int, int, int], to_train: bool = True
) -> PyTree:
    """A state as NumPy arrays; other arguments as for `save_state`.

    Args:
      path: the folder.
      settings: `config.attack`.
      image_shape: (H, W, C) of the images it is for.
      to_train: whether a victim is to be trained with it, and not only tested.

    Raises:
      UserError: no such folder, damaged, without what the attack needs, or of an attack of another name, with other
        options or for other images: its trigger would be another one. Of a trigger that was trained along with a
        victim, other labels as well, since it pushes that network towards its own; and, `to_train`, where what keeps
        a victim from shortcuts was learnt with the labels.
    """
    name = settings.name
    folder = Path(os.path.expanduser(path)).absolute()
    description = checkpoint.load_description(folder, "attack.state")
    if description.get("format") != _FORMAT or description.get("name") != name:
        raise UserError(
            f"attack.state: {folder} is of {description.get('name') or description.get('model')!r}, expected one of "
            f"the attack {name}"
        )
    made_for, options = description.get("image_shape"), description.get("options")
    if made_for != list(image_shape) or not isinstance(options, dict):
        raise UserError(
            f"attack.state: {folder} is for images of {repr(made_for)[:80]}, expected {list(image_shape)}"
        )
    for key, value in settings[name].to_dict().items():
        made_with = options.get(key)
        if value != made_with:
            raise UserError(
                f"attack.{name}.{key}: found {value!r}, expected {made_with!r}, which {folder} was made with"
            )
    attack = create_attack(name, image_shape, settings[name])
    labels = description.get("labels")  # folders of earlier versions have none
    of_labels = attack is not None and (attack.joint is not None or (to_train and attack.cover is not None))
    if of_labels and isinstance(labels, dict):
        for key, value in _labels(settings).items():
            if value != labels.get(key):
                raise UserError(
                    f"attack.{key}: found {value!r}, expected {labels.get(key)!r}, for which {folder} was trained"
                )
    state = jax.tree.map(np.asarray, checkpoint.load_arrays(folder)["params"])
    if attack is not None and not _serves(attack, state, image_shape, to_train):
        raise UserError(f"attack.state: {folder} does not hold what the attack {name} learns")
    return state


def _serves(attack: Attack, state: PyTree, image_shape: tuple[int, int, int], to_train: bool) -> bool:
    """Whether an attack can be carried out with this state: whoever wrote it may have put anything there."""
    if not isinstance(state, dict):
        return False
    images, key = jax.ShapeDtypeStruct((2, *image_shape), np.float32), jax.random.key(0)
    try:
        if attack.trigger is not None:
            jax.eval_shape(attack.trigger, state, images)
        if to_train and attack.cover is not None:
            jax.eval_shape(attack.cover, state, images, key)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return False
    return True


def _labels(settings: ConfigDict) -> dict[str, str | int]:
    return {"mode": settings.mode, "target": settings.target}
