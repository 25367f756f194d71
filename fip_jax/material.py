"""The data of a run: who holds which images, and which of them carry the trigger."""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fip_jax.attacks import create_attack
from fip_jax.attacks.attack import Attack, Goal, TriggeredSet
from fip_jax.attacks.check import attack_rate
from fip_jax.attacks.poison import check_goal, choose, poison, tested, triggered_test_set
from fip_jax.attacks.storage import load_state
from fip_jax.config import default_config
from fip_jax.data import source
from fip_jax.data.held_out import hold_out, keep_back
from fip_jax.data.split import DataSet, Split, digest
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree
from fip_jax.progress import console


class Material(NamedTuple):
    """The data of a run.

    Attributes:
      training: the victim's images, poisoned where there is an attack whose trigger is known before the training and
        that poisons them once; None where the data have none.
      clean: the defender's images.
      test: clean test images.
      triggered: test images with the trigger, or None without one that is known.
      class_names: names of the classes.
      attack: the attack, or None.
      goal: its labels, or None.
      attack_state: its state where that was loaded, else None.
      poisoned: indices of the training images with the trigger, or None where `training` is clean.
      unpoisoned: `training` as it was before that, where `attack.export` asks for it.
      splits: names of the data set's splits that `clean` and `test` are from: train, test or clean.
      unlabeled: images of the defender's without labels, uint8 `[M, H, W, C]`, or None.
      sha256: of all images and labels that are used, before any trigger is put on, in hexadecimal digits.
    """

    training: Split | None
    clean: Split
    test: Split
    triggered: TriggeredSet | None
    class_names: tuple[str, ...]
    attack: Attack | None = None
    goal: Goal | None = None
    attack_state: PyTree = None
    poisoned: np.ndarray | None = None
    unpoisoned: Split | None = None
    splits: tuple[str, str] = ("train", "test")
    sha256: str = ""
    unlabeled: np.ndarray | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.test.images.shape[1:]


def prepare(config: ConfigDict, num_classes: int | None = None) -> Material:
    """Loads the data, holds out the clean images, and poisons what is left.

    Args:
      config: the run's.
      num_classes: of a network that is to be purified; a user's own images may lack some of its classes.

    Raises:
      UserError: data set or attack cannot be had as asked for.
    """
    console.print(f"data set {config.dataset.name}", markup=False)
    data = source.load(
        config.dataset.name,
        data_dir=config.dataset.data_dir,
        manual_dir=config.dataset.manual_dir,
        image_size=config.dataset.image_size,
        crop=config.dataset.crop,
    )
    names = _class_names(config, data, num_classes)
    training, clean, test, splits = _divide(config, data, len(names))
    if training is None and not config.victim.checkpoint:
        raise UserError(
            f"victim.checkpoint: found nothing, expected a network to purify, since {config.dataset.name} has no "
            "training images"
        )
    used = (clean, test) if training is None or config.victim.checkpoint else (training, clean, test)
    if data.unlabeled is not None:
        used = (*used, Split(data.unlabeled, np.zeros(0, np.int32)))
    sha256 = digest(*used)
    basis = Material(
        training, clean, test, None, names, splits=splits, sha256=sha256, unlabeled=data.unlabeled
    )
    options = config.attack.get(config.attack.name, ConfigDict())
    attack = create_attack(config.attack.name, test.images.shape[1:], options)
    if attack is None:
        return basis
    goal = Goal(config.attack.mode, config.attack.target, len(names))
    check_goal(goal, attack)
    shape = test.images.shape[1:]
    state = None
    if config.attack.state:
        state = load_state(config.attack.state, config.attack, shape, not config.victim.checkpoint)
    material = basis._replace(attack=attack, goal=goal, attack_state=state)
    if attack.learns_trigger and state is None:
        tested(test.labels, goal)  # refused now and not after the learning
    else:
        triggered = triggered_test_set(test, attack, goal, state)
        if attack.test_set is None and np.array_equal(triggered.images, test.images[triggered.indices]):
            raise UserError(
                f"attack.{config.attack.name}: found a trigger that leaves every test image as it is, expected a "
                "stronger one"
            )
        material = material._replace(triggered=triggered)
    if training is None or config.victim.checkpoint:
        return material
    if attack.compose is None and (config.attack.export or not attack.every_batch):  # refused now as well
        choose(training.labels, attack.clean_label, goal, attack_rate(config, attack), config.seed)
    to_fit = attack.fit is not None and state is None
    return material if attack.every_batch or to_fit else with_poison(material, config)


def with_poison(material: Material, config: ConfigDict) -> Material:
    """The data with poisoned training images, by an attack whose state is known."""
    assert material.training is not None and material.attack is not None and material.goal is not None
    training, poisoned = poison(
        material.training,
        material.attack,
        material.goal,
        attack_rate(config, material.attack),
        config.seed,
        material.attack_state,
    )
    unpoisoned = material.training if config.attack.export else None
    return material._replace(training=training, poisoned=poisoned, unpoisoned=unpoisoned)


def for_export(material: Material, config: ConfigDict) -> Material:
    """The data as other programs are given them: poisoned once, where the victim was trained on batches that were.

    Of a victim that comes from elsewhere nothing is known of the training images.
    """
    if config.victim.checkpoint:
        console.print(
            "attack.export: which images this network was trained on is not known here, and they are left out; the run "
            "that trained it writes them when it is started again with attack.export"
        )
        return material
    if material.training is None or material.poisoned is not None:
        return material
    if material.attack is None:
        return material._replace(unpoisoned=material.training, poisoned=np.zeros(0, np.int64))
    return with_poison(material, config)


def _class_names(config: ConfigDict, data: DataSet, num_classes: int | None) -> tuple[str, ...]:
    """The classes of the data, and for a user's own images those that only the network has."""
    if not data.own or num_classes is None:
        return data.class_names
    if len(data.class_names) > num_classes:
        raise UserError(
            f"dataset.name: {config.dataset.name} has {len(data.class_names)} classes, expected at most the "
            f"{num_classes} of the network in victim.checkpoint"
        )
    missing = range(len(data.class_names), num_classes)
    if missing:
        # Folders by name would be numbered wrongly if one in between were lacking.
        console.print(
            f"the images are taken for the network's first {len(data.class_names)} of {num_classes} classes"
        )
    return data.class_names + tuple(f"class {index}" for index in missing)


def _divide(
    config: ConfigDict, data: DataSet, num_classes: int
) -> tuple[Split | None, Split, Split, tuple[str, str]]:
    """(the victim's training images, the defender's clean ones, test images), no image in two of them.

    And which of the data set's splits the last two are from.
    """
    choice = (num_classes, config.clean.fraction, config.clean.max_per_track, config.seed, data.own)
    training, test = data.train, data.test
    if data.clean is not None:
        if config.clean.source == "test":
            raise UserError(
                f"clean.source: found 'test', but {config.dataset.name} says itself which images are clean, expected "
                "'train'"
            )
        clean, clean_of = data.clean, "clean"
        usual = default_config().clean
        for key in ("fraction", "max_per_track"):
            if config.clean[key] != usual[key]:
                console.print(f"clean.{key} does not count: all {len(clean.labels)} clean images are used")
    elif config.clean.source == "test":
        if test is None:
            raise UserError(
                f"clean.source: found 'test', but {config.dataset.name} has no test images, expected 'train'"
            )
        test, clean = hold_out(test, *choice)
        clean_of = "test"
    else:
        assert training is not None  # a data set has training or clean images
        training, clean = hold_out(training, *choice)
        clean_of = "train"
    if test is None:
        clean, test = keep_back(clean, config.clean.test_fraction, config.seed)
        console.print(
            f"no test images: {len(test.labels)} of the clean ones are kept back to measure ACC with"
        )
        return training, clean, test, (clean_of, clean_of)
    return training, clean, test, (clean_of, "test")
