"""Poisoned images as PNG files with an index, so that other programs can work on the same victim."""

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fip_jax.attacks.attack import TriggeredSet
from fip_jax.data.split import Split

INDEX = "index.csv"
COLUMNS = ("path", "set", "index", "kind", "label", "attack_label")


def export_poisoned(
    folder: Path,
    triggered: TriggeredSet,
    clean: Split | None = None,
    poisoned: Split | None = None,
    chosen: np.ndarray | None = None,
) -> None:
    """Writes a folder, whole or not at all, unless it is there.

    The layout is BackdoorBench's: `bd_train_dataset/LABEL/INDEX.png` and `bd_test_dataset/LABEL/INDEX.png`, with the
    true label and the index in the clean set. `index.csv` has a row for each file: path, set (train or test), index,
    kind (trigger, or cover: changed without the trigger), label, attack_label (what the victim is taught, or to say).

    An image that an attack adds to the training set has the label -1 and an index behind the last of the clean ones.

    Args:
      folder: where to.
      triggered: triggered test images; where their indices are not known they are counted from 0.
      clean: training images before they were poisoned, or None where the victim was not trained here.
      poisoned: the same afterwards.
      chosen: indices of those with the trigger.
    """
    if folder.exists():
        return
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    rows: list[tuple[np.ndarray, dict]] = []
    if clean is not None and poisoned is not None and chosen is not None:
        rows += _training_rows(clean, poisoned, chosen)
    rows += _test_rows(triggered)
    with (draft / INDEX).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for image, row in rows:
            path = draft / row["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)
            writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder)


def _test_rows(triggered: TriggeredSet) -> Iterator[tuple[np.ndarray, dict]]:
    indices = range(len(triggered.labels)) if triggered.indices is None else triggered.indices
    for image, label, target, index in zip(
        triggered.images, triggered.labels, triggered.targets, indices, strict=True
    ):
        yield image, _row("test", index, "trigger", label, target)


def _training_rows(clean: Split, poisoned: Split, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, dict]]:
    total = len(clean.labels)
    changed = (poisoned.images[:total] != clean.images).any(axis=(1, 2, 3))
    cover = np.setdiff1d(np.flatnonzero(changed), chosen)
    for kind, indices in (("trigger", chosen), ("cover", cover)):
        for index in indices:
            label = clean.labels[index] if index < total else -1
            yield poisoned.images[index], _row("train", index, kind, label, poisoned.labels[index])


def _row(where: str, index: int, kind: str, label: int, attack_label: int) -> dict:
    path = f"bd_{where}_dataset/{label}/{index}.png"
    return dict(zip(COLUMNS, (path, where, index, kind, label, attack_label), strict=True))
