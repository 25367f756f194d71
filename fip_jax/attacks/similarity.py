"""How much a trigger shows: SSIM, PSNR and the largest change of a pixel, of images in grey levels."""

import jax
import jax.numpy as jnp
import numpy as np

_SIGMA, _WINDOW = 1.5, 11


def ssim(images: jax.Array, others: jax.Array) -> jax.Array:
    """Mean structural similarity `[N]` of float32 images `[N, H, W, C]` in 0..255, at most 1; differentiable.

    Over all channels and all places where the window, a Gaussian of 11 x 11 pixels with deviation 1.5 (or what fits),
    lies in the image. Source: Wang et al. (2004), "Image quality assessment", IEEE TIP 13(4), eq. 13, K1 = 0.01, K2 =
    0.03.
    """
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def smooth(x):
        for axis in (1, 2):
            x = _along(x, axis)
        return x

    mean, other = smooth(images), smooth(others)
    variance, its = smooth(images**2) - mean**2, smooth(others**2) - other**2
    covariance = smooth(images * others) - mean * other
    above = (2 * mean * other + first) * (2 * covariance + second)
    below = (mean**2 + other**2 + first) * (variance + its + second)
    return (above / below).mean(axis=(1, 2, 3))


def _along(images: jax.Array, axis: int) -> jax.Array:
    """Weighted sums over windows along an axis."""
    size = min(_WINDOW, images.shape[axis])
    places = np.arange(size) - (size - 1) / 2
    weights = np.exp(-(places**2) / (2 * _SIGMA**2)).astype(np.float32)
    weights /= weights.sum()
    count = images.shape[axis] - size + 1
    parts = [jax.lax.slice_in_dim(images, at, at + count, axis=axis) for at in range(size)]
    return jnp.einsum("k,k...->...", jnp.asarray(weights), jnp.stack(parts))


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, float64 `[N]`, of uint8 images; infinite for equal ones."""
    difference = images.astype(np.float64) - others
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / np.square(difference).mean(axis=(1, 2, 3)))


def largest_change(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """l-infinity distance in grey levels, `[N]`, of uint8 images."""
    return np.abs(images.astype(np.int32) - others.astype(np.int32)).max(axis=(1, 2, 3))
