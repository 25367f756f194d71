"""A victim and its data as PNG files with an index, so that other programs can work on the same."""

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fip_jax.attacks.attack import TriggeredSet
from fip_jax.data.split import Split
from fip_jax.export import as_safetensors
from fip_jax.material import Material
from fip_jax.progress import Task
from fip_jax.suspect import Suspect
from fip_jax.workdir import write_whole

INDEX = "index.csv"


class _File(NamedTuple):
    """An image, and its row of `index.csv`."""

    image: np.ndarray
    folder: str
    number: int
    split: str
    kind: str
    label: int
    attack_label: int

    @property
    def row(self) -> dict[str, str | int]:
        return {
            "path": f"{self.folder}/{self.label}/{self.number}.png",
            "split": self.split,
            "index": self.number if self.split else "",
            "kind": self.kind,
            "label": self.label,
            "attack_label": self.attack_label,
        }


def export_poisoned(folder: Path, material: Material, victim: Suspect) -> None:
    """Writes a folder, whole or not at all, unless it is there.

    Images lie at `FOLDER/LABEL/NUMBER.png`, by their true label. The folders: `bd_train_dataset` and `bd_test_dataset`,
    as of BackdoorBench, have the changed images alone; `clean_train_dataset` the victim's training images that were
    left as they are; `clean_test_dataset` all test images; `defender_dataset` the defender's, which were held out.
    `index.csv` has a row for each file: path; split and index, from 0, of the image in the data set as fip_jax reads
    it, which is TFDS's order and not that of the archives; kind (trigger; cover: changed without the trigger; clean);
    label; attack_label (what the victim is taught, or to say). Split and index are empty where they are not known, and
    for images that an attack adds to the training set, whose label is -1. `victim.safetensors` has the weights by
    PyTorch's names, unless the network came in a file.

    Args:
      folder: where to.
      material: with triggered test images; training images are left out where the poisoned ones are not known.
      victim: the suspicious network.
    """
    if folder.exists():
        return
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    if victim.foreign is None:
        write_whole(draft / "victim.safetensors", as_safetensors(victim))
    files = list(_files(material))
    with (
        (draft / INDEX).open("w", newline="", encoding="utf-8") as index,
        Task("write images", len(files), brief=True) as task,
    ):
        writer = csv.DictWriter(index, files[0].row)
        writer.writeheader()
        for count, file in enumerate(files, 1):
            path = draft / str(file.row["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(file.image.squeeze(-1) if file.image.shape[-1] == 1 else file.image).save(path)
            writer.writerow(file.row)
            task.update(count)
        index.flush()
        os.fsync(index.fileno())
    draft.rename(folder)


def _files(material: Material) -> Iterator[_File]:
    if material.unpoisoned is not None and material.training is not None and material.poisoned is not None:
        yield from _training(material.unpoisoned, material.training, material.poisoned)
    if material.triggered is not None:
        yield from _triggered(material.triggered, material.test, material.splits[1])
    for split, folder, name in (
        (material.test, "clean_test_dataset", material.splits[1]),
        (material.clean, "defender_dataset", material.splits[0]),
    ):
        for image, place, label in zip(split.images, split.places, split.labels, strict=True):
            yield _File(image, folder, place, name, "clean", label, label)


def _training(clean: Split, poisoned: Split, chosen: np.ndarray) -> Iterator[_File]:
    total = len(clean.labels)
    triggered = set(chosen.tolist())
    changed = (poisoned.images[:total] != clean.images).any(axis=(1, 2, 3))
    places = zip(clean.places, clean.labels, poisoned.labels[:total], strict=True)
    for at, (place, label, attack_label) in enumerate(places):
        kind = "trigger" if at in triggered else "cover" if changed[at] else "clean"
        folder = "clean_train_dataset" if kind == "clean" else "bd_train_dataset"
        yield _File(poisoned.images[at], folder, place, "train", kind, label, attack_label)
    for number, image in enumerate(poisoned.images[total:]):
        attack_label = poisoned.labels[total + number]
        yield _File(image, "bd_train_dataset", number, "", "trigger", -1, attack_label)


def _triggered(triggered: TriggeredSet, test: Split, name: str) -> Iterator[_File]:
    # Triggered images that came with a network say nothing of where they are from.
    known = triggered.indices is not None
    places = test.places[triggered.indices] if known else np.arange(len(triggered.labels))
    columns = zip(triggered.images, places, triggered.labels, triggered.targets, strict=True)
    for image, place, label, target in columns:
        yield _File(image, "bd_test_dataset", place, name if known else "", "trigger", label, target)
