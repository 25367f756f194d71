"""A victim trained by its attacker: every batch is poisoned anew, and the trigger may learn as well."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fip_jax.attacks.attack import Attack, Goal
from fip_jax.attacks.poison import poison_batch
from fip_jax.objective import Objective, Settings
from fip_jax.per_example import PyTree
from fip_jax.purify import DrawFn, optimizer


class ByBatch(NamedTuple):
    """An attack that poisons every batch.

    Attributes:
      attack: with `every_batch`.
      goal: labels.
      rate: of poisoned images in a batch.
      state: the attack's at the start, a nested dict of arrays or None.
      joint: whether the state is trained along; False leaves it as it is.
    """

    attack: Attack
    goal: Goal
    rate: float
    state: PyTree
    joint: bool


class Lesson(NamedTuple):
    """What the step of a victim's training is made of; `optimizer` None stands for the usual one."""

    objective: Objective
    draw: DrawFn
    params: PyTree
    optimizer: optax.GradientTransformation | None = None


def with_poison(by_batch: ByBatch, lesson: Lesson, settings: Settings) -> Lesson:
    """The same training with the attack in it.

    Of a state that is trained along, the parameters become {"network": ..., "attack": ...}. The images are then
    poisoned inside of the loss, and terms of Fisher's see the clean ones; otherwise they are poisoned as they are
    drawn.
    """
    if by_batch.joint:
        return _jointly(by_batch, lesson, settings)

    def draw(key: jax.Array, step: jax.Array, data: PyTree) -> PyTree:
        batch = lesson.draw(key, step, data)
        # 4, since `lesson.draw` has split the key in three, which folds 0 to 2 into it, and folded in 3.
        return _poisoned(
            by_batch, by_batch.state, batch, jax.random.fold_in(jax.random.fold_in(key, 4), step)
        )

    return lesson._replace(draw=draw)


def _poisoned(by_batch: ByBatch, state: PyTree, batch: PyTree, key: jax.Array) -> PyTree:
    return poison_batch(by_batch.attack, by_batch.goal, by_batch.rate, state, batch, key)


def _jointly(by_batch: ByBatch, lesson: Lesson, settings: Settings) -> Lesson:
    objective, joint = lesson.objective, by_batch.attack.joint
    assert joint is not None

    def loss_fn(params, model_state, batch, key):
        key, poison_key, penalty_key = jax.random.split(key, 3)
        poisoned = _poisoned(by_batch, params["attack"], batch, poison_key)
        loss, model_state = objective.loss_fn(params["network"], model_state, poisoned, key)
        if joint.penalty is not None:
            some = batch["image"][: max(2, round(by_batch.rate * len(batch["label"])))]
            loss = loss + joint.penalty(params["attack"], some * 255, penalty_key)
        return loss, model_state

    def log_probs_fn(params, model_state, batch):
        return objective.log_probs_fn(params["network"], model_state, batch)

    def rate(count):
        return jnp.where(count < round(joint.until * settings.num_steps), joint.learning_rate, 0.0)

    # Adam is blind to the scale of its gradients, in which the rate of poisoned images would count otherwise.
    both = optax.partition(
        {"network": optimizer(settings), "attack": optax.adam(rate)},
        {"network": "network", "attack": "attack"},
    )
    params = {"network": lesson.params, "attack": by_batch.state}
    return lesson._replace(objective=Objective(loss_fn, log_probs_fn), params=params, optimizer=both)
