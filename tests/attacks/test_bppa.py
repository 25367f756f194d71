"""Quantised colours, by hand and against Floyd and Steinberg written as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.attacks import create_attack
from fip_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)


def stamp(images, **options):
    return create_attack("bppa", images.shape[1:], options).stamp(images)


def test_levels_by_hand():
    # Two bits: 0, 85, 170, 255; the borders between them are 42.5, 127.5 and 212.5.
    row = np.array([0, 42, 43, 127, 128, 212, 213, 255], np.uint8)
    found = stamp(np.broadcast_to(row[None, None, :, None], (1, 2, 8, 3)), bits=2)
    assert found[0, 0, :, 0].tolist() == [0, 0, 85, 85, 170, 170, 255, 255]


def test_dithering_by_hand():
    # One bit. 100 -> 0 leaves 100: 43.75 to the right, 31.25 below, 6.25 below right. 100 + 43.75 -> 255 leaves
    # -111.25: 3/16 of it below left, 5/16 below. Then 100 + 31.25 - 20.859 = 110.39 -> 0, and 100 + 6.25 - 34.77 +
    # 48.30 = 119.8.
    image = np.full((1, 2, 2, 1), 100, np.uint8)
    assert stamp(image, bits=1, dither=True)[0, ..., 0].tolist() == [[0, 255], [0, 0]]


@pytest.mark.parametrize("bits", [1, 3])
def test_dithering_as_loops(bits):
    step = 255 / (2**bits - 1)
    wanted = IMAGES.astype(np.float64)
    for y in range(5):
        for x in range(7):
            old = wanted[:, y, x].copy()
            wanted[:, y, x] = np.clip(np.rint(old / step), 0, 2**bits - 1) * step
            for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + down < 5 and 0 <= x + right < 7:
                    wanted[:, y + down, x + right] += (old - wanted[:, y, x]) * share / 16
    np.testing.assert_array_equal(stamp(IMAGES, bits=bits, dither=True), np.rint(wanted))


def test_negative_samples_carry_the_residual_of_another_image():
    attack = create_attack("bppa", (5, 7, 3), {})
    images = jnp.asarray(IMAGES, jnp.float32)
    residual = attack.stamp(IMAGES).astype(int) - IMAGES
    found = attack.cover(None, images, jax.random.key(0))
    np.testing.assert_array_equal(found, IMAGES + residual[::-1])
    # An image alone has no other: it stays as it is.
    np.testing.assert_array_equal(attack.cover(None, images[:1], jax.random.key(0)), images[:1])


@pytest.mark.parametrize("bad", [{"bits": 0}, {"bits": 8}, {"negative_rate": -0.5}])
def test_refusals(bad):
    with pytest.raises(UserError, match=r"^attack\.bppa: found"):
        create_attack("bppa", (8, 8, 3), bad)
