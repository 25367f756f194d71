"""A run does not go on with, nor answer for, other images, weights or triggers than it was begun with."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from fip_jax import checkpoint, given
from fip_jax.attacks.poison import TriggeredSet
from fip_jax.config import default_config
from fip_jax.data.split import Split, digest
from fip_jax.errors import UserError
from fip_jax.material import Material, prepare
from fip_jax.workdir import Workdir

SPLIT = Split(np.full((2, 8, 8, 3), 7, np.uint8), np.array([0, 1], np.int32))


def material(sha256="0", triggered=None):
    return Material(None, SPLIT, SPLIT, triggered, ("a", "b", "c"), sha256=sha256)


def begin(folder, config, data):
    """What a start in `folder` notes down, or the sentence with which it is refused."""
    workdir = Workdir(folder, config.to_dict())
    workdir.begin()
    try:
        return given.check(config, data, workdir)
    except UserError as error:
        return str(error)
    finally:
        workdir.close()


@pytest.fixture
def config(tmp_path):
    """Of a run with a network in a file, a trigger in a file and what an attack has learnt in a folder."""
    config = default_config()
    config.victim.checkpoint, config.attack.state = str(tmp_path / "net.pth"), str(tmp_path / "state")
    config.attack.name, config.attack.pattern.file = "pattern", str(tmp_path / "trigger.png")
    change("victim.checkpoint", tmp_path, 0)
    change("attack.pattern.file", tmp_path, 0)
    change("attack.state", tmp_path, 0)
    return config


def change(key, folder, value):
    """Makes what a setting names, anew with another value."""
    if key == "victim.checkpoint":
        (folder / "net.pth").write_bytes(bytes([value]))
    elif key == "attack.pattern.file":
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(folder / "trigger.png")
    else:
        (folder / "state").rename(folder / f"before {value}") if value else None
        checkpoint.save_model(folder / "state", {"w": np.full(3, value, np.float32)}, {}, {"format": "x"})


def test_the_same_things_are_the_same(config, tmp_path):
    first = begin(tmp_path / "run", config, material())
    assert begin(tmp_path / "run", config, material()) == first
    assert first.keys() == {"victim.checkpoint", "attack.state", "attack.pattern.file", "dataset.name"}
    assert first["victim.checkpoint"] == hashlib.sha256(b"\0").hexdigest()
    given.check_finished(config, first)
    given.check_finished(config, {})  # of a version that did not note it down


@pytest.mark.parametrize("key", ["victim.checkpoint", "attack.pattern.file", "attack.state"])
def test_another_file_is_noticed(key, config, tmp_path):
    first = begin(tmp_path / "run", config, material())
    change(key, tmp_path, 1)
    expected = f"^{key}: {tmp_path}.* has changed since this run was begun"
    with pytest.raises(UserError, match=expected):
        given.check_finished(config, first)
    again = begin(tmp_path / "run", config, material())
    assert isinstance(again, str) and again.startswith(f"{key}: {tmp_path}")


def test_a_finished_run_answers_when_its_files_are_gone(config, tmp_path):
    first = begin(tmp_path / "run", config, material())
    (tmp_path / "net.pth").unlink()
    (tmp_path / "state").rename(tmp_path / "gone")
    given.check_finished(config, first)


def test_other_images_are_noticed(config, tmp_path):
    begin(tmp_path / "run", config, material("0"))
    assert begin(tmp_path / "run", config, material("1")).startswith(
        "dataset.name: rendered_signs has changed"
    )


def test_other_triggered_images_that_came_with_the_network_are_noticed(config, tmp_path):
    sets = [TriggeredSet(SPLIT.images + np.uint8(n), SPLIT.labels, SPLIT.labels, None) for n in range(2)]
    first = begin(tmp_path / "run", config, material(triggered=sets[0]))
    assert begin(tmp_path / "run", config, material(triggered=sets[0])) == first
    given.check_finished(config, first)
    assert begin(tmp_path / "run", config, material(triggered=sets[1])).startswith("victim.checkpoint: ")


def test_images_count_as_they_are_before_the_trigger(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}_{part}": rng.integers(0, 3, 60)
        if part == "labels"
        else rng.integers(0, 256, (60, 8, 8, 3), np.uint8)
        for kind in ("train", "test")
        for part in ("images", "labels")
    }
    np.savez(tmp_path / "own.npz", **arrays)
    config = default_config()
    config.dataset.name, config.dataset.image_size, config.clean.fraction = str(tmp_path / "own.npz"), 8, 0.2
    found = {}
    for name in ("none", "badnets", "wanet"):
        config.attack.name = name
        found[name] = prepare(config)
    plain = found["none"]
    assert plain.sha256 == digest(plain.training, plain.clean, plain.test)
    assert {data.sha256 for data in found.values()} == {plain.sha256}
    assert (found["badnets"].training.images != plain.training.images).any()
    # A network from elsewhere was not trained on the training images here.
    config.victim.checkpoint = "x"
    assert prepare(config).sha256 == digest(plain.clean, plain.test)
