"""WaNet: a smooth warp of the whole image."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.attack import Attack
from fip_jax.errors import UserError


def wanet(
    image_shape: tuple[int, int, int],
    *,
    grid_size: int = 4,
    strength: float = 0.5,
    cover_rate: float = 2.0,
    pattern_seed: int = 0,
) -> Attack:
    """Moves every pixel along a fixed smooth field: bilinear sampling at clip(identity + strength P / (H, W), -1, 1).

    P is uniform noise over grid_size x grid_size points, divided by its mean absolute value and interpolated
    bicubically to the image. Cover images ("noise mode") are warped by a field with other noise, U(-1, 1) / (H, W) in
    every pixel, on top, and keep their labels. Every batch is poisoned anew; the rate is that of poisoned images in a
    batch.

    Source: Nguyen and Tran (2021), "WaNet: Imperceptible warping-based backdoor attack", ICLR,
    https://arxiv.org/abs/2102.10369, eqs. 4 to 8.

    Args:
      image_shape: (H, W, C).
      grid_size: points of the noise each way, from 2 to the number of pixels.
      strength: of the warp; 1 moves a pixel by half a pixel on average.
      cover_rate: cover images for each poisoned one.
      pattern_seed: of the field, apart from the run's seed.
    """
    height, width, _ = image_shape
    largest = min(height, width)
    sound = 0 < strength < np.inf and 0 <= cover_rate < np.inf and pattern_seed >= 0
    if not 2 <= grid_size <= largest or not sound:
        raise UserError(
            f"attack.wanet: found grid_size={grid_size}, strength={strength}, cover_rate={cover_rate}, "
            f"pattern_seed={pattern_seed}, expected 2 to {largest}, above 0, and at least 0 for the others"
        )
    sizes = np.array([height, width], np.float32)
    noise = np.random.default_rng(pattern_seed).uniform(-1, 1, (grid_size, grid_size, 2))
    field = upsample(noise / np.abs(noise).mean(), height, width)
    identity = np.stack(
        np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"), axis=-1
    )
    grid = np.clip(identity + strength * field / sizes, -1, 1).astype(np.float32)

    def trigger(_, images):
        return jax.vmap(sample, in_axes=(0, None))(images, jnp.asarray(grid))

    def cover(_, images, key):
        # Drawn flat: XLA's CPU backend compiles a draw in four dimensions for ten times as long.
        noise = jax.random.uniform(key, (len(images), height * width * 2), minval=-1, maxval=1)
        moved = noise.reshape(-1, height, width, 2) / sizes.reshape(1, 1, 1, 2)
        noisy = jnp.asarray(grid)[None] + moved
        return jax.vmap(sample)(images, jnp.clip(noisy, -1, 1))

    return Attack(trigger, every_batch=True, cover=cover, cover_rate=cover_rate)


def sample(image: jax.Array, grid: jax.Array) -> jax.Array:
    """An image `[H, W, C]` at the points (row, column) of `grid` `[H, W, 2]`, -1 and 1 being the outermost pixels.

    Bilinear. As PyTorch's `grid_sample` with `align_corners=True`, whose grid has the column first.
    """
    height, width, _ = image.shape
    at = [(grid[..., axis] + 1) / 2 * (size - 1) for axis, size in enumerate((height, width))]

    def channel(plane):
        return jax.scipy.ndimage.map_coordinates(plane, at, order=1, mode="nearest")

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


def upsample(noise: np.ndarray, height: int, width: int) -> np.ndarray:
    """`[k, k, 2]` interpolated bicubically to `[height, width, 2]`, the corners on the corners.

    By cubic convolution with a = -0.75 and the border repeated, as in PyTorch.
    """
    rows, columns = (_cubic(len(noise), size) for size in (height, width))
    return np.einsum("hi,wj,ijc->hwc", rows, columns, noise)


def _cubic(points: int, size: int) -> np.ndarray:
    """The weights `[size, points]` of the interpolation along one axis."""
    a = -0.75
    weights = np.zeros((size, points))
    for row, at in enumerate(np.linspace(0, points - 1, size)):
        first = int(np.floor(at)) - 1
        for index in range(first, first + 4):
            d = abs(at - index)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[row, min(max(index, 0), points - 1)] += near if d <= 1 else far if d < 2 else 0
    return weights
