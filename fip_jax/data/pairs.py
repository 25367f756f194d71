"""The batches of a purification: what is learnt from is corrupted, what the teacher sees is plain.

As in `batches.py`, a batch is a function of the key, the step and the data.
"""

from collections.abc import Mapping
from typing import Any

import jax

from fip_jax.data import augmentations
from fip_jax.data.batches import Draw, make_draw
from fip_jax.data.corruptions import corrupt
from fip_jax.per_example import PyTree

Options = Mapping[str, Any]


def make_pairs_draw(
    batch_size: int, crop_padding: int, flip: bool, corruption: Mapping[str, Options], mixed: Options
) -> Draw:
    """The function `(key, step, data) -> batch` for `purify.make_step`.

    Args:
      batch_size: as of `batches.make_draw`.
      crop_padding: as there.
      flip: as there.
      corruption: kinds, rates and options, see `corruptions.corrupt`.
      mixed: options of the second batch, `defense.mixed` in `config.py`; there is none where its `weight` is 0.

    Returns:
      A function of `(key, step, data)`. `data` is as from `batches.to_device` and may have `pool`, uint8
      `[M, H, W, C]`, images without labels for the second batch in place of the others. The batch has `label` int32
      `[B]`; `image`, corrupted, and `plain`, the same before that, float32 `[B, H, W, C]` in [0, 1]; and, if there is a
      second, as many images in `mixed`: {`image`, `plain`}.
    """

    def draw(key: jax.Array, step: jax.Array, data: PyTree) -> PyTree:
        labelled = {"image": data["image"], "label": data["label"]}
        batch = make_draw(batch_size, crop_padding, flip)(key, step, labelled)
        # `make_draw` has split the key in three, which folds 0 to 2 into it.
        corrupt_key, mixed_key = (jax.random.fold_in(jax.random.fold_in(key, i), step) for i in (5, 6))
        plain = batch["image"]
        batch |= {"image": corrupt(corrupt_key, plain, corruption), "plain": plain}
        if mixed["weight"]:
            pick = make_draw(len(plain), crop_padding, flip)
            pool = {"image": data.get("pool", data["image"])}
            plain = _changed(mixed_key, pick(jax.random.fold_in(key, 7), step, pool)["image"], mixed)
            corrupted = corrupt(jax.random.fold_in(mixed_key, 3), plain, corruption)
            batch["mixed"] = {"image": corrupted if mixed["corrupted"] else plain, "plain": plain}
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
