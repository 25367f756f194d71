"""Poisoned training sets, and the triggered test sets that measure a backdoor."""

from typing import NamedTuple

import numpy as np

from fip_jax.attacks import Attack
from fip_jax.data.split import Split
from fip_jax.errors import UserError

MODES = ("all_to_one", "all_to_all")


class Goal(NamedTuple):
    """What a triggered image is to be taken for.

    Attributes:
      mode: "all_to_one": every class for `target`; "all_to_all": class y for y + 1, the last for the first.
      target: class of "all_to_one".
      num_classes: number of classes.
    """

    mode: str
    target: int
    num_classes: int

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """The attacker's class for each of `labels`, both int32 `[N]`."""
        if self.mode == "all_to_one":
            return np.full_like(labels, self.target)
        return (labels + 1) % self.num_classes


class TriggeredSet(NamedTuple):
    """Triggered uint8 images `[N, H, W, C]`; int32 `[N]`: true labels, the attacker's targets, and indices.

    The indices are those of the clean images in their split, or None where these are not known.
    """

    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    indices: np.ndarray | None


def check_goal(goal: Goal, clean_label: bool) -> None:
    """Raises UserError for an unknown mode, a target out of range, or a clean-label attack on all classes."""
    if goal.mode not in MODES:
        raise UserError(f"attack.mode: found {goal.mode!r}, expected one of {', '.join(MODES)}")
    if not 0 <= goal.target < goal.num_classes:
        raise UserError(
            f"attack.target: found {goal.target}, expected a class from 0 to {goal.num_classes - 1}"
        )
    if clean_label and goal.mode == "all_to_all":
        raise UserError(
            "attack.mode: found 'all_to_all', expected 'all_to_one' for a clean-label attack, which leaves "
            "labels as they are"
        )


def poison(
    split: Split, attack: Attack, goal: Goal, poison_rate: float, seed: int
) -> tuple[Split, np.ndarray]:
    """A training set of which a part carries the trigger and the attacker's label.

    Poisoned images are drawn from all classes but the target (all-to-one), from all (all-to-all), or from
    the target class alone (clean-label, labels kept).

    Args:
      split: clean training images.
      attack: trigger.
      goal: labels.
      poison_rate: poisoned images as a fraction of the whole training set.
      seed: of the choice.

    Returns:
      (poisoned split, indices of the poisoned images).

    Raises:
      UserError: the rate asks for no image or for more than there are to poison.
    """
    check_goal(goal, attack.clean_label)
    if attack.clean_label:
        eligible = np.flatnonzero(split.labels == goal.target)
    else:
        eligible = np.flatnonzero(split.labels != goal.targets(split.labels))
    count = round(poison_rate * len(split.labels))
    if not 1 <= count <= len(eligible):
        raise UserError(
            f"attack.poison_rate: {poison_rate:g} of {len(split.labels)} training images is {count}, expected 1 "
            f"to {len(eligible)}, the images that this attack can poison"
        )
    chosen = np.sort(np.random.default_rng([seed, 3]).choice(eligible, count, replace=False))
    images, labels = split.images.copy(), split.labels.copy()
    images[chosen] = attack.stamp(split.images[chosen])
    labels[chosen] = goal.targets(split.labels[chosen])
    return split._replace(images=images, labels=labels), chosen


def triggered_test_set(test: Split, attack: Attack, goal: Goal) -> TriggeredSet:
    """Every test image with the trigger whose class is not the attacker's target for it already.

    Raises:
      UserError: there is none.
    """
    targets = goal.targets(test.labels)
    kept = np.flatnonzero(targets != test.labels)
    if not len(kept):
        raise UserError("attack.target: every test image is of that class, expected some that are not")
    return TriggeredSet(attack.stamp(test.images[kept]), test.labels[kept], targets[kept], kept)
