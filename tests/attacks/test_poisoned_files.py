"""Poisoned images as files: what is written, and what another program reads."""

import csv

import numpy as np
import pytest
from PIL import Image

from fip_jax.attacks.attack import TriggeredSet
from fip_jax.attacks.export import export_poisoned
from fip_jax.data.split import Split

rng = np.random.default_rng(0)


def read(folder):
    """{path: row of the index}."""
    with (folder / "index.csv").open(newline="") as file:
        return {row.pop("path"): row for row in csv.DictReader(file)}


@pytest.mark.parametrize("channels", [1, 3])
def test_files_and_index(channels, tmp_path):
    clean = Split(rng.integers(0, 256, (4, 5, 6, channels), dtype=np.uint8), np.array([2, 1, 0, 1], np.int32))
    images = np.concatenate([clean.images, clean.images[:1] // 2])
    images[1], images[3] = 255 - images[1], 255 - images[3]
    # 1 has the trigger, 3 is cover, 4 was added.
    poisoned = Split(images, np.array([2, 0, 0, 1, 0], np.int32))
    test = TriggeredSet(images[2:4], np.array([1, 2]), np.array([0, 0]), np.array([7, 11]))
    export_poisoned(tmp_path / "poisoned", test, clean, poisoned, np.array([1, 4]))

    rows = read(tmp_path / "poisoned")
    train = {"set": "train", "kind": "trigger"}
    assert rows == {
        "bd_train_dataset/1/1.png": {**train, "index": "1", "label": "1", "attack_label": "0"},
        "bd_train_dataset/-1/4.png": {**train, "index": "4", "label": "-1", "attack_label": "0"},
        "bd_train_dataset/1/3.png": {
            **train,
            "index": "3",
            "kind": "cover",
            "label": "1",
            "attack_label": "1",
        },
        "bd_test_dataset/1/7.png": {
            "set": "test",
            "index": "7",
            "kind": "trigger",
            "label": "1",
            "attack_label": "0",
        },
        "bd_test_dataset/2/11.png": {
            "set": "test",
            "index": "11",
            "kind": "trigger",
            "label": "2",
            "attack_label": "0",
        },
    }
    expected = (images[1], images[4], images[3], images[2], images[3])
    for path, image in zip(rows, expected, strict=True):
        found = np.asarray(Image.open(tmp_path / "poisoned" / path))
        np.testing.assert_array_equal(found.reshape(image.shape), image)
    files = {str(p.relative_to(tmp_path / "poisoned")) for p in (tmp_path / "poisoned").rglob("*.png")}
    assert files == set(rows)


def test_only_test_images_and_no_indices(tmp_path):
    test = TriggeredSet(np.zeros((2, 4, 4, 3), np.uint8), np.array([3, 3]), np.array([0, 0]), None)
    (tmp_path / ".poisoned.draft").mkdir()  # of a start that was killed
    (tmp_path / ".poisoned.draft" / "old.png").touch()
    export_poisoned(tmp_path / "poisoned", test)
    assert set(read(tmp_path / "poisoned")) == {"bd_test_dataset/3/0.png", "bd_test_dataset/3/1.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["poisoned"]
    assert not (tmp_path / "poisoned" / "old.png").exists()
    # What is there is left alone.
    export_poisoned(tmp_path / "poisoned", test._replace(labels=np.array([1, 1])))
    assert set(read(tmp_path / "poisoned")) == {"bd_test_dataset/3/0.png", "bd_test_dataset/3/1.png"}
