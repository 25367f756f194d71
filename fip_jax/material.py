"""The data of a run: who holds which images, and which of them carry the trigger."""

from typing import NamedTuple

from ml_collections import ConfigDict

from fip_jax.attacks import create_attack
from fip_jax.attacks.poison import Goal, TriggeredSet, check_goal, poison, triggered_test_set
from fip_jax.data import source
from fip_jax.data.held_out import hold_out
from fip_jax.progress import console


class Material(NamedTuple):
    """The data of a run.

    Attributes:
      training: the victim's images, poisoned where there is an attack.
      clean: the defender's images.
      test: clean test images.
      triggered: test images with the trigger, or None without an attack.
      class_names: names of the classes.
    """

    training: source.Split
    clean: source.Split
    test: source.Split
    triggered: TriggeredSet | None
    class_names: tuple[str, ...]


def prepare(config: ConfigDict) -> Material:
    """Loads the data, holds out the clean images, and poisons what is left.

    Raises:
      UserError: data set or attack cannot be had as asked for.
    """
    console.print(f"data set {config.dataset.name}")
    data = source.load(
        config.dataset.name,
        data_dir=config.dataset.data_dir,
        manual_dir=config.dataset.manual_dir,
        image_size=config.dataset.image_size,
        crop=config.dataset.crop,
    )
    num_classes = len(data.class_names)
    victims, clean = hold_out(
        data.train, num_classes, config.clean.fraction, config.clean.max_per_track, config.seed
    )
    options = config.attack.get(config.attack.name, ConfigDict())
    attack = create_attack(config.attack.name, victims.images.shape[1:], options)
    if attack is None:
        return Material(victims, clean, data.test, None, data.class_names)
    goal = Goal(config.attack.mode, config.attack.target, num_classes)
    check_goal(goal, attack.clean_label)
    if not config.victim.checkpoint:
        victims, _ = poison(victims, attack, goal, config.attack.poison_rate, config.seed)
    triggered = triggered_test_set(data.test, attack, goal)
    return Material(victims, clean, data.test, triggered, data.class_names)
