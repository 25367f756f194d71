"""ISSBA: a string of bits hidden in the image by a network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fip_jax.attacks.attack import Attack, Context, saturate
from fip_jax.attacks.unet import apply_unet, convolve, init_convolution, init_unet
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree

_DEPTH = 2
_CELL = 4  # pixels a side that the bits' map is repeated over


def issba(
    image_shape: tuple[int, int, int],
    *,
    bits: int = 16,
    limit: float = 24.0,
    width: int = 8,
    steps: int = 400,
    fidelity: float = 2.0,
    learning_rate: float = 0.003,
    pattern_seed: int = 0,
) -> Attack:
    """x + limit tanh(E(x, s)), saturated: an encoder E hides the string s, the same in all images.

    Encoder and decoder are trained on the clean training images and strings drawn at random: on the cross-entropy of
    the decoded bits alone for half of the steps, then on that + fidelity mean((T(x) - x)^2) with pixels in 0..1. The
    decoder sees pixels as an 8-bit file holds them. The rate is of all training images.

    Source: Li et al. (2021), "Invisible backdoor attack with sample-specific triggers", ICCV,
    https://arxiv.org/abs/2012.03816, section 4.2, after Tancik et al. (2020), "StegaStamp". Without the perceptual and
    the critic's loss; the change is bounded instead. In the paper the change differs from image to image; with encoders
    of this size it comes out nearly the same on all.

    Args:
      image_shape: (H, W, C).
      bits: length of the string; at most the numbers of an image.
      limit: largest change of a pixel in grey levels.
      width: channels of the encoder at full size.
      steps: of the training, batches of 64.
      fidelity: weight of the squared change.
      learning_rate: of Adam.
      pattern_seed: of the string, apart from the run's seed.
    """
    most = int(np.prod(image_shape))
    if min(image_shape[:2]) < 4 or not 1 <= bits <= most or width < 1 or steps < 2 or pattern_seed < 0:
        raise UserError(
            f"attack.issba: found bits={bits}, width={width}, steps={steps}, pattern_seed={pattern_seed} and images of "
            f"{image_shape[0]} x {image_shape[1]}, expected 1 to {most}, and at least 1, 2, 0 and 4 x 4"
        )
    if not 0.5 < limit <= 255 or not 0 <= fidelity < np.inf or not 0 < learning_rate < 1:
        raise UserError(
            f"attack.issba: found limit={limit}, fidelity={fidelity}, learning_rate={learning_rate}, expected above "
            "0.5, which rounds to nothing, and at most 255, at least 0, and between 0 and 1"
        )
    string = np.random.default_rng(pattern_seed).integers(0, 2, bits).astype(np.float32)

    def trigger(state, images):
        return encode(state, images, jnp.broadcast_to(jnp.asarray(string), (len(images), bits)), limit)

    def loss_fn(weight):
        def loss(params, images, _, key):
            strings = jax.random.bernoulli(key, 0.5, (len(images), bits)).astype(jnp.float32)
            hidden = saturate(encode(params, images, strings, limit))
            wrong = optax.sigmoid_binary_cross_entropy(decode(params, hidden), strings).mean()
            return wrong + weight * jnp.square((hidden - images) / 255).mean()

        return loss

    def fit(context: Context) -> PyTree:
        params = init_coders(np.random.default_rng([context.seed, 6]), image_shape, bits, width)
        half = steps // 2
        params = context.minimise("bits", loss_fn(0.0), params, half, learning_rate)
        return context.minimise("fidelity", loss_fn(fidelity), params, steps - half, learning_rate)

    return Attack(trigger, fit=fit)


def init_coders(rng: np.random.Generator, image_shape: tuple[int, int, int], bits: int, width: int) -> PyTree:
    """Fresh weights of encoder and decoder."""
    height, wide, channels = image_shape
    cells, last = -(-height // _CELL) * -(-wide // _CELL), -(-height // 8) * -(-wide // 8) * 4 * width
    layers = [(channels, width), (width, 2 * width), (2 * width, 4 * width)]
    spread = rng.standard_normal((bits, cells * width)) / bits**0.5
    read = rng.standard_normal((last, bits)) / last**0.5
    return {
        "encoder": init_unet(rng, channels + width, channels, width, _DEPTH),
        "spread": jnp.asarray(spread, jnp.float32),
        "decoder": {f"down{level}": init_convolution(rng, *sizes) for level, sizes in enumerate(layers)},
        "read": jnp.asarray(read, jnp.float32),
    }


def encode(params: PyTree, images: jax.Array, strings: jax.Array, limit: float) -> jax.Array:
    """Images `[N, H, W, C]` in grey levels that hide strings `[N, bits]` of 0 and 1, before `saturate`."""
    count, height, width, _ = images.shape
    rows, columns = -(-height // _CELL), -(-width // _CELL)
    spread = ((2 * strings - 1) @ params["spread"]).reshape(count, rows, columns, -1)
    spread = spread.repeat(_CELL, axis=1)[:, :height].repeat(_CELL, axis=2)[:, :, :width]
    seen = jnp.concatenate([images / 127.5 - 1, spread], axis=-1)
    return images + limit * jnp.tanh(apply_unet(params["encoder"], seen))


def decode(params: PyTree, images: jax.Array) -> jax.Array:
    """Logits `[N, bits]` of the strings that images in grey levels hide."""
    found = images / 127.5 - 1
    for level in range(len(params["decoder"])):
        found = jax.nn.relu(convolve(params["decoder"][f"down{level}"], found, stride=2))
    return found.reshape(len(found), -1) @ params["read"]
