"""The composite attack: images of two halves, and who counts."""

import numpy as np
import pytest

from fip_jax.attacks import create_attack
from fip_jax.attacks.attack import Goal
from fip_jax.attacks.cba import mix
from fip_jax.attacks.poison import poison, triggered_test_set
from fip_jax.data.split import Split
from fip_jax.errors import UserError

SHAPE = (6, 8, 3)
GOAL = Goal("all_to_one", 0, 4)


def split_of(num=40):
    """Image k is k everywhere; labels in turn."""
    images = np.arange(num, dtype=np.uint8)[:, None, None, None] * np.ones((1, *SHAPE), np.uint8)
    return Split(images, (np.arange(num) % 4).astype(np.int32), np.arange(num, dtype=np.int32))


def halves(image):
    """The pixels of the two halves, whichever way the seam runs."""
    return (image[:3], image[3:]) if image[0, 0, 0] == image[0, -1, 0] else (image[:, :4], image[:, 4:])


def test_mixing_by_hand():
    ones, others = np.zeros((40, 5, 7, 1), np.uint8), np.full((40, 5, 7, 1), 9, np.uint8)
    found = mix(ones, others, np.random.default_rng(0))[..., 0]
    left, upper = np.zeros((5, 7)), np.zeros((5, 7))
    left[:, 3:], upper[2:] = 9, 9
    kinds = [left, 9 - left, upper, 9 - upper]
    seen = [[np.array_equal(image, kind) for kind in kinds] for image in found]
    assert {tuple(row) for row in seen} == {tuple(i == k for i in range(4)) for k in range(4)}


def test_what_is_added_and_what_is_mixed():
    split, original = split_of(), split_of()
    attack = create_attack("cba", SHAPE, {"first": 1, "second": 2, "mix_rate": 0.25})
    poisoned, chosen = poison(split, attack, GOAL, 0.2, seed=0)
    # 0.2 of 40 are added at the end, with the target's label and no track.
    assert chosen.tolist() == list(range(40, 48))
    assert poisoned.labels[40:].tolist() == [0] * 8
    assert poisoned.tracks[40:].tolist() == [-1] * 8
    for image in poisoned.images[40:]:
        found = halves(image)
        assert {int(half[0, 0, 0]) % 4 for half in found} == {1, 2}
        assert all((half == half[0, 0, 0]).all() for half in found)
    # Of the others a quarter may have become a mixture of its own class; labels stay.
    np.testing.assert_array_equal(poisoned.labels[:40], original.labels)
    changed = np.flatnonzero((poisoned.images[:40] != original.images).any(axis=(1, 2, 3)))
    assert 5 <= len(changed) <= 10
    for index in changed:
        assert all(int(half[0, 0, 0]) % 4 == index % 4 for half in halves(poisoned.images[index]))
    np.testing.assert_array_equal(split.images, original.images)


def test_composed_test_images():
    attack = create_attack("cba", SHAPE)
    found = triggered_test_set(split_of(), attack, GOAL)
    assert found.labels.tolist() == [1] * 10
    assert found.targets.tolist() == [0] * 10
    assert found.others.tolist() == [2] * 10
    assert found.indices.tolist() == list(range(1, 40, 4))
    for index, image in zip(found.indices, found.images, strict=True):
        values = sorted((int(half[0, 0, 0]) for half in halves(image)), key=lambda value: value % 4)
        assert values[0] == index
        assert values[1] % 4 == 2
    # The same each time, so that rates before and after are of the same images.
    np.testing.assert_array_equal(triggered_test_set(split_of(), attack, GOAL).images, found.images)


@pytest.mark.parametrize(
    "options, goal, rate, key",
    [
        ({"first": 0}, GOAL, 0.1, r"attack\.cba"),
        ({"second": 4}, GOAL, 0.1, r"attack\.cba"),
        ({}, GOAL, 0.001, r"attack\.poison_rate"),
        ({}, GOAL._replace(mode="all_to_all"), 0.1, r"attack\.mode"),
    ],
)
def test_refusals_of_data(options, goal, rate, key):
    with pytest.raises(UserError, match=f"^{key}: "):
        poison(split_of(), create_attack("cba", SHAPE, options), goal, rate, seed=0)


@pytest.mark.parametrize("bad", [{"first": 2}, {"first": -1}, {"mix_rate": 1.5}])
def test_refusals(bad):
    with pytest.raises(UserError, match=r"^attack\.cba: found"):
        create_attack("cba", SHAPE, bad)
