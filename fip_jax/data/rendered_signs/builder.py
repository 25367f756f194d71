"""The TensorFlow Datasets builder of the rendered signs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from PIL import Image

from fip_jax.data.rendered_signs.scene import IMAGE_SIZE, render
from fip_jax.data.rendered_signs.signs import CLASS_NAMES

SPLIT_SIZES = {"train": 12_000, "test": 3_000}
SEED = 43

_SPLIT_KEYS = {"train": 0, "test": 1}


def example(split: str, index: int, seed: int = SEED) -> tuple[NDArray[np.uint8], int]:
    """Image `index` (from 0) of `split` ("train" or "test") as uint8 [32, 32, 3], and its label (0..42).

    The labels take turns, so that every run of consecutive examples is balanced.
    """
    label = index % len(CLASS_NAMES)
    return render(label, np.random.default_rng([seed, _SPLIT_KEYS[split], index])), label


def _png(image: NDArray[np.uint8]) -> bytes:
    """The image as a PNG file; TFDS would need TensorFlow to encode an array itself."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class RenderedSigns(tfds.core.GeneratorBasedBuilder):
    """Traffic signs of the 43 GTSRB classes, drawn in code: 12,000 train and 3,000 test images."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads a plain class attribute)

    def _info(self) -> tfds.core.DatasetInfo:
        """Features: `image` uint8 [32, 32, 3] and `label` int in 0..42."""
        return self.dataset_info_from_configs(
            description="Rendered photographs of traffic signs in the 43 classes of GTSRB.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        """One generator a split; nothing is downloaded."""
        return {split: self._generate_examples(split, size) for split, size in SPLIT_SIZES.items()}

    def _generate_examples(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield `size` examples in order, keyed by their index."""
        for index in range(size):
            image, label = example(split, index)
            yield index, {"image": _png(image), "label": label}
