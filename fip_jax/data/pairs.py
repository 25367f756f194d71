"""The batches of a purification: what is learnt from is corrupted, what the teacher sees is plain.

As in `batches.py`, a batch is a function of the key, the step and the data.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fip_jax.data import augmentations
from fip_jax.data.batches import Draw, make_draw
from fip_jax.data.corruptions import KINDS, corrupt, stamped
from fip_jax.per_example import PyTree

Options = Mapping[str, Any]


def make_pairs_draw(
    batch_size: int,
    crop_padding: int,
    flip: bool,
    corruption: Mapping[str, Options],
    mixed: Options,
    constructed: float = 0.0,
) -> Draw:
    """The function `(key, step, data) -> batch` for `purify.make_step`.

    Args:
      batch_size: as of `batches.make_draw`.
      crop_padding: as there.
      flip: as there.
      corruption: kinds, rates and options, see `corruptions.corrupt`.
      mixed: options of the second batch, `defense.mixed` in `config.py`; there is none where its `weight` is 0.
      constructed: share of the corrupted images that have one of `data["triggers"]` instead, if there are any.

    Returns:
      A function of `(key, step, data)`. `data` is as from `batches.to_device` and may have `pool`, uint8
      `[M, H, W, C]`, images without labels for the second batch in place of the others, and `triggers`, {`mask`,
      `pattern`} as of `inversion.Triggers`. The batch has `label` int32 `[B]`; `image`, corrupted, and `plain`, the
      same before that, float32 `[B, H, W, C]` in [0, 1]; and, if there is a second, as many images in `mixed`:
      {`image`, `plain`}.
    """

    def corrupted(key: jax.Array, plain: jax.Array, data: PyTree) -> jax.Array:
        images = corrupt(key, plain, corruption)
        if "triggers" not in data:
            return images
        own, choice = jax.random.split(jax.random.fold_in(key, len(KINDS) + 1))
        chosen = jax.random.bernoulli(choice, constructed, (len(plain), 1, 1, 1))
        return jnp.where(chosen, stamped(own, plain, **data["triggers"]), images)

    def draw(key: jax.Array, step: jax.Array, data: PyTree) -> PyTree:
        labelled = {"image": data["image"], "label": data["label"]}
        batch = make_draw(batch_size, crop_padding, flip)(key, step, labelled)
        # `make_draw` has split the key in three, which folds 0 to 2 into it.
        corrupt_key, mixed_key = (jax.random.fold_in(jax.random.fold_in(key, i), step) for i in (5, 6))
        plain = batch["image"]
        batch |= {"image": corrupted(corrupt_key, plain, data), "plain": plain}
        if mixed["weight"]:
            pick = make_draw(len(plain), crop_padding, flip)
            pool = {"image": data.get("pool", data["image"])}
            plain = _changed(mixed_key, pick(jax.random.fold_in(key, 7), step, pool)["image"], mixed)
            images = plain
            if mixed["corrupted"]:
                images = corrupted(jax.random.fold_in(mixed_key, 3), plain, data)
            batch["mixed"] = {"image": images, "plain": plain}
        return batch

    return draw


def _changed(key: jax.Array, images: jax.Array, options: Options) -> jax.Array:
    """Images moved, in other light, and mixed."""
    keys = jax.random.split(key, 3)
    moved = augmentations.affine(
        keys[0], images, options["turn"], options["zoom"], options["shift"], options["shear"]
    )
    lit = augmentations.light(keys[1], moved, options["brightness"], options["contrast"])
    return augmentations.mix(keys[2], lit, options["mixup"], options["cutmix"])
