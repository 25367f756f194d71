"""Who is poisoned, with what label, and what is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.attacks.attack import Attack, Goal, in_chunks, saturate
from fip_jax.attacks.poison import poison, poison_batch, triggered_test_set
from fip_jax.data.split import Split
from fip_jax.errors import UserError

CLASSES = 5
TO_ONE, TO_ALL = Goal("all_to_one", 2, CLASSES), Goal("all_to_all", 2, CLASSES)
# No image is its own trigger: the stamp takes grey levels up to 199 to 200 and more.
DIRTY = Attack(lambda _, images: jnp.floor(images / 4) + 200)
CLEAN = DIRTY._replace(clean_label=True)


def split_of(num=200, classes=CLASSES, tracks=True):
    """Images that differ in every case, labels in turn: 40 a class of 200."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (num, 4, 4, 3), dtype=np.uint8)
    labels = (np.arange(num) % classes).astype(np.int32)
    return Split(images, labels, np.arange(num, dtype=np.int32) // 10 if tracks else None)


# (attack, goal, classes that may be poisoned)
KINDS = {
    "all_to_one": (DIRTY, TO_ONE, {0, 1, 3, 4}),
    "all_to_all": (DIRTY, TO_ALL, {0, 1, 2, 3, 4}),
    "clean_label": (CLEAN, TO_ONE, {2}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_poisoned(kind):
    attack, goal, classes = KINDS[kind]
    split, original = split_of(), split_of()
    # 0.1 of 200; with clean labels 0.5 of the 40 of the target class.
    poisoned, chosen = poison(split, attack, goal, 0.5 if attack.clean_label else 0.1, seed=0)

    assert len(chosen) == len(set(chosen)) == 20
    assert set(split.labels[chosen]) <= classes
    np.testing.assert_array_equal(poisoned.images[chosen], original.images[chosen] // 4 + 200)
    before = original.labels[chosen]
    # The target is what they were before in the clean-label attack.
    becomes = {0: 1, 1: 2, 2: 3, 3: 4, 4: 0} if kind == "all_to_all" else dict.fromkeys(range(5), 2)
    expected = [becomes[label] for label in before]
    np.testing.assert_array_equal(poisoned.labels[chosen], expected)

    rest = np.setdiff1d(np.arange(200), chosen)
    np.testing.assert_array_equal(poisoned.images[rest], original.images[rest])
    np.testing.assert_array_equal(poisoned.labels[rest], original.labels[rest])
    # The caller's images stay as they were; tracks come along.
    for found, expected in zip(split[:3], original[:3], strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(poisoned.tracks, original.tracks)
    assert [column.dtype for column in poisoned[:3]] == [np.uint8, np.int32, np.int32]


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_that_may_be_poisoned_has_its_turn(kind):
    attack, goal, classes = KINDS[kind]
    seen = set()
    for seed in range(60):
        seen |= set(poison(split_of(), attack, goal, 0.1, seed)[1])
    # An image is passed over 60 times in a row with probability 0.9^60 = 0.002 (of 160 to poison: less).
    eligible = np.flatnonzero(np.isin(split_of().labels, list(classes)))
    assert len(seen) >= 0.97 * len(eligible)
    assert seen <= set(eligible)


@pytest.mark.parametrize(
    "rate, num, count",
    [
        (0.1, 200, 20),
        (0.01, 130, 1),  # 1.3
        (0.05, 150, 8),  # 7.5, to the even number
        (0.013, 200, 3),  # 2.6
        (0.8, 200, 160),  # all that are not of the target class
    ],
)
def test_number_of_poisoned_images(rate, num, count):
    assert len(poison(split_of(num), DIRTY, TO_ONE, rate, 0)[1]) == count


def test_seeds():
    first, same, other = (poison(split_of(), DIRTY, TO_ONE, 0.1, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[1], same[1])
    np.testing.assert_array_equal(first[0].images, same[0].images)
    np.testing.assert_array_equal(first[0].labels, same[0].labels)
    assert set(first[1]) != set(other[1])


@pytest.mark.parametrize(
    "attack, goal, rate, key, number",
    [
        # 40 images of the target class; 0.01 of them are 0.
        (CLEAN, TO_ONE, 0.01, "attack.clean_label_rate", "40"),
        # 160 images of other classes; 0.81 of 200 are 162.
        (DIRTY, TO_ONE, 0.81, "attack.poison_rate", "160"),
        (DIRTY, TO_ONE, 0.002, "attack.poison_rate", "is 0"),
        (DIRTY, TO_ONE._replace(mode="one_to_one"), 0.1, "attack.mode", "one_to_one"),
        (DIRTY, TO_ONE._replace(target=5), 0.1, "attack.target", "5"),
        (DIRTY, TO_ONE._replace(target=-1), 0.1, "attack.target", "-1"),
        (CLEAN, TO_ALL, 0.1, "attack.mode", "clean-label"),
    ],
)
def test_refusals_name_the_key(attack, goal, rate, key, number):
    with pytest.raises(UserError, match=f"^{key}: ") as caught:
        poison(split_of(), attack, goal, rate, 0)
    assert number in str(caught.value)


def test_no_tracks():
    assert poison(split_of(tracks=False), DIRTY, TO_ONE, 0.1, 0)[0].tracks is None


@pytest.mark.parametrize("attack", [DIRTY, CLEAN])
def test_triggered_test_set_of_all_to_one_leaves_out_the_target(attack):
    test = split_of(23)
    found = triggered_test_set(test, attack, TO_ONE)
    # Labels 0 1 2 3 4 in turn; the class 2 lies at 2, 7, 12, 17 and 22.
    np.testing.assert_array_equal(found.indices, [i for i in range(23) if i not in (2, 7, 12, 17, 22)])
    np.testing.assert_array_equal(found.labels, test.labels[found.indices])
    np.testing.assert_array_equal(found.targets, np.full(18, 2))
    np.testing.assert_array_equal(found.images, test.images[found.indices] // 4 + 200)
    assert [column.dtype for column in found[:3]] == [np.uint8, np.int32, np.int32]


def test_triggered_test_set_of_all_to_all_keeps_all():
    test = split_of(23)
    found = triggered_test_set(test, DIRTY, TO_ALL)
    np.testing.assert_array_equal(found.indices, np.arange(23))
    np.testing.assert_array_equal(found.labels, test.labels)
    np.testing.assert_array_equal(found.targets[:6], [1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(found.images, test.images // 4 + 200)
    np.testing.assert_array_equal(test.images, split_of(23).images)


def test_cover_images_keep_their_labels():
    attack = DIRTY._replace(cover=lambda _, images, key: images + 1, cover_rate=2.0)
    split = split_of()
    poisoned, chosen = poison(split, attack, TO_ONE, 0.1, 0)
    changed = np.flatnonzero((poisoned.images != split.images).any(axis=(1, 2, 3)))
    covered = np.setdiff1d(changed, chosen)
    assert len(covered) == 40  # twice the 20 with the trigger
    np.testing.assert_array_equal(poisoned.images[covered], split.images[covered] + 1)
    np.testing.assert_array_equal(poisoned.labels[covered], split.labels[covered])


def test_covers_are_other_ones_in_every_few_hundred():
    # Black images whose cover is noise of the key: 1200 of them, more than are changed at once.
    def noise(_, images, key):
        return jax.random.uniform(key, images.shape, maxval=256)

    split = Split(np.zeros((2400, 2, 2, 3), np.uint8), np.ones(2400, np.int32))
    poisoned, _ = poison(split, DIRTY._replace(cover=noise, cover_rate=1.0), TO_ONE, 0.5, 0)
    covered = poisoned.images[(poisoned.labels == 1)]
    assert len(covered) == 1200
    assert len(np.unique(covered.reshape(1200, -1), axis=0)) == 1200


def neighbours(_, images, key):
    """In the place of every image the one before it."""
    return jnp.roll(images, 1, axis=0)


@pytest.mark.parametrize("num", [3, 257, 261, 400])
def test_every_cover_has_another_for_its_partner(num):
    # In the last of the few hundred there are 3, 1, 5 and 144, which divide 255, or do not.
    images = np.arange(num, dtype=np.uint16)[:, None, None, None].view(np.uint8)  # two channels: all differ
    found = in_chunks(neighbours, images, key=jax.random.key(0))
    assert (found != images).any(axis=(1, 2, 3)).all()


def test_a_single_cover_of_a_batch_has_a_partner():
    """At a rate of 0.01 a batch of 64 has one image with the trigger and one cover."""
    attack = DIRTY._replace(cover=neighbours, cover_rate=0.3)
    split = split_of(64)._replace(
        images=np.arange(64, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    )
    found = poison_batch(attack, TO_ONE, 0.01, None, batch_of(split), jax.random.key(0))
    changed = np.flatnonzero((np.rint(np.asarray(found["image"]) * 255) != split.images).any(axis=(1, 2, 3)))
    assert len(changed) == 2


def batch_of(split):
    return {"image": jnp.asarray(split.images, jnp.float32) / 255, "label": jnp.asarray(split.labels)}


@pytest.mark.parametrize(("goal", "kind"), [(TO_ONE, "all_to_one"), (TO_ALL, "all_to_all")])
def test_a_batch_is_poisoned_as_a_set_is(goal, kind):
    attack = DIRTY._replace(cover=lambda _, images, key: images + 1, cover_rate=2.0)
    split = split_of(50)
    found = poison_batch(attack, goal, 0.1, None, batch_of(split), jax.random.key(0))
    images, labels = np.rint(np.asarray(found["image"]) * 255).astype(np.uint8), np.asarray(found["label"])
    triggered = (images == split.images // 4 + 200).all(axis=(1, 2, 3))
    covered = (images == split.images + 1).all(axis=(1, 2, 3))
    clean = (images == split.images).all(axis=(1, 2, 3))
    assert (triggered.sum(), covered.sum(), clean.sum()) == (5, 10, 35)  # 0.1 of 50, twice as many, the rest
    assert set(split.labels[triggered]) <= KINDS[kind][2]
    np.testing.assert_array_equal(labels[triggered], goal.targets(split.labels[triggered]))
    np.testing.assert_array_equal(labels[~triggered], split.labels[~triggered])
    again = poison_batch(attack, goal, 0.1, None, batch_of(split), jax.random.key(0))
    other = poison_batch(attack, goal, 0.1, None, batch_of(split), jax.random.key(1))
    np.testing.assert_array_equal(again["image"], found["image"])
    assert (other["image"] != found["image"]).any()


def test_a_batch_with_too_few_to_poison():
    # Ten images, eight of the target class: 0.5 would be five with the trigger, and two can be.
    split = split_of(10)._replace(labels=np.array([2] * 8 + [0, 1], np.int32))
    found = poison_batch(DIRTY, TO_ONE, 0.5, None, batch_of(split), jax.random.key(0))
    images = np.rint(np.asarray(found["image"]) * 255).astype(np.uint8)
    np.testing.assert_array_equal(images[:8], split.images[:8])
    np.testing.assert_array_equal(images[8:], split.images[8:] // 4 + 200)
    assert found["label"].tolist() == [2] * 10


def test_a_batch_of_clean_labels():
    # Of 0.5 of ten images five could be; three are of the target class.
    split = split_of(10)._replace(labels=np.array([2] * 3 + [0, 1] * 3 + [0], np.int32))
    attack = DIRTY._replace(clean_label=True)
    found = poison_batch(attack, TO_ONE, 0.5, None, batch_of(split), jax.random.key(0))
    images = np.rint(np.asarray(found["image"]) * 255).astype(np.uint8)
    np.testing.assert_array_equal(images[:3], split.images[:3] // 4 + 200)
    np.testing.assert_array_equal(images[3:], split.images[3:])
    assert found["label"].tolist() == split.labels.tolist()


def test_triggers_learn_through_rounding_and_saturation():
    # The gradient of the sum is that of what is not cut off: pixels at 10 + 2 and 250 + 2, not at 254 + 2.
    pixels = jnp.array([10.0, 250.0, 254.0])
    gradient = jax.grad(lambda state: saturate(pixels + state).sum())(jnp.full(3, 2.0))
    assert gradient.tolist() == [1.0, 1.0, 0.0]
    assert saturate(jnp.array([-3.0, 0.4, 0.6, 254.6, 300.0])).tolist() == [0.0, 0.0, 1.0, 255.0, 255.0]
