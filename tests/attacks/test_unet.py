"""The network behind attacks that learn their trigger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.attacks.unet import apply_unet, convolve, init_unet


def test_convolution_by_hand():
    # Each pixel becomes its right neighbour plus one; beyond the edge there is 0.
    layer = {"kernel": jnp.zeros((3, 3, 1, 1)).at[1, 2].set(1.0), "bias": jnp.ones(1)}
    image = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, :, :, None]
    assert convolve(layer, image)[0, :, :, 0].tolist() == [[3, 4, 1], [6, 7, 1]]
    assert convolve(layer, image, stride=2).shape == (1, 1, 2, 1)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (7, 5)])
def test_any_size_and_each_image_for_itself(size):
    params = init_unet(np.random.default_rng(0), 2, 3, width=4, depth=2)
    images = jax.random.normal(jax.random.key(1), (3, *size, 2))
    apply = jax.jit(apply_unet)
    found = apply(params, images)
    assert found.shape == (3, *size, 3)
    np.testing.assert_allclose(apply(params, images[1:2]), found[1:2], rtol=1e-4, atol=1e-6)
    # A pixel is seen through the coarsest maps by others far from it.
    moved = apply(params, images.at[0, 0, 0].add(5.0)) - found
    assert float(jnp.abs(moved[0, 3, 3]).max()) > 0
    assert float(jnp.abs(moved[1:]).max()) == 0


def test_weights():
    params = init_unet(np.random.default_rng(0), 3, 1, width=16, depth=2)
    shapes = {name: layer["kernel"].shape for name, layer in params.items()}
    assert shapes == {
        "first": (3, 3, 3, 16),
        "down0": (3, 3, 16, 32),
        "down1": (3, 3, 32, 64),
        "up1": (3, 3, 96, 32),
        "up0": (3, 3, 48, 16),
        "last": (3, 3, 16, 1),
    }
    # He: sqrt(2 / (9 * 32)) = 0.0833; the last is a tenth, 0.1 sqrt(2 / (9 * 16)) = 0.0118.
    assert float(params["down1"]["kernel"].std()) == pytest.approx(0.0833, rel=0.03)
    assert float(params["last"]["kernel"].std()) == pytest.approx(0.0118, rel=0.2)
