"""Values between pixels against SciPy's."""

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from fip_jax.data.bilinear import pixel_centres, sample

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(size=(6, 9, 12, 3)), jnp.float32)


def test_values_between_pixels_and_outside():
    rows, columns = RNG.uniform(-2, 11, (6, 9, 12)), RNG.uniform(-2, 14, (6, 9, 12))
    places = (jnp.asarray((x + 0.5) / side - 0.5, jnp.float32) for x, side in ((rows, 9), (columns, 12)))
    found = sample(IMAGES, *places)
    for n, channel in np.ndindex(6, 3):
        expected = ndimage.map_coordinates(
            np.asarray(IMAGES)[n, :, :, channel], [rows[n], columns[n]], order=1, mode="nearest"
        )
        np.testing.assert_allclose(found[n, :, :, channel], expected, atol=1e-5)


def test_at_the_pixels_nothing_changes():
    rows, columns = pixel_centres(IMAGES)
    np.testing.assert_allclose(rows[0, :, 0], np.arange(-4, 5) / 9, atol=1e-6)
    found = sample(IMAGES, rows + 0 * columns, columns + 0 * rows)
    np.testing.assert_allclose(found, IMAGES, atol=1e-5)
