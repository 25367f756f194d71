"""What a folder says of the network in it: enough to build it again, and to know what it was trained on."""

import math
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fip_jax.data.own_images import is_path
from fip_jax.errors import UserError
from fip_jax.interop.state_dict import HIGHEST, HIGHEST_OTHER, is_plausible
from fip_jax.models import FAMILIES, MODELS, known_options


def describe(config: ConfigDict, num_classes: int) -> dict[str, Any]:
    """What a model folder says of the model: its network, its input, which images it never saw, and its attack."""
    model = config.model
    width = model.width or known_options(model.name)["width"]
    return {
        "format": "fip_jax model 1",
        "model": {"name": model.name, "width": width, **model.get(model.name, ConfigDict())},
        "num_classes": num_classes,
        "image_size": config.dataset.image_size,
        "mean": [float(x) for x in config.dataset.mean],
        "std": [float(x) for x in config.dataset.std],
        "held_out": held_out(config),
        "attack": _attack(config),
    }


def _attack(config: ConfigDict) -> dict[str, Any]:
    attack = config.attack
    return {
        **{key: attack[key] for key in ("name", "mode", "target")},
        "options": attack.get(attack.name, ConfigDict()).to_dict(),
    }


def held_out(config: ConfigDict) -> dict[str, Any]:
    """Which images a network trained with this config never sees."""
    name = config.dataset.name
    return {
        "dataset": os.path.realpath(os.path.expanduser(name))
        if is_path(name)
        else name.split("/")[0].split(":")[0],
        "source": config.clean.source,
        "seed": config.seed,
        "fraction": config.clean.fraction,
        "max_per_track": config.clean.max_per_track,
    }


def check_description(path: Path, found: dict[str, Any], like: dict[str, Any]) -> None:
    """Refuses a description without the keys, or with other types, than one that this program writes."""
    for key, value in like.items():
        if key == "attack":  # a note for people, which folders of earlier versions lack
            continue
        item = found.get(key)
        lacking = isinstance(value, dict) and isinstance(item, dict) and not value.keys() <= item.keys()
        if not isinstance(item, type(value)) or lacking:
            raise UserError(
                f"victim.checkpoint: the description in {path} has {key} = {repr(item)[:80]}, expected the like of "
                f"{value!r}"
            )
    for key in ("mean", "std"):
        if len(found[key]) != 3 or not all(isinstance(x, float) and math.isfinite(x) for x in found[key]):
            raise UserError(f"victim.checkpoint: {key} in {path} is {found[key]!r}, expected three numbers")
    if min(found["std"]) <= 0:
        raise UserError(f"victim.checkpoint: std in {path} is {found['std']}, expected numbers above 0")
    for key, value in like["held_out"].items():
        if not isinstance(found["held_out"][key], type(value)):
            raise UserError(
                f"victim.checkpoint: held_out.{key} in {path} is {repr(found['held_out'][key])[:80]}, expected the "
                f"like of {value!r}"
            )
    _check_network(path, found["model"], found["num_classes"])


def _check_network(path: Path, model: dict[str, Any], num_classes: int) -> None:
    """Refuses what would take all memory before it is found to be absurd."""
    options = dict(model)
    name = options.pop("name")
    if type(name) is not str or (name not in MODELS and name not in FAMILIES):
        raise UserError(
            f"victim.checkpoint: the network in {path} is {repr(name)[:80]}, expected one of {', '.join((*MODELS, *FAMILIES))}"
        )
    for key, value in {**options, "num_classes": num_classes}.items():
        if not is_plausible(key, value):
            highest = HIGHEST.get(key, HIGHEST_OTHER)
            raise UserError(
                f"victim.checkpoint: {key} in {path} is {repr(value)[:80]}, expected a number to {highest}"
            )


def in_words(description: dict[str, Any]) -> str:
    """A network for people: its name, its sizes (of the large families those that are not usual), its classes."""
    options = dict(description["model"])
    name = options.pop("name")
    usual = known_options(name) if name in FAMILIES else {}
    sizes = {key: value for key, value in options.items() if key == "width" or value != usual.get(key)}
    words = [f"{key} {_number_words(value)}" for key, value in sizes.items()]
    return ", ".join([name, *words, f"{description['num_classes']} classes"])


def _number_words(value: int | list[int] | tuple[int, ...]) -> str:
    return "-".join(str(number) for number in value) if isinstance(value, list | tuple) else str(value)


def other_attack(found: dict[str, Any], config: ConfigDict) -> str:
    """A note where a network was trained with another attack than its rates are going to be measured with, else ""."""
    trained, now = found.get("attack"), _attack(config)
    if now["name"] == "none" or not isinstance(trained, dict):
        return ""
    pairs = {key: (trained.get(key, now[key]), now[key]) for key in ("name", "mode", "target")}
    options = trained.get("options")  # folders of earlier versions have none
    if isinstance(options, dict) and trained.get("name") == now["name"]:
        pairs |= {f"{now['name']}.{key}": (options.get(key), value) for key, value in now["options"].items()}
    return ", ".join(
        f"was trained with attack.{key} = {str(was)[:40]}, not {value}"
        for key, (was, value) in pairs.items()
        if was != value
    )
