"""The attacker's work as a whole: triggers that learn, what is kept of them, and crashes in between."""

import itertools

import jax
import numpy as np
import pytest
from oracles import TinyNet

from fip_jax import checkpoint, phase, suspect
from fip_jax.attacks.poison import choose
from fip_jax.attacks.storage import load_state, save_state
from fip_jax.config import default_config
from fip_jax.description import describe
from fip_jax.errors import UserError
from fip_jax.implant import check, implant
from fip_jax.material import for_export, prepare
from fip_jax.models import MODELS
from fip_jax.workdir import MetricsLog, Workdir

pytestmark = pytest.mark.usefixtures("standard_promotion", "two_layers")


@pytest.fixture
def two_layers(monkeypatch):
    """A network of two layers in the place of small_vgg."""
    monkeypatch.setitem(MODELS, "small_vgg", TinyNet)


@pytest.fixture
def standard_promotion():
    """Optax's Adam divides a float by an integer count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    """Images of 8 x 8 pixels in three classes, each of a brightness of its own."""
    path = tmp_path_factory.mktemp("data") / "own.npz"
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 96), ("test", 30)):
        labels = np.arange(count) % 3
        images = 40 + 70 * labels[:, None, None, None] + rng.integers(-20, 20, (count, 8, 8, 3))
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def config_for(path, name, **changes):
    config = default_config()
    config.dataset.name, config.dataset.image_size = str(path), 8
    config.model.width, config.victim.epochs, config.victim.batch_size = 2, 2, 32
    config.clean.fraction, config.attack.name = 0.1, name
    config.report.checkpoint_seconds = 0.0
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def attempt(config, path, measure=lambda network, material: {}):
    """(victim, material, workdir) of an attacker's work in a folder."""
    material = prepare(config)
    fresh = suspect.build(describe(config, len(material.class_names)), config.seed)
    workdir = Workdir(path, config.to_dict())
    workdir.begin()
    try:
        return *implant(config, fresh, material, workdir, measure), workdir
    finally:
        workdir.close()


class Crash(Exception):
    pass


def test_a_crash_changes_nothing_and_the_trigger_is_kept(signs, tmp_path):
    name = "dynamic"  # whose mask is learnt before the victim's training, and whose pattern in it
    config = config_for(signs, name, attack__dynamic__mask_steps=3)
    crashes = []

    def crash_once(network, material):
        crashes.append(material.triggered is not None)
        if len(crashes) == 3:  # in the middle of the victim's training
            raise Crash
        return {}

    with pytest.raises(Crash):
        attempt(config, tmp_path / "broken", crash_once)
    assert all(crashes)
    broken, _, _ = attempt(config, tmp_path / "broken")
    seen = []
    victim, material, workdir = attempt(
        config, tmp_path / "straight", lambda _, known: seen.append(known.triggered.images.astype(int)) or {}
    )
    jax.tree.map(np.testing.assert_array_equal, broken.params, victim.params)

    # Before the first step, after the first epoch, after the second.
    assert len(seen) == 3
    assert all(np.abs(later - earlier).max() > 0 for earlier, later in itertools.pairwise(seen))

    # The trigger of the test images is the one that is kept, and another network's test gets the same.
    state = load_state(workdir.path / "attack", config.attack, (8, 8, 3))
    expected = material.attack.stamp(material.test.images[material.triggered.indices], state)
    np.testing.assert_array_equal(material.triggered.images, expected)
    other = config.copy_and_resolve_references()
    other.attack.state, other.victim.checkpoint = str(workdir.path / "attack"), "another.pth"
    np.testing.assert_array_equal(prepare(other).triggered.images, expected)
    other.attack.target = 1
    with pytest.raises(UserError, match=r"^attack\.target: found 1, expected 0, for which .* was trained"):
        prepare(other)
    other.attack.target, other.attack.dynamic.density = 0, 0.5
    with pytest.raises(UserError, match=r"^attack\.dynamic\.density: found 0\.5, expected 0\.032"):
        prepare(other)
    with pytest.raises(UserError, match=r"^attack\.state: .*\[8, 8, 3\], expected \[9, 8, 3\]"):
        load_state(workdir.path / "attack", config.attack, (9, 8, 3))
    other.attack.name = "lira"
    with pytest.raises(UserError, match=rf"^attack\.state: .*{name}.*lira"):
        prepare(other)


def test_crashes_in_every_phase_change_nothing(signs, tmp_path, monkeypatch):
    # A painter, a network, another painter, the victim.
    changes = {"attack__fba__steps": 4, "attack__fba__detox_steps": 4, "victim__epochs": 1}
    config = config_for(signs, "fba", attack__poison_rate=0.2, **changes)
    straight, _, done = attempt(config, tmp_path / "straight")
    left, original, crashed = [3], phase._Recorder.__call__, 0

    def crash_after_some(recorder, taken, state, metrics):
        original(recorder, taken, state, metrics)
        left[0] -= 1
        if not left[0]:
            raise Crash

    monkeypatch.setattr(phase._Recorder, "__call__", crash_after_some)
    while True:
        left[0] = 3
        try:
            broken, _, workdir = attempt(config, tmp_path / "broken")
            break
        except Crash:
            crashed += 1
    assert crashed == 4  # in each of them
    jax.tree.map(np.testing.assert_array_equal, broken.params, straight.params)
    states = [load_state(d.path / "attack", config.attack, (8, 8, 3)) for d in (workdir, done)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_clean_label_images_are_kept_for_another_training(signs, tmp_path):
    config = config_for(signs, "clb", attack__clb__size=1)
    material = prepare(config)
    chosen = choose(material.training.labels, True, material.goal, 0.8, config.seed)
    hard = material.training.images[chosen] // 2
    state = {"indices": chosen.astype(np.int32), "images": hard}
    save_state(tmp_path / "attack", config.attack, (8, 8, 3), state)
    for number, spoilt in enumerate(
        ({}, {**state, "images": hard[:-1]}, {**state, "images": hard / 2}, {**state, "images": state})
    ):
        save_state(tmp_path / str(number), config.attack, (8, 8, 3), spoilt)
        config.attack.state = str(tmp_path / str(number))
        with pytest.raises(UserError, match=r"^attack\.state: found perturbed images of other"):
            prepare(config)
    config.attack.state = str(tmp_path / "attack")
    found = prepare(config)
    assert found.poisoned.tolist() == chosen.tolist()
    np.testing.assert_array_equal(found.training.images[chosen], material.attack.stamp(hard))
    config.seed = 1
    with pytest.raises(UserError, match=r"^attack\.state: found perturbed images of other"):
        prepare(config)


def test_more_neurons_than_the_network_has(signs):
    def attempted(**changes):
        config = config_for(signs, "troj", **changes)
        material = prepare(config)
        check(config, suspect.build(describe(config, len(material.class_names)), 0), material)

    attempted(attack__troj__neurons=2)
    with pytest.raises(
        UserError, match=r"^attack\.troj\.neurons: found 100000, expected at most the \d+ that"
    ):
        attempted(attack__troj__neurons=100000)


@pytest.mark.parametrize(
    "name, changes",
    [
        # Learns from a network of its own and by painters, then poisons once.
        ("fba", {"attack__fba__steps": 2, "attack__fba__detox_steps": 2}),
        ("clb", {"attack__clb__size": 1, "attack__clb__steps": 2, "attack__clean_label_rate": 0.5}),
        # Poisons every batch; the attacker knows of the defence.
        ("wanet", {"victim__eta_f": 1e-3, "victim__radius": 0.5}),
    ],
)
def test_the_work_of_an_attack_as_a_whole(name, changes, signs, tmp_path):
    config = config_for(signs, name, attack__poison_rate=0.2, attack__export=True, **changes)
    victim, material, workdir = attempt(config, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(victim.params))
    assert len(material.triggered.labels) == 20  # of 30 test images those of the two other classes
    rows = MetricsLog(workdir.path / "metrics.jsonl").rows("victim")
    assert (rows[-1]["trace"] > 0) == (name == "wanet")

    given = for_export(material, config)
    changed = (given.training.images != given.unpoisoned.images).any(axis=(1, 2, 3))
    cover = {"fba": 1.0, "clb": 0.0, "wanet": 2.0}[name]
    assert changed.sum() == round((1 + cover) * len(given.poisoned))
    assert changed[given.poisoned].all()
    if name != "wanet":
        fresh = suspect.build(victim.description, config.seed)
        folder = workdir.path / ("decoy" if name == "fba" else "benign")
        other, _ = checkpoint.load_model(folder, fresh.params, fresh.model_state)
        # A few steps of training are small beside the distance of two draws.
        near, far = (
            max(
                jax.tree.leaves(
                    jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).max(), fresh.params, found)
                )
            )
            for found in (victim.params, other)
        )
        assert far > 2 * near


def test_images_sorted_by_class_show_the_trigger_on_the_way(signs, tmp_path):
    """The first of them are all of the target class, on which no trigger is tested."""
    arrays = dict(np.load(signs))
    order = np.argsort(arrays["test_labels"], kind="stable")
    np.savez(
        tmp_path / "sorted.npz", **arrays | {name: arrays[name][order] for name in arrays if "test" in name}
    )
    config = config_for(tmp_path / "sorted.npz", "lira", report__eval_images=5, victim__epochs=1)
    seen = []
    attempt(config, tmp_path / "run", lambda _, known: seen.append(set(known.triggered.labels)) or {})
    assert seen == [{1, 2}] * 2
