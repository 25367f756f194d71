"""The networks of the study: I-BAU's published ones, and victims that are trained here.

Each is a config as the command line would make it, so that every row can be repeated by hand.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import checkpoint, cifar10, gtsrb, quickstart
from fip_jax import suspect
from fip_jax.description import describe
from fip_jax.interop.foreign import to_safetensors
from fip_jax.interop.state_dict import to_torch
from fip_jax.material import prepare
from fip_jax.workdir import Workdir, write_whole


class Places(NamedTuple):
    """Where data and networks lie: folders."""

    ibau: Path  # I-BAU's published files and triggers
    gtsrb: Path  # the three official archives
    data: Path  # prepared data sets of TFDS, CIFAR-10 among them
    victims: Path  # where networks are trained, unless they are kept


def add_places(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each of the `Places`."""
    for place in Places._fields:
        parser.add_argument(f"--{place}", type=Path, required=True, help="folder")


def places(arguments: argparse.Namespace) -> Places:
    """What the flags say."""
    return Places(*(getattr(arguments, name).absolute() for name in Places._fields))


PUBLISHED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ibau/gtsrb_badnets": ("gtsrb", "gtsrbbadnets_8_02_ckpt.pth", {"badnets": True, "target": 8}),
    "ibau/gtsrb_trojan_sq": ("gtsrb", "gtsrbtrojan_sq_2_02_ckpt.pth", {"file": "trojan_sq.png", "target": 2}),
    "ibau/gtsrb_l0_inv": (
        "gtsrb",
        "gtsrbl0_inv_0_02_ckpt.pth",
        {"file": "l0_inv.png", "mask": "mask.npy", "target": 0},
    ),
    "ibau/cifar10_badnets": ("cifar10", "badnets_8_02_ckpt.pth", {"badnets": True, "target": 8}),
    "ibau/cifar10_trojan_wm": ("cifar10", "trojan_wm_2_02_ckpt.pth", {"file": "trojan_wm.png", "target": 2}),
}

TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "gtsrb/badnets": ("gtsrb", {"attack.name": "badnets"}),
    "gtsrb/blend": ("gtsrb", {"attack.name": "blend"}),
    "gtsrb/sig": ("gtsrb", {"attack.name": "sig", "attack.clean_label_rate": 896 / 1290}),
    "gtsrb/all_to_all": ("gtsrb", {"attack.name": "badnets", "attack.mode": "all_to_all"}),
    "gtsrb/badnets_resnet": (
        "gtsrb",
        {"attack.name": "badnets", "model.name": "preact_resnet18", "model.width": 16},
    ),
    "cifar10/badnets": ("cifar10", {"attack.name": "badnets"}),
    "signs/badnets_11": ("signs", {"seed": 11}),
    "signs/badnets_13": ("signs", {"seed": 13}),
    "signs/badnets_14": ("signs", {"seed": 14}),
    "signs/blend_12": ("signs", {"seed": 12, "attack.name": "blend"}),
}

# Never poisoned: what a purified network is held against.
BENIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "gtsrb/benign": ("gtsrb", {"attack.name": "none"}),
    "signs/benign_11": ("signs", {"seed": 11, "attack.name": "none"}),
}

MODELS = (*PUBLISHED, *TRAINED)

# Networks trained here, once: no two processors train the same one, and every row of a table shall mean it.
KEPT = Path(__file__).parent / "victims"


def config_of(name: str, places: Places) -> ConfigDict:
    """The config of a network in `MODELS` or `BENIGN`; what `victim.checkpoint` names may have yet to be trained."""
    if name in PUBLISHED:
        config = _published(*PUBLISHED[name], places)
    else:
        config = _trained(name, places)
        config.victim.checkpoint = str(KEPT / f"{name.replace('/', '_')}.safetensors")
    return config


def train(name: str, places: Places) -> None:
    """Trains a network in `TRAINED` or `BENIGN`, or goes on with it, and keeps it."""
    kept = Path(config_of(name, places).victim.checkpoint)
    if kept.exists():
        return
    config = _trained(name, places)
    # Only what the training reads: a victim outlives changes to the defences.
    read = {part: config[part].to_dict() for part in ("dataset", "model", "attack", "victim", "clean")}
    workdir = Workdir(places.victims / name.replace("/", "_"), read | {"seed": config.seed})
    material = prepare(config)
    assert material.training is not None
    workdir.begin()
    fresh = suspect.build(describe(config, len(material.class_names)), config.seed)
    victim = suspect.train(config, fresh, material.training, workdir, lambda _: {})
    workdir.close()
    write_whole(kept, to_safetensors(to_torch(victim.params, victim.model_state)))


def _published(dataset: str, file: str, attack: dict[str, Any], places: Places) -> ConfigDict:
    config = checkpoint.get_config()
    config.victim.checkpoint = str(places.ibau / file)
    config.clean.source = "test"
    _set_data(config, dataset, places)
    # As many images as 1 % of the training set would be.
    config.clean.fraction = {"gtsrb": 0.031, "cifar10": 0.05}[dataset]
    config.attack.target = attack["target"]
    if attack.get("badnets"):
        config.attack.name = "badnets"
        config.attack.badnets.update({"size": 4, "margin": 1})
    else:
        config.attack.name = "pattern"
        config.attack.pattern.file = str(places.ibau / attack["file"])
        config.attack.pattern.mask = str(places.ibau / attack["mask"]) if "mask" in attack else ""
        config.attack.pattern.apply = "replace" if "mask" in attack else "add"
    return config


def _trained(name: str, places: Places) -> ConfigDict:
    dataset, changes = (TRAINED | BENIGN)[name]
    config = {
        "gtsrb": lambda: gtsrb.get_config("cpu"),
        "cifar10": lambda: cifar10.get_config("cpu"),
        "signs": quickstart.get_config,
    }[dataset]()
    _set_data(config, dataset, places)
    config.model.width = 16
    config.victim.epochs = {"gtsrb": 6, "cifar10": 10, "signs": 5}[dataset]
    for key, value in changes.items():
        config.update_from_flattened_dict({key: value})
    return config


def _set_data(config: ConfigDict, dataset: str, places: Places) -> None:
    config.dataset.name = {"signs": "rendered_signs"}.get(dataset, dataset)
    config.dataset.flip = dataset == "cifar10"
    if dataset != "signs":
        config.dataset.data_dir = str(places.data)
        config.dataset.manual_dir = str(places.gtsrb) if dataset == "gtsrb" else ""
