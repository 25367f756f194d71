"""A small image-to-image network for attacks that learn their trigger, as a pure function of a nested dict."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax import convolution, parallel
from fip_jax.per_example import PyTree


def init_unet(rng: np.random.Generator, channels: int, outputs: int, width: int, depth: int) -> PyTree:
    """Fresh weights: He-normal, the last layer a tenth of that, so that its outputs start small.

    Args:
      rng: of the weights.
      channels: of the input.
      outputs: channels of the output.
      width: channels at full size; every halving of the size doubles them.
      depth: how often the size is halved.
    """
    widths = [width * 2**level for level in range(depth + 1)]
    shapes = {"first": (channels, width), "last": (width, outputs)}
    for level in range(depth):
        shapes[f"down{level}"] = (widths[level], widths[level + 1])
        shapes[f"up{level}"] = (widths[level] + widths[level + 1], widths[level])
    return {
        name: init_convolution(rng, *shape, 0.1 if name == "last" else 1.0) for name, shape in shapes.items()
    }


def apply_unet(params: PyTree, images: jax.Array) -> jax.Array:
    """`[N, H, W, outputs]` for `[N, H, W, channels]`; each image for itself, any H and W.

    Sizes are halved by strided 3x3 convolutions, rounding up. On the way back the maps are doubled by repetition, cut
    to size, and joined with those of the way down.
    """
    depth = sum(name.startswith("down") for name in params)
    found = jax.nn.relu(convolve(params["first"], images))
    skipped = []
    for level in range(depth):
        skipped.append(found)
        found = jax.nn.relu(convolve(params[f"down{level}"], found, stride=2))
    for level in reversed(range(depth)):
        other = skipped[level]
        _, height, width, _ = other.shape
        doubled = found.repeat(2, axis=1)[:, :height].repeat(2, axis=2)[:, :, :width]
        found = jax.nn.relu(convolve(params[f"up{level}"], jnp.concatenate([other, doubled], axis=-1)))
    return convolve(params["last"], found)


def convolve(layer: PyTree, images: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution with a bias; the output is `ceil(size / stride)` each way."""
    found = convolution.for_batches(parallel.platform_of(None))(
        images, layer["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return found + layer["bias"][None, None, None]


def init_convolution(rng: np.random.Generator, inputs: int, outputs: int, gain: float = 1.0) -> PyTree:
    """Weights of a 3x3 convolution, normal with deviation gain sqrt(2 / (9 inputs)), and biases of 0."""
    scale = gain * (2 / (9 * inputs)) ** 0.5
    kernel = scale * rng.standard_normal((3, 3, inputs, outputs), np.float32)
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(outputs)}
