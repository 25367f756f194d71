"""A victim and its images as files: what is written, and what another program reads."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fip_jax.attacks.attack import TriggeredSet
from fip_jax.attacks.export import export_poisoned
from fip_jax.data.split import Split
from fip_jax.material import Material

rng = np.random.default_rng(0)
FROM_A_FILE = SimpleNamespace(foreign="suspicious.pth")  # a network that the user has


def split_of(labels, channels=3):
    images = rng.integers(0, 256, (len(labels), 5, 6, channels), dtype=np.uint8)
    return Split(images, np.array(labels, np.int32))


def read(folder):
    """{path: row of the index}."""
    with (folder / "index.csv").open(newline="") as file:
        return {row.pop("path"): row for row in csv.DictReader(file)}


def row(*values):
    return dict(zip(("split", "index", "kind", "label", "attack_label"), map(str, values), strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_files_and_index(channels, tmp_path):
    train, test = split_of([2, 1, 0, 1, 2, 0], channels), split_of([0, 1, 2], channels)
    clean = train.take(np.array([1, 2, 3, 5])).take(np.array([0, 1, 2]))  # 1, 2 and 3 of six
    images = np.concatenate([clean.images, clean.images[:1] // 2])
    images[0], images[2] = 255 - images[0], 255 - images[2]
    # The first has the trigger, the third is cover, the last was added.
    poisoned = Split(images, np.array([0, 0, 1, 0], np.int32))
    triggered = TriggeredSet(255 - test.images[1:], test.labels[1:], np.array([0, 0]), np.array([1, 2]))
    material = Material(
        training=poisoned,
        clean=train.take(np.array([0, 4])),
        test=test,
        triggered=triggered,
        class_names=("a", "b", "c"),
        poisoned=np.array([0, 3]),
        unpoisoned=clean,
    )
    export_poisoned(tmp_path / "poisoned", material, FROM_A_FILE)

    expected = {
        "bd_train_dataset/1/1.png": (images[0], row("train", 1, "trigger", 1, 0)),
        "clean_train_dataset/0/2.png": (images[1], row("train", 2, "clean", 0, 0)),
        "bd_train_dataset/1/3.png": (images[2], row("train", 3, "cover", 1, 1)),
        "bd_train_dataset/-1/0.png": (images[3], row("", "", "trigger", -1, 0)),
        "bd_test_dataset/1/1.png": (triggered.images[0], row("test", 1, "trigger", 1, 0)),
        "bd_test_dataset/2/2.png": (triggered.images[1], row("test", 2, "trigger", 2, 0)),
        "clean_test_dataset/0/0.png": (test.images[0], row("test", 0, "clean", 0, 0)),
        "clean_test_dataset/1/1.png": (test.images[1], row("test", 1, "clean", 1, 1)),
        "clean_test_dataset/2/2.png": (test.images[2], row("test", 2, "clean", 2, 2)),
        "defender_dataset/2/0.png": (train.images[0], row("train", 0, "clean", 2, 2)),
        "defender_dataset/2/4.png": (train.images[4], row("train", 4, "clean", 2, 2)),
    }
    assert read(tmp_path / "poisoned") == {path: values for path, (_, values) in expected.items()}
    for path, (image, _) in expected.items():
        found = np.asarray(Image.open(tmp_path / "poisoned" / path))
        np.testing.assert_array_equal(found.reshape(image.shape), image)
    files = {str(p.relative_to(tmp_path / "poisoned")) for p in (tmp_path / "poisoned").rglob("*.*g")}
    assert files == set(expected)


def test_triggered_images_that_came_with_a_network(tmp_path):
    images = TriggeredSet(np.zeros((2, 4, 4, 3), np.uint8), np.array([3, 3]), np.array([0, 0]), None)
    material = Material(None, split_of([0]), split_of([1]), images, ("a", "b", "c", "d"))
    (tmp_path / ".poisoned.draft").mkdir()  # of a start that was killed
    (tmp_path / ".poisoned.draft" / "old.png").touch()
    export_poisoned(tmp_path / "poisoned", material, FROM_A_FILE)
    assert {row["split"] for row in read(tmp_path / "poisoned").values()} == {"", "train", "test"}
    own = {"clean_test_dataset/1/0.png", "defender_dataset/0/0.png"}
    expected = {"bd_test_dataset/3/0.png", "bd_test_dataset/3/1.png"} | own
    assert set(read(tmp_path / "poisoned")) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["poisoned"]
    assert not (tmp_path / "poisoned" / "old.png").exists()
    # What is there is left alone.
    export_poisoned(tmp_path / "poisoned", material._replace(triggered=None), FROM_A_FILE)
    assert set(read(tmp_path / "poisoned")) == expected
