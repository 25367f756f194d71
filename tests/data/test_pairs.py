"""What the student and the teacher are shown: the same images, corrupted and plain, and a second batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.config import default_config
from fip_jax.data.batches import make_draw, to_device
from fip_jax.data.pairs import make_pairs_draw

KEY = jax.random.key(0)


def data(num=12, size=8):
    rng = np.random.default_rng(0)
    return to_device(rng.integers(1, 256, (num, size, size, 3)), np.arange(num))


def options(**mixed):
    defense = default_config().defense
    return defense.corruption.to_dict(), defense.mixed.to_dict() | mixed


STILL = dict.fromkeys(("turn", "zoom", "shift", "shear", "brightness", "contrast", "mixup", "cutmix"), 0.0)


def test_the_plain_images_are_those_of_the_usual_draw():
    draw, usual = make_pairs_draw(4, 1, True, *options()), make_draw(4, 1, True)
    found, expected = draw(KEY, jnp.int32(3), data()), usual(KEY, jnp.int32(3), data())
    np.testing.assert_array_equal(found["plain"], expected["image"])
    np.testing.assert_array_equal(found["label"], expected["label"])
    assert (found["image"] != found["plain"]).any()


def test_a_batch_is_a_function_of_key_and_step():
    draw = jax.jit(make_pairs_draw(4, 1, True, *options()))
    batch = draw(KEY, jnp.int32(7), data())
    jax.tree.map(np.testing.assert_array_equal, batch, draw(KEY, jnp.int32(7), data()))
    for other in (draw(KEY, jnp.int32(8), data()), draw(jax.random.key(1), jnp.int32(7), data())):
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(other), strict=True):
            assert (a != b).any()


@pytest.mark.parametrize("corrupted", [True, False])
def test_the_students_second_batch_is_corrupted_where_asked_for(corrupted):
    found = make_pairs_draw(8, 1, False, *options(corrupted=corrupted))(KEY, jnp.int32(0), data())["mixed"]
    assert (found["image"] != found["plain"]).any() == corrupted
    assert found["plain"].shape == (8, 8, 8, 3)
    for images in found.values():
        assert 0 <= images.min() <= images.max() <= 1


def test_no_second_batch_without_a_weight():
    assert "mixed" not in make_pairs_draw(8, 1, False, *options(weight=0.0))(KEY, jnp.int32(0), data())


@pytest.mark.parametrize("num, size", [(12, 6), (4, 4)])
def test_the_second_batch_is_drawn_from_the_pool(num, size):
    """As large as the first, also where the clean images are fewer than a batch."""
    # Image n of the pool is n everywhere.
    numbers = jnp.arange(1, 41, dtype=jnp.uint8)[:, None, None, None]
    clean, pool = data(num), jnp.broadcast_to(numbers, (40, 8, 8, 3))
    draw = jax.jit(make_pairs_draw(6, 0, False, *options(corrupted=False, **STILL)))
    seen = set()
    for step in range(20):
        batch = draw(KEY, jnp.int32(step), clean | {"pool": pool})
        second = np.asarray(batch["mixed"]["plain"])
        assert len(second) == len(batch["label"]) == size
        values = np.rint(255 * second[:, 0, 0, 0]).astype(int)
        np.testing.assert_allclose(
            255 * second, np.broadcast_to(values[:, None, None, None], second.shape), atol=1e-2
        )
        seen |= set(values)
    assert seen <= set(range(1, 41))
    assert len(seen) > 30
