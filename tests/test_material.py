"""Who gets which images, for data sets and for a user's own."""

import numpy as np
import pytest

from fip_jax.config import default_config
from fip_jax.errors import UserError
from fip_jax.material import prepare


def own_images(path, *splits, classes=3, count=10):
    arrays = {}
    for number, split in enumerate(splits):
        # The first pixel tells every image apart.
        images = np.zeros((count * classes, 8, 8, 3), np.uint8)
        images[:, 0, 0, 0] = np.arange(count * classes)
        images[:, 0, 0, 1] = number
        arrays |= {f"{split}_images": images, f"{split}_labels": np.arange(count * classes) % classes}
    np.savez(path, **arrays)
    return path


def config_for(path, **changes):
    config = default_config()
    config.dataset.name, config.dataset.image_size = str(path), 8
    config.attack.name, config.victim.checkpoint = "none", "some.pth"
    config.clean.fraction = 0.1
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def ids(split):
    return {tuple(image[0, 0, :2]) for image in split.images}


def test_clean_images_are_the_defenders_as_a_whole(tmp_path):
    path = own_images(tmp_path / "own.npz", "clean", "train", "test")
    material = prepare(config_for(path))
    assert [len(s.labels) for s in (material.clean, material.training, material.test)] == [30, 30, 30]
    assert ids(material.clean) == {(i, 0) for i in range(30)}


def test_without_test_images_some_clean_ones_are_kept_back(tmp_path):
    material = prepare(config_for(own_images(tmp_path / "own.npz", "clean")))
    assert material.training is None
    assert np.bincount(material.test.labels).tolist() == [2, 2, 2]
    assert not ids(material.test) & ids(material.clean)
    assert len(ids(material.test) | ids(material.clean)) == 30


@pytest.mark.parametrize("place, split", [("train", "training"), ("test", "test")])
def test_clean_images_are_taken_out_of_their_source(tmp_path, place, split):
    path = own_images(tmp_path / "own.npz", "train", "test")
    material = prepare(config_for(path, clean__source=place))
    assert len(material.clean.labels) == 3
    assert len(getattr(material, split).labels) == 27
    assert not ids(material.clean) & (ids(material.training) | ids(material.test))


def test_classes_that_only_the_network_has(tmp_path):
    path = own_images(tmp_path / "own.npz", "train", "test")
    assert prepare(config_for(path), 5).class_names == ("0", "1", "2", "class 3", "class 4")
    with pytest.raises(UserError, match="has 3 classes, expected at most the 2"):
        prepare(config_for(path), 2)


def test_where_the_classes_end_is_said(tmp_path, capsys):
    path = own_images(tmp_path / "own.npz", "train", "test")
    prepare(config_for(path), 3)
    assert "network's first" not in capsys.readouterr().out
    prepare(config_for(path), 5)
    assert "first 3 of 5 classes" in capsys.readouterr().out


def test_classes_without_images_stay_in_their_places(tmp_path):
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    labels = np.where(np.arange(40) % 2, 4, 1)
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels)
    material = prepare(config_for(tmp_path / "own.npz", clean__fraction=0.25), 43)
    assert len(material.class_names) == 43
    # Five of twenty, of which one in five is kept back.
    counts = [np.bincount(split.labels).tolist() for split in material[:3]]
    assert counts == [[0, 15, 0, 0, 15], [0, 4, 0, 0, 4], [0, 1, 0, 0, 1]]


def test_a_known_trigger_on_own_images(tmp_path):
    path = own_images(tmp_path / "own.npz", "clean", "test")
    pattern = np.zeros((8, 8, 3), np.uint8)
    pattern[7, 7] = 255
    np.save(tmp_path / "pattern.npy", pattern)
    config = config_for(path, attack__name="pattern", attack__pattern__file=str(tmp_path / "pattern.npy"))
    material = prepare(config)
    triggered = material.triggered
    # All test images but those of class 0, the target.
    assert triggered.indices.tolist() == [i for i in range(30) if i % 3]
    expected = material.test.images[triggered.indices].copy()
    expected[:, 7, 7] = 255
    np.testing.assert_array_equal(triggered.images, expected)


def test_what_cannot_be_done_is_said(tmp_path):
    path = own_images(tmp_path / "own.npz", "clean")
    with pytest.raises(UserError, match=r"victim\.checkpoint: found nothing, expected a network"):
        prepare(config_for(path, victim__checkpoint=""))
    with pytest.raises(UserError, match=r"clean\.source: found 'test', but .* which images are clean"):
        prepare(config_for(path, clean__source="test"))
    path = own_images(tmp_path / "own.npz", "train")
    with pytest.raises(UserError, match=r"clean\.source: found 'test'"):
        prepare(config_for(path, clean__source="test"))


def test_training_images_before_they_were_poisoned(tmp_path):
    path = own_images(tmp_path / "own.npz", "train", "test")
    changes = {"victim__checkpoint": "", "attack__name": "badnets"}
    assert prepare(config_for(path, **changes)).unpoisoned is None
    material = prepare(config_for(path, attack__export=True, **changes))
    before, after = material.unpoisoned, material.training
    assert not (before.images == 255).any()
    changed = np.flatnonzero((after.images != before.images).any(axis=(1, 2, 3)))
    np.testing.assert_array_equal(changed, material.poisoned)
    assert (after.labels[changed] == 0).all()
    assert (before.labels[changed] != 0).all()


def test_a_rate_that_no_set_for_other_programs_can_have_is_refused_before_the_training(tmp_path):
    # BPPA poisons every batch anew, and fewer images of a batch that has too few; one set for all cannot.
    path = own_images(tmp_path / "own.npz", "train", "test", classes=2)
    changes = {"victim__checkpoint": "", "attack__name": "bppa", "attack__poison_rate": 0.9}
    prepare(config_for(path, **changes))
    with pytest.raises(
        UserError, match=r"^attack.poison_rate: 0.9 of 18 training images is 16, expected 1 to 9"
    ):
        prepare(config_for(path, **changes, attack__export=True))


@pytest.mark.parametrize(
    "changes, message",
    [
        # Three of the 27 training images are held out; of the others 9 or so show the target.
        (
            {"name": "troj", "poison_rate": 1e-4},
            r"poison_rate: 0\.0001 of 27 training images is 0, expected 1 to",
        ),
        ({"name": "issba", "poison_rate": 1.0}, r"poison_rate: 1 of 27 training images is 27, expected 1 to"),
        ({"name": "clb", "clean_label_rate": 1e-3}, r"clean_label_rate: 0\.001 of 9 target images is 0"),
        (
            {"name": "blend", "blend.alpha": 1e-6},
            "blend: found a trigger that leaves every test image as it is",
        ),
        ({"name": "wanet", "wanet.strength": 1e-6}, "wanet: found a trigger that leaves every test image"),
    ],
)
def test_what_an_attack_cannot_do_is_said_before_it_learns(changes, message, tmp_path):
    path = own_images(tmp_path / "own.npz", "train", "test")
    options = {f"attack__{key}": value for key, value in changes.items()}
    with pytest.raises(UserError, match=rf"^attack\.{message}"):
        prepare(config_for(path, victim__checkpoint="", **options))


def test_a_test_set_of_the_target_alone_is_refused_before_anything_is_learnt(tmp_path):
    arrays = dict(np.load(own_images(tmp_path / "own.npz", "train", "test")))
    np.savez(tmp_path / "one.npz", **arrays | {"test_labels": np.zeros(30, int)})
    with pytest.raises(UserError, match=r"^attack\.target: every test image is of that class"):
        prepare(config_for(tmp_path / "one.npz", victim__checkpoint="", attack__name="lira"))
