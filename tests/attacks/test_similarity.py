"""How much a trigger shows, by hand and against loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.attacks.similarity import largest_change, psnr, ssim

rng = np.random.default_rng(0)


def test_ssim_of_flat_images_by_hand():
    # No variance: (2 * 100 * 120 + C1) / (100^2 + 120^2 + C1) with C1 = 2.55^2 = 6.5025.
    ones, others = jnp.full((1, 16, 16, 3), 100.0), jnp.full((1, 16, 16, 3), 120.0)
    assert float(ssim(ones, ones)[0]) == pytest.approx(1, abs=1e-5)
    assert float(ssim(ones, others)[0]) == pytest.approx(24006.5025 / 24406.5025, abs=1e-4)


@pytest.mark.parametrize("shape", [(12, 15, 1), (8, 9, 3)])
def test_ssim_as_loops(shape):
    first, second = rng.integers(0, 256, (2, *shape)).astype(np.float64)
    second = np.rint(0.8 * first + 0.2 * second)
    height, width = min(11, shape[0]), min(11, shape[1])

    def bell(size):
        values = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / 4.5)
        return values / values.sum()

    window = np.outer(bell(height), bell(width))
    found = []
    for row in range(shape[0] - height + 1):
        for column in range(shape[1] - width + 1):
            for channel in range(shape[2]):
                a, b = (x[row : row + height, column : column + width, channel] for x in (first, second))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                both = (window * (a - ma) * (b - mb)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                found.append((2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    result = ssim(jnp.asarray(first[None], jnp.float32), jnp.asarray(second[None], jnp.float32))
    assert float(result[0]) == pytest.approx(np.mean(found), abs=1e-4)


def test_psnr_and_largest_change_by_hand():
    ones = np.full((2, 4, 4, 3), 250, np.uint8)
    others = ones.copy()
    others[0] -= 10  # 20 log10(255 / 10)
    others[1, 0, 0, 0] = 5
    assert psnr(ones, others)[0] == pytest.approx(28.1308, abs=1e-4)
    assert psnr(ones, ones).tolist() == [np.inf, np.inf]
    assert largest_change(ones, others).tolist() == [10, 245]
