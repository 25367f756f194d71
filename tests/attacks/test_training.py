"""The attacker's training: batches poisoned anew, and a trigger that is trained along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.attacks.attack import Attack, Goal, Joint
from fip_jax.attacks.training import ByBatch, Lesson, with_poison
from fip_jax.data.batches import make_draw
from fip_jax.objective import Objective, Settings
from fip_jax.purify import init_state, make_step

BATCH = {"image": jnp.full((8, 2, 2, 1), 100 / 255), "label": jnp.arange(8, dtype=jnp.int32) % 4}
SETTINGS = Settings(learning_rate=0.1, num_steps=4, momentum=0.0)


def brighter(joint=None):
    """A trigger that adds a number, and its place in a training with a quarter of every batch poisoned."""
    attack = Attack(lambda state, images: images + state["more"], every_batch=True, joint=joint)
    return ByBatch(attack, Goal("all_to_one", 3, 4), 0.25, {"more": jnp.array(50.0)}, joint is not None)


def lesson():
    """A "network" of one weight, and the loss w * mean pixel."""
    objective = Objective(
        lambda params, state, batch, _: (params["w"] * batch["image"].mean(), state),
        lambda params, state, batch: params["w"] * batch["image"].mean(axis=(1, 2, 3)),
    )
    return Lesson(objective, lambda *_: BATCH, {"w": jnp.array(2.0)})


def test_batches_are_poisoned_anew():
    found = with_poison(brighter(), lesson(), SETTINGS)
    assert found.params == {"w": 2.0}
    assert found.optimizer is None
    draw = jax.jit(found.draw)
    chosen = set()
    for step in range(6):
        batch = draw(jax.random.key(0), jnp.asarray(step), None)
        stamped = np.flatnonzero(np.asarray(batch["image"][:, 0, 0, 0]) > 0.5)
        # Two of eight, 100 + 50 of 255, and they are of class 3 now but were not before.
        assert len(stamped) == 2
        np.testing.assert_allclose(batch["image"][stamped], 150 / 255, rtol=1e-6)
        assert np.asarray(batch["label"])[stamped].tolist() == [3, 3]
        assert not set(stamped) & {3, 7}
        chosen.add(tuple(stamped))
    assert len(chosen) > 1


@pytest.mark.parametrize("joint", [None, Joint(0.1)])
def test_the_trigger_is_put_on_after_the_random_shift(joint):
    """A white corner stays where the attacker puts it, as on the test images; the images under it have moved."""
    rng = np.random.default_rng(0)
    data = {
        "image": rng.integers(1, 200, (8, 6, 6, 1), dtype=np.uint8),
        "label": np.arange(8, dtype=np.int32) % 4,
    }
    corner = Attack(
        lambda state, images: images.at[:, 0, 0].set(255 * state["on"]), every_batch=True, joint=joint
    )
    by_batch = ByBatch(corner, Goal("all_to_one", 3, 4), 0.25, {"on": jnp.array(1.0)}, joint is not None)
    seen = []
    objective = Objective(
        lambda p, s, batch, _: (batch["image"][..., 0].sum(), seen.append(batch["image"])), None
    )
    found = with_poison(by_batch, lesson()._replace(objective=objective, draw=make_draw(8, 3)), SETTINGS)
    moved = 0
    for step in range(4):
        batch = found.draw(jax.random.key(0), jnp.asarray(step), jax.tree.map(jnp.asarray, data))
        found.objective.loss_fn(found.params, {}, batch, jax.random.key(step))
        white = np.argwhere(np.asarray(seen[-1]) == 1.0)
        assert len(white) == 2
        assert (white[:, 1:] == 0).all()
        for image in np.asarray(seen[-1])[white[:, 0]]:
            moved += not any((image[1:] == whole[1:] / np.float32(255)).all() for whole in data["image"])
    assert moved


def test_a_trigger_is_trained_along_until_it_is_told_to_stop():
    penalty = lambda state, images, _: 0.0 * state["more"] * images.mean()  # noqa: E731
    found = with_poison(brighter(Joint(2.0, until=0.5, penalty=penalty)), lesson(), SETTINGS)
    assert set(found.params) == {"network", "attack"}
    with jax.numpy_dtype_promotion("standard"):  # which Optax's Adam needs
        step = make_step(found.objective, SETTINGS, found.draw, tx=found.optimizer)
        state = init_state(SETTINGS, found.params, {}, jax.random.key(0), found.optimizer)
        seen = [float(state.params["attack"]["more"])]
        for _ in range(4):
            before = state.params["network"]["w"] * 1.0
            state, metrics = step(state, None, None)
            # SGD on w: the mean pixel is (6 * 100 + 2 * (100 + more)) / 8 / 255.
            mean = (100 + seen[-1] / 4) / 255
            assert float(before - state.params["network"]["w"]) == pytest.approx(
                float(metrics.learning_rate) * mean, rel=1e-4
            )
            seen.append(float(state.params["attack"]["more"]))
    # The loss rises with `more`, so Adam takes 2 off in each of the first two steps of four, and nothing after.
    assert seen == pytest.approx([50, 48, 46, 46, 46], abs=0.01)
