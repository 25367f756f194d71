"""Batches drawn and augmented on the device, from a data set that lies there whole.

Nothing here keeps a position: the batch of step k is a function of the key, k and the data, so a run that
starts again at step k draws what it would have drawn.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fip_jax.per_example import PyTree, num_examples

Draw = Callable[[jax.Array, jax.Array, PyTree], PyTree]  # (key, step, data) -> batch


def to_device(images, labels) -> dict[str, jax.Array]:
    """`{"image": uint8 [N, H, W, C], "label": int32 [N]}` on the default device."""
    return {"image": jnp.asarray(images, jnp.uint8), "label": jnp.asarray(labels, jnp.int32)}


def to_unit(images: jax.Array) -> jax.Array:
    """uint8 images as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def batch_indices(key: jax.Array, step: jax.Array, total: int, batch_size: int) -> jax.Array:
    """Indices `[batch_size]` of the batch of a step.

    Every epoch is a fresh permutation; what does not fill a last batch is left out of that epoch.
    """
    batches_per_epoch = total // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, step // batches_per_epoch), total)
    return jax.lax.dynamic_slice(order, ((step % batches_per_epoch) * batch_size,), (batch_size,))


def make_draw(batch_size: int, crop_padding: int = 0, flip: bool = False) -> Draw:
    """The function `(key, step, data) -> batch` for `purify.make_step`.

    Args:
      batch_size: examples in a batch; a smaller data set gives batches of its own size.
      crop_padding: pixels of zero padding on each side, out of which a window is cut at random.
      flip: whether to mirror half of the images.

    Returns:
      A function of `(key, step, data)`, with `data` as from `to_device`, giving float32 images in [0, 1].
    """

    def draw(key: jax.Array, step: jax.Array, data: PyTree) -> PyTree:
        total = num_examples(data)
        order_key, crop_key, flip_key = jax.random.split(key, 3)
        indices = batch_indices(order_key, step, total, min(batch_size, total))
        batch = jax.tree.map(lambda leaf: leaf[indices], data)
        images = batch["image"]
        if crop_padding:
            images = random_crop(jax.random.fold_in(crop_key, step), images, crop_padding)
        if flip:
            mirrored = jax.random.bernoulli(jax.random.fold_in(flip_key, step), 0.5, (len(images), 1, 1, 1))
            images = jnp.where(mirrored, images[:, :, ::-1], images)
        return {**batch, "image": to_unit(images)}

    return draw


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Images `[N, H, W, C]` shifted by up to `padding` pixels each way, zeros coming in from outside."""
    shape = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (shape[0], 2), 0, 2 * padding + 1)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), shape[1:]))(
        padded, corners
    )
