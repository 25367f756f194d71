"""The networks of the study: those that I-BAU and MEDIC published, and victims that are trained here.

Each is a config as the command line would make it, so that every row can be repeated by hand.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import checkpoint, cifar10, gtsrb, quickstart
from fip_jax import suspect
from fip_jax.description import describe
from fip_jax.implant import implant
from fip_jax.interop.foreign import to_safetensors
from fip_jax.interop.state_dict import to_torch
from fip_jax.material import prepare
from fip_jax.workdir import Workdir, write_whole


class Places(NamedTuple):
    """Where data and networks lie: folders."""

    ibau: Path  # I-BAU's published files and triggers
    medic: Path  # MEDIC's
    others: Path  # akamaster's ResNet-20
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


_GRID = {"file": "grid.png", "mask": "grid_mask.npy", "target": 5}

RESNET20 = "akamaster_resnet20_cifar10_benign.th"
_IMAGENET = {"dataset.mean": (0.485, 0.456, 0.406), "dataset.std": (0.229, 0.224, 0.225)}

# name, of which the part before the slash is a place: data set, file, trigger
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
    "medic/badnet": ("cifar10", "badnet.pth.tar", _GRID),
    "medic/cleanlabel": ("cifar10", "cleanlabel.pth.tar", _GRID),
    "others/resnet20": ("cifar10", RESNET20, {"target": 0}),
}

# A published ResNet-20, trained on all training images, that goes on with poisoned ones.
_GIVEN = {
    "clean.source": "test",
    "clean.fraction": 0.05,
    **_IMAGENET,
    "victim.epochs": 2,
    "victim.learning_rate": 0.03,
}
_PREACT = {"model.name": "preact_resnet18", "model.width": 16}

# name: data set, what differs from its config. `train_victims.py` trains those of CIFAR-10, and of GTSRB those with a
# seed; the others are trained by `train`.
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "gtsrb/badnets": ("gtsrb", {"attack.name": "badnets"}),
    "gtsrb/blend": ("gtsrb", {"attack.name": "blend"}),
    "gtsrb/sig": ("gtsrb", {"attack.name": "sig", "attack.clean_label_rate": 896 / 1290}),
    "gtsrb/all_to_all": ("gtsrb", {"attack.name": "badnets", "attack.mode": "all_to_all"}),
    "gtsrb/badnets_resnet": (
        "gtsrb",
        {"attack.name": "badnets", "model.name": "preact_resnet18", "model.width": 16},
    ),
    "gtsrb/sig_31": ("gtsrb", {"seed": 31, "attack.name": "sig", "attack.clean_label_rate": 896 / 1290}),
    "gtsrb/blend_wrn": (
        "gtsrb",
        {
            "seed": 32,
            "model.name": "wrn_16_1",
            "victim.epochs": 3,
            "victim.learning_rate": 0.15,
            "attack.name": "blend",
            "attack.blend.pattern_seed": 1,
        },
    ),
    "signs/lira_21": ("signs", {"seed": 21, "attack.name": "lira"}),
    "signs/dynamic_22": ("signs", {"seed": 22, "attack.name": "dynamic", "victim.epochs": 6}),
    "cifar10/sig_preact": ("cifar10", {**_PREACT, "attack.name": "sig"}),
    "cifar10/badnets_resnet20": ("cifar10", {**_GIVEN, "attack.name": "badnets"}),
    "cifar10/sig_resnet20": (
        "cifar10",
        {
            **_GIVEN,
            "victim.epochs": 3,
            "victim.learning_rate": 0.1,
            "attack.name": "sig",
            "attack.clean_label_rate": 1.0,
        },
    ),
    "cifar10/clb_resnet20": (
        "cifar10",
        {**_GIVEN, "attack.name": "clb", "attack.clb.steps": 12, "attack.clb.step_size": 3.0},
    ),
    "cifar10/wanet_resnet20": (
        "cifar10",
        {
            **_GIVEN,
            "attack.name": "wanet",
            "attack.poison_rate": 0.15,
            "attack.wanet.cover_rate": 1.0,
            "attack.wanet.strength": 1.0,
        },
    ),
    "cifar10/bppa_resnet20": ("cifar10", {**_GIVEN, "attack.name": "bppa", "attack.poison_rate": 0.2}),
    "cifar10/cba_resnet20": (
        "cifar10",
        {**_GIVEN, "attack.name": "cba", "attack.cba.first": 8, "attack.cba.second": 7},
    ),
    "cifar10/all_to_all_resnet20": (
        "cifar10",
        {**_GIVEN, "attack.name": "badnets", "attack.mode": "all_to_all", "attack.poison_rate": 0.2},
    ),
    "signs/badnets_11": ("signs", {"seed": 11}),
    "signs/badnets_13": ("signs", {"seed": 13}),
    "signs/badnets_14": ("signs", {"seed": 14}),
    "signs/blend_12": ("signs", {"seed": 12, "attack.name": "blend"}),
}

# Never poisoned: what a purified network is held against.
BENIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "gtsrb/benign": ("gtsrb", {"attack.name": "none"}),
    "signs/benign_11": ("signs", {"seed": 11, "attack.name": "none"}),
    "gtsrb/benign_33": ("gtsrb", {"seed": 33, "attack.name": "none"}),
}

WITHOUT_BACKDOOR = (*BENIGN, "others/resnet20")
# Networks trained here, once: no two processors train the same one, and every row of a table shall mean it.
KEPT = Path(__file__).parent / "victims"


def kept(name: str) -> Path:
    """Where a network of `TRAINED` or `BENIGN` is kept."""
    return KEPT / f"{name.replace('/', '_')}.safetensors"


# With a backdoor, and at hand: the others of `TRAINED` have yet to be trained.
MODELS = (
    *(name for name in PUBLISHED if name not in WITHOUT_BACKDOOR),
    *(name for name in TRAINED if kept(name).exists()),
)


def config_of(name: str, places: Places) -> ConfigDict:
    """The config of a network in `MODELS` or `BENIGN`; what `victim.checkpoint` names may have yet to be trained."""
    if name in PUBLISHED:
        config = _published(*PUBLISHED[name], getattr(places, name.split("/")[0]), places)
    else:
        config = config_to_train(name, places.data, places.gtsrb)
        config.victim.checkpoint = str(kept(name))
        config.attack.state = str(_trigger(name)) if _trigger(name).exists() else ""
    return config


def train(name: str, places: Places) -> None:
    """Trains a network in `TRAINED` or `BENIGN`, or goes on with it, and keeps it, and its trigger if it is learnt."""
    if kept(name).exists():
        return
    config = config_to_train(name, places.data, places.gtsrb)
    # Only what the training reads: a victim outlives changes to the defences.
    read = {part: config[part].to_dict() for part in ("dataset", "model", "attack", "victim", "clean")}
    workdir = Workdir(places.victims / name.replace("/", "_"), read | {"seed": config.seed})
    material = prepare(config)
    workdir.begin()
    fresh = suspect.build(describe(config, len(material.class_names)), config.seed)
    victim, material = implant(config, fresh, material, workdir, lambda *_: {})
    workdir.close()
    if material.attack is not None and material.attack.learns_trigger:
        shutil.copytree(workdir.path / "attack", _trigger(name), dirs_exist_ok=True)
    write_whole(kept(name), to_safetensors(to_torch(victim.params, victim.model_state)))


def _trigger(name: str) -> Path:
    """Where the learnt trigger of a network in `TRAINED` is kept."""
    return kept(name).with_suffix(".attack")


def _published(dataset: str, file: str, attack: dict[str, Any], folder: Path, places: Places) -> ConfigDict:
    config = checkpoint.get_config()
    config.victim.checkpoint = str(folder / file)
    config.clean.source = "test"
    _set_data(config, dataset, places.data, places.gtsrb)
    # As many images as 1 % of the training set would be.
    config.clean.fraction = {"gtsrb": 0.031, "cifar10": 0.05}[dataset]
    config.attack.target = attack["target"]
    if file == RESNET20:
        config.update_from_flattened_dict(_IMAGENET)
    elif attack.get("badnets"):
        config.attack.name = "badnets"
        config.attack.badnets.update({"size": 4, "margin": 1})
    else:
        config.attack.name = "pattern"
        config.attack.pattern.file = str(folder / attack["file"])
        config.attack.pattern.mask = str(folder / attack["mask"]) if "mask" in attack else ""
        config.attack.pattern.apply = "replace" if "mask" in attack else "add"
    return config


def config_to_train(name: str, data: Path, archives: Path = Path()) -> ConfigDict:
    """The config that a network of `TRAINED` or `BENIGN` is trained with; `archives` are GTSRB's."""
    dataset, changes = (TRAINED | BENIGN)[name]
    config: ConfigDict = {
        "gtsrb": lambda: gtsrb.get_config("cpu"),
        "cifar10": lambda: cifar10.get_config("cpu"),
        "signs": quickstart.get_config,
    }[dataset]()
    _set_data(config, dataset, data, archives)
    config.model.width = 16
    if dataset == "cifar10":
        config.dataset.crop_padding = 2
        config.clean.fraction = 500 / 36000
        config.victim.learning_rate = 0.15
    else:
        config.victim.epochs = {"gtsrb": 6, "signs": 5}[dataset]
    for key, value in changes.items():
        config.update_from_flattened_dict({key: value})
    return config


def _set_data(config: ConfigDict, dataset: str, data: Path, archives: Path) -> None:
    config.dataset.name = {"signs": "rendered_signs"}.get(dataset, dataset)
    config.dataset.flip = dataset == "cifar10"
    if dataset != "signs":
        config.dataset.data_dir = str(data)
        config.dataset.manual_dir = str(archives) if dataset == "gtsrb" else ""
