"""The rendered signs: one seed, one picture; 43 different signs; a data set that survives a round trip."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fip_jax.data.rendered_signs import CLASS_NAMES, RenderedSigns, builder, example, render
from fip_jax.data.rendered_signs.signs import SIGN_SIZE, clean_sign

CLASSES = range(43)


def _on_grey(label: int) -> np.ndarray:
    """The clean sign over mid-grey, coarse as in a photograph: float64 [32, 32, 3] in 0..1."""
    rgba = np.asarray(clean_sign(label).reduce(SIGN_SIZE // 32), np.float64) / 255
    return rgba[..., :3] * rgba[..., 3:] + 0.5 * (1 - rgba[..., 3:])


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """All clean signs: float64 [43, 32, 32, 3]."""
    return np.stack([_on_grey(label) for label in CLASSES])


def test_class_names_are_the_43_of_gtsrb_in_order() -> None:
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == 43
    expected = {0: "speed limit 20", 14: "stop", 31: "wild animals", 38: "keep right", 39: "keep left"}
    assert {label: CLASS_NAMES[label] for label in expected} == expected


@pytest.mark.parametrize("label", CLASSES)
def test_render_is_an_rgb_picture_with_contrast(label: int) -> None:
    image = render(label, np.random.default_rng(label))
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert image.std() > 8


def test_same_key_gives_the_same_picture() -> None:
    for index in range(50):
        first, second = example("train", index), example("train", index)
        assert first[1] == second[1]
        np.testing.assert_array_equal(first[0], second[0])


def test_render_does_not_depend_on_what_was_drawn_before() -> None:
    alone = render(7, np.random.default_rng(3))
    for label in CLASSES:
        render(label, np.random.default_rng(label))
    np.testing.assert_array_equal(alone, render(7, np.random.default_rng(3)))


def test_index_split_and_seed_each_change_the_picture() -> None:
    pictures = [
        example("train", 0, seed=1)[0],
        example("train", 43, seed=1)[0],
        example("test", 0, seed=1)[0],
        example("train", 0, seed=2)[0],
    ]
    for one, other in itertools.combinations(pictures, 2):
        assert np.abs(one.astype(int) - other).mean() > 5


def test_no_test_picture_is_in_the_train_split() -> None:
    train = {example("train", index)[0].tobytes() for index in range(200)}
    test = {example("test", index)[0].tobytes() for index in range(200)}
    assert len(train) == len(test) == 200
    assert not train & test


def test_clean_signs_differ_pairwise_by_a_clear_margin(clean: np.ndarray) -> None:
    # Small black pictograms cover about a tenth of the picture, so a root mean square of 0.04 is many pixels.
    distances = {
        (a, b): np.sqrt(np.mean((clean[a] - clean[b]) ** 2)) for a, b in itertools.combinations(CLASSES, 2)
    }
    closest = min(distances, key=lambda pair: distances[pair])
    assert distances[closest] > 0.04, closest


@pytest.mark.parametrize(("left", "right"), [(34, 33), (37, 36), (39, 38), (19, 20)])
def test_left_and_right_signs_mirror_each_other(clean: np.ndarray, left: int, right: int) -> None:
    mirrored = clean[left][:, ::-1]
    assert np.abs(mirrored - clean[right]).mean() < 0.01 < np.abs(clean[left] - clean[right]).mean()


@pytest.mark.parametrize(
    ("label", "colour"), [(17, (1, 0, 0)), (14, (1, 0, 0)), (35, (0, 0, 1)), (12, (1, 1, 0)), (40, (0, 0, 1))]
)
def test_signs_have_their_colour(clean: np.ndarray, label: int, colour: tuple[int, int, int]) -> None:
    wanted = np.array(colour, bool)
    middle = clean[label][8:24, 8:24].reshape(-1, 3)
    assert (middle[:, wanted].min(axis=1) > middle[:, ~wanted].max(axis=1) + 0.2).mean() > 0.3


def test_pictures_show_their_own_sign(clean: np.ndarray) -> None:
    """Correlation with the clean signs finds the class far more often than chance (1 in 43)."""
    templates = clean.mean(axis=-1).reshape(43, -1)
    templates -= templates.mean(axis=1, keepdims=True)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    hits = []
    for index in range(430):
        image, label = example("train", index)
        hits.append(np.argmax(templates @ image.mean(axis=-1).reshape(-1)) == label)
    assert np.mean(hits) > 0.25


def test_labels_are_balanced_in_both_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "render", lambda label, rng: None)
    assert builder.SPLIT_SIZES == {"train": 12_000, "test": 3_000}
    for split, size in builder.SPLIT_SIZES.items():
        counts = np.bincount([example(split, index)[1] for index in range(size)], minlength=43)
        assert len(counts) == 43
        assert counts.max() - counts.min() <= 1


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to look up a host or to connect fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_builder_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": 100, "test": 60}
    monkeypatch.setattr(builder, "SPLIT_SIZES", sizes)
    signs = RenderedSigns(data_dir=tmp_path, file_format="array_record")
    signs.download_and_prepare()
    assert signs.name == "rendered_signs"
    assert tuple(signs.info.features["label"].names) == CLASS_NAMES
    assert {name: split.num_examples for name, split in signs.info.splits.items()} == sizes
    for split, size in sizes.items():
        source = signs.as_data_source(split=split)
        assert len(source) == size
        for index in range(size):
            image, label = example(split, index)
            assert source[index]["label"] == label
            assert source[index]["image"].dtype == np.uint8
            np.testing.assert_array_equal(source[index]["image"], image)


def test_a_broken_preparation_leaves_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(split: str, index: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(builder, "example", fail)
    signs = RenderedSigns(data_dir=tmp_path, file_format="array_record")
    with pytest.raises(OSError, match="disk full"):
        signs.download_and_prepare()
    assert not (tmp_path / "rendered_signs" / "1.0.0").exists()
