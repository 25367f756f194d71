"""Poisoned training sets and batches, and the triggered test sets that measure a backdoor."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack, Goal, TriggeredSet, in_chunks, saturate
from fip_jax.data.split import Split
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree

MODES = ("all_to_one", "all_to_all")


def check_goal(goal: Goal, attack: Attack) -> None:
    """Raises UserError for an unknown mode, a target out of range, or one class for an attack that cannot do all."""
    if goal.mode not in MODES:
        raise UserError(f"attack.mode: found {goal.mode!r}, expected one of {', '.join(MODES)}")
    if not 0 <= goal.target < goal.num_classes:
        raise UserError(
            f"attack.target: found {goal.target}, expected a class from 0 to {goal.num_classes - 1}"
        )
    if attack.clean_label and goal.mode == "all_to_all":
        raise UserError(
            "attack.mode: found 'all_to_all', expected 'all_to_one' for a clean-label attack, which leaves "
            "labels as they are"
        )
    if attack.test_set is not None and goal.mode == "all_to_all":
        raise UserError(
            "attack.mode: found 'all_to_all', expected 'all_to_one' for images composed of two classes"
        )


def choose(labels: np.ndarray, clean_label: bool, goal: Goal, rate: float, seed: int) -> np.ndarray:
    """Indices of the training images to poison, sorted.

    They are drawn from all classes but the target (all-to-one), from all (all-to-all), or from the target class alone
    (clean-label).

    Args:
      labels: int32 `[N]`.
      clean_label: as in `Attack`.
      goal: labels.
      rate: poisoned images as a fraction of the whole training set; for a clean-label attack of the images of the
        target class.
      seed: of the choice.

    Raises:
      UserError: the rate asks for no image or for more than there are to poison.
    """
    eligible = np.flatnonzero((goal.targets(labels) == labels) == clean_label)
    total = len(eligible) if clean_label else len(labels)
    count = round(rate * total)
    if not 1 <= count <= len(eligible):
        key, what = ("clean_label_rate", "target") if clean_label else ("poison_rate", "training")
        raise UserError(
            f"attack.{key}: {rate:g} of {total} {what} images is {count}, expected 1 to {len(eligible)}, the images "
            "that this attack can poison"
        )
    return np.sort(np.random.default_rng([seed, 3]).choice(eligible, count, replace=False))


def poison(
    split: Split, attack: Attack, goal: Goal, rate: float, seed: int, state: PyTree = None
) -> tuple[Split, np.ndarray]:
    """A training set of which a part carries the trigger and the attacker's label, and another the cover.

    Args:
      split: clean training images.
      attack: trigger.
      goal: labels.
      rate: as in `choose`; an attack may count in its own way, which its docstring says.
      seed: of the choice.
      state: the attack's.

    Returns:
      (poisoned split, indices of the images with the trigger).

    Raises:
      UserError: as in `choose`.
    """
    check_goal(goal, attack)
    if attack.compose is not None:
        return attack.compose(state, split, goal, rate, seed)
    chosen = choose(split.labels, attack.clean_label, goal, rate, seed)
    images, labels = split.images.copy(), split.labels.copy()
    if attack.implant is not None:
        images[chosen] = attack.implant(state, chosen, split.images[chosen])
    else:
        images[chosen] = attack.stamp(split.images[chosen], state)
    labels[chosen] = goal.targets(split.labels[chosen])
    if attack.cover is not None:
        covered = _covered(len(labels), chosen, attack, seed)
        images[covered] = in_chunks(attack.cover, split.images[covered], state, jax.random.key(seed))
    return split._replace(images=images, labels=labels), chosen


def _covered(total: int, chosen: np.ndarray, attack: Attack, seed: int) -> np.ndarray:
    left = np.setdiff1d(np.arange(total), chosen)
    count = min(_num_covers(attack, len(chosen)), len(left))
    return np.sort(np.random.default_rng([seed, 4]).choice(left, count, replace=False))


def _num_covers(attack: Attack, count: int) -> int:
    """Images for `cover` beside `count` with the trigger: at least one, where there are to be any."""
    if attack.cover is None or not attack.cover_rate:
        return 0
    return max(1, round(attack.cover_rate * count))


def poison_batch(
    attack: Attack, goal: Goal, rate: float, state: PyTree, batch: PyTree, key: jax.Array
) -> PyTree:
    """A batch of which a part carries the trigger and the attacker's label, and another the cover. Pure, jittable.

    They are chosen from the classes that `choose` draws from; where a batch has too few of these, fewer are.

    Args:
      attack: with a trigger that says it all: no `implant`, no `compose`.
      goal: labels.
      rate: poisoned images as a fraction of the batch, at least one.
      state: the attack's; gradients pass to it.
      batch: {"image": float32 `[N, H, W, C]` in [0, 1], "label": int32 `[N]`}.
      key: of the choice.
    """
    assert attack.implant is None and attack.compose is None
    images, labels = batch["image"] * 255, batch["label"]
    total = len(labels)
    count = min(total, max(1, round(rate * total)))
    poison_key, cover_key, key = jax.random.split(key, 3)
    targets = goal.targets(labels)
    can_be = (targets == labels) == attack.clean_label
    order = jax.random.uniform(poison_key, (total,)) + (~can_be).astype(jnp.float32)
    chosen = jnp.argsort(order)[:count]
    eligible = can_be[chosen]
    stamped = jnp.where(eligible[:, None, None, None], attack.puts(state, images[chosen]), images[chosen])
    poisoned = images.at[chosen].set(saturate(stamped))
    covers = min(_num_covers(attack, count), total - count)
    if covers and attack.cover is not None:
        # Those with the trigger come last.
        order = jax.random.uniform(cover_key, (total,)).at[chosen].add(1)
        # Two at least go in, so that a single one has another for its partner.
        covered = jnp.argsort(order)[: max(covers, 2)]
        changed = saturate(attack.cover(state, images[covered], key))
        poisoned = poisoned.at[covered[:covers]].set(changed[:covers])
    labels = labels.at[chosen].set(jnp.where(eligible, targets[chosen], labels[chosen]))
    return {**batch, "image": poisoned / 255, "label": labels}


def triggered_test_set(test: Split, attack: Attack, goal: Goal, state: PyTree = None) -> TriggeredSet:
    """Every test image with the trigger whose class is not the attacker's target for it already.

    Raises:
      UserError: there is none.
    """
    if attack.test_set is not None:
        return attack.test_set(test, goal)
    kept = tested(test.labels, goal)
    labels = test.labels[kept]
    return TriggeredSet(attack.stamp(test.images[kept], state), labels, goal.targets(labels), kept)


def tested(labels: np.ndarray, goal: Goal) -> np.ndarray:
    """Indices of the test images that ASR is measured on: all whose class is not the attacker's target already.

    Raises:
      UserError: there is none.
    """
    kept = np.flatnonzero(goal.targets(labels) != labels)
    if not len(kept):
        raise UserError("attack.target: every test image is of that class, expected some that are not")
    return kept
