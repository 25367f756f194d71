"""Who is poisoned, with what label, and what is left alone."""

import numpy as np
import pytest

from fip_jax.attacks import Attack
from fip_jax.attacks.poison import Goal, poison, triggered_test_set
from fip_jax.data.split import Split
from fip_jax.errors import UserError

CLASSES = 5
TO_ONE, TO_ALL = Goal("all_to_one", 2, CLASSES), Goal("all_to_all", 2, CLASSES)
# No image is its own trigger: the stamp takes grey levels up to 199 to 200 and more.
DIRTY = Attack(lambda images: images // 4 + 200, clean_label=False)
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
    poisoned, chosen = poison(split, attack, goal, 0.1, seed=0)

    assert len(chosen) == len(set(chosen)) == 20  # 0.1 of 200
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
    for found, expected in zip(split, original, strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(poisoned.tracks, original.tracks)
    assert [column.dtype for column in poisoned] == [np.uint8, np.int32, np.int32]


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_that_may_be_poisoned_has_its_turn(kind):
    attack, goal, classes = KINDS[kind]
    seen = set()
    for seed in range(60):
        seen |= set(poison(split_of(), attack, goal, 0.1, seed)[1])
    # Of 200 an image is passed over 60 times in a row with probability 0.9^60 = 0.002, of 160 and 40 less
    # often; that none of the first 20 is stays all but certain.
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
        # 40 images of the target class; 0.21 of 200 are 42.
        (CLEAN, TO_ONE, 0.21, "attack.poison_rate", "40"),
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
