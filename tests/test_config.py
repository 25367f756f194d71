"""Defaults that pass, refusals that name the key, and what the methods make of the settings."""

import importlib.util
import inspect
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from fip_jax.attacks import ATTACKS, create_attack
from fip_jax.config import METHODS, check_config, default_config, defense_settings, victim_settings
from fip_jax.errors import UserError
from fip_jax.models import MODELS, known_options
from fip_jax.workdir import flatten

CONFIGS = sorted(
    path for path in (Path(__file__).parent.parent / "configs").glob("*.py") if path.stem != "sweep"
)


def config_with(key, value):
    config = default_config()
    *parts, last = key.split(".")
    place = config
    for part in parts:
        place = place[part]
    with place.ignore_type():
        place[last] = value
    return config


def test_the_defaults_pass():
    check_config(default_config())


def test_the_defaults_are_those_of_the_attacks():
    config = default_config()
    for name, make in ATTACKS.items():
        options = inspect.signature(make).parameters
        defaults = {key: value.default for key, value in options.items() if key != "image_shape"}
        assert config.attack[name].to_dict() == defaults
        if name != "pattern":  # which has no default file
            assert create_attack(name, (32, 32, 3), config.attack[name]) is not None


def test_the_defaults_are_those_of_the_networks():
    config = default_config()
    for name in MODELS:
        options = known_options(name)
        options.pop("width")
        assert config.model.get(name, ConfigDict()).to_dict() == options


def load(path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_passes(path):
    get_config = load(path).get_config
    known = set(flatten(default_config().to_dict()))
    arguments = [()] if not inspect.signature(get_config).parameters else [(), ("gpu",), ("cpu",)]
    for given in arguments:
        config = get_config(*given)
        check_config(config)
        assert isinstance(config, ConfigDict)
        # No setting that nobody reads.
        assert set(flatten(config.to_dict())) == known
        assert flatten(config.to_dict()) != flatten(default_config().to_dict())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_unknown_machine_is_refused(path):
    get_config = load(path).get_config
    if not inspect.signature(get_config).parameters:
        pytest.skip("takes no argument")
    with pytest.raises((UserError, ValueError, KeyError)):
        get_config("no_such_machine")


NAN = float("nan")
LEARNT = ("dynamic", "fba", "issba", "lira", "troj")  # attacks whose trigger is made for a data set


@pytest.mark.parametrize(
    "key, values",
    [
        ("model.name", ["resnet", ""]),
        ("attack.name", ["Badnets"]),
        ("defense.name", ["sam"]),
        ("dataset.crop", [True, "centre", ""]),
        ("clean.source", ["validation", ""]),
        ("clean.test_fraction", [0.0, 1.0, NAN]),
        ("dataset.image_size", [0, -1]),
        ("victim.epochs", [0]),
        ("victim.batch_size", [0, -8]),
        ("victim.learning_rate", [0.0, -0.1, NAN]),
        ("clean.max_per_track", [0]),
        ("defense.steps", [0, -5]),
        ("defense.batch_size", [0]),
        ("defense.label_weight", [-1.0, NAN]),
        ("defense.label_smoothing", [0.1, 1.0, -0.1, NAN]),  # labels do not count by default
        ("defense.teacher.weight", [-1.0, NAN]),
        ("defense.teacher.temperature", [0.0, NAN]),
        ("defense.corruption.patch.rate", [-0.1, 1.5, NAN]),
        ("defense.corruption.patch.smallest", [0.0, 1.5, NAN]),
        ("defense.corruption.patch.largest", [0.0, 0.01, 1.5, NAN]),
        ("defense.corruption.patch.contents", [(), ("colour", "stars")]),
        ("defense.corruption.wave.amplitude", [-0.1, 1.5, NAN]),
        ("defense.corruption.wave.frequency", [0.5, NAN]),
        ("defense.corruption.overlay.opacity", [-0.1, 1.5, NAN]),
        ("defense.corruption.warp.strength", [-0.1, NAN]),
        ("defense.corruption.warp.points", [1]),
        ("defense.corruption.posterize.most", [1, 3]),
        ("defense.hold_back", [1.0, -0.1, NAN]),
        ("defense.mixed.weight", [-1.0, NAN]),
        ("defense.mixed.zoom", [1.0, -0.1]),
        ("defense.mixed.shear", [90.0, -1.0]),
        ("defense.mixed.cutmix", [0.9, -0.1]),
        ("defense.fip.gate.over", ["layer", ""]),
        ("defense.fip.gate.fisher", ["true"]),
        ("defense.fast_fip.gate.temperature", [0.0, NAN]),
        ("defense.fip.gate.power", [0.0, -1.0]),
        ("smoothness.tolerance", [0.0]),
        ("smoothness.max_iterations", [0]),
        ("smoothness.chunk_size", [0]),
        ("smoothness.over_time.num_images", [-1]),
        ("smoothness.over_time.hessian_steps", [-1]),
        ("smoothness.over_time.points", [0, 1]),
        ("report.representations", [-1]),
        ("report.eval_every", [0]),
        ("report.eval_images", [0]),
        ("seed", [-1]),
        ("dataset.crop_padding", [-1]),
        ("victim.weight_decay", [-1e-4]),
        ("report.checkpoint_seconds", [-1.0]),
        ("victim.momentum", [1.0, -0.1]),
        ("defense.momentum", [1.0, 1.5, -0.1, NAN]),
        ("victim.warmup", [1.0, -0.1]),
        ("clean.fraction", [0.0, 1.0, -0.5, NAN]),
        ("attack.poison_rate", [0.0, 1.5, -0.1, NAN]),
        ("attack.clean_label_rate", [0.0, 1.5, NAN]),
        ("attack.benign_epochs", [0]),
        ("victim.eta_f", [-1.0, NAN]),
        ("victim.radius", [-0.5, NAN]),
        ("victim.trace_limit", [0.0]),
        ("victim.trace_batch_size", [0]),
        ("defense.ft.learning_rate", [0.0, -0.1, NAN]),
        ("defense.ft_sam.learning_rate", [0.0]),
        ("defense.ft_sam.radius", [-1.0, NAN]),
        ("defense.fip.learning_rate", [0.0]),
        ("defense.fip.eta_f", [-1e-5, NAN]),
        ("defense.fip.eta_r", [-1.0, NAN]),
        ("defense.fip.radius", [-0.1]),
        ("defense.fip.num_probes", [-1]),
        ("dataset.mean", [(0.5, 0.5), (0.5,) * 4]),
        ("dataset.std", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0)]),
    ],
)
def test_refusals_name_the_key_and_what_was_found(key, values):
    for value in values:
        with pytest.raises(UserError) as caught:
            check_config(config_with(key, value))
        message = str(caught.value)
        assert message.startswith((f"{key}: found {value}", f"{key}: found {value!r}"))
        assert "expected" in message


def test_the_least_that_passes():
    for key, value in (
        ("seed", 0),
        ("defense.momentum", 0.0),
        ("defense.fip.eta_r", 0.0),
        ("defense.fip.num_probes", 0),
        ("report.checkpoint_seconds", 0.0),
        ("smoothness.over_time.num_images", 0),
        ("smoothness.over_time.hessian_steps", 0),
        ("smoothness.over_time.points", 2),
        ("dataset.crop_padding", 0),
        ("victim.weight_decay", 0.0),
        ("attack.poison_rate", 1.0),
    ):
        check_config(config_with(key, value))


def test_names():
    for key, names in (
        ("model.name", MODELS),
        ("attack.name", ["none", *ATTACKS]),
        ("defense.name", METHODS),
        ("dataset.crop", ("auto", "whole", "center")),
        ("clean.source", ("train", "test")),
    ):
        for name in names:
            if name != "pattern":  # which has no default file
                check_config(config_with(key, name))
        with pytest.raises(UserError) as caught:
            check_config(config_with(key, "nothing"))
        assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("name", "option", "value", "part"),
    [
        ("pattern", "file", "", "attack.pattern.file: found no file ''"),
        ("pattern", "apply", "paint", "attack.pattern.apply: found 'paint'"),
        ("pattern", "alpha", 0.5, "attack.pattern.alpha: found 0.5"),
        ("badnets", "size", 33, "attack.badnets: found size=33"),
        ("blend", "alpha", 2.0, "attack.blend.alpha: found 2.0"),
    ],
)
def test_triggers_are_refused_before_any_work(name, option, value, part):
    config = config_with(f"attack.{name}.{option}", value)
    config.attack.name = "none"
    check_config(config)  # another attack's options do not count
    config.attack.name = name
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert part in str(caught.value)


def test_a_victim_without_a_backdoor_needs_no_poison_rate():
    config = config_with("attack.name", "none")
    config.attack.poison_rate = 0.0
    check_config(config)


def settings_of(method):
    config = config_with("defense.name", method)
    config.defense.steps = 12
    config.defense.momentum = 0.5
    config.defense.ft.update({"learning_rate": 0.01, "weight_decay": 0.005})
    config.defense.ft_sam.update(
        {"learning_rate": 0.02, "weight_decay": 0.01, "radius": 1.5, "adaptive": True}
    )
    config.defense.fip.update(
        {
            "learning_rate": 0.03,
            "weight_decay": 0.015,
            "eta_f": 0.25,
            "eta_r": 4.0,
            "num_probes": 3,
            "radius": 0.0,
        }
    )
    return defense_settings(config)


def test_methods():
    for method, rate in (("ft", 0.01), ("ft_sam", 0.02), ("fip", 0.03)):
        found = settings_of(method)
        assert (found.learning_rate, found.num_steps, found.momentum) == (rate, 12, 0.5)
        assert (found.weight_decay, found.warmup) == (rate / 2, 0.0)
    found = settings_of("ft")
    assert (found.eta_f, found.eta_r, found.radius) == (0.0, 0.0, 0.0)
    found = settings_of("ft_sam")
    assert (found.eta_f, found.eta_r, found.radius, found.adaptive) == (0.0, 0.0, 1.5, True)
    found = settings_of("fip")
    assert (found.eta_f, found.eta_r, found.num_probes, found.radius) == (0.25, 4.0, 3, 0.0)


@pytest.mark.parametrize(
    "num_images, batch_size, steps",
    [
        # Whole batches in an epoch, times 3 epochs; fewer images than a batch are one batch.
        (1000, 128, 3 * 7),
        (1024, 128, 3 * 8),
        (100, 128, 3),
    ],
)
def test_victim_steps_by_hand(num_images, batch_size, steps):
    config = default_config()
    config.victim.update({"epochs": 3, "batch_size": batch_size, "learning_rate": 0.3, "momentum": 0.8})
    config.victim.update({"weight_decay": 0.01, "warmup": 0.1})
    found = victim_settings(config, num_images)
    assert found.num_steps == steps
    assert (found.learning_rate, found.momentum, found.weight_decay, found.warmup) == (0.3, 0.8, 0.01, 0.1)
    assert (found.eta_f, found.eta_r, found.radius) == (0.0, 0.0, 0.0)


def test_adaptive_attackers():
    config = default_config()
    config.victim.update({"eta_f": 0.5, "trace_limit": 2.0, "trace_batch_size": 7, "radius": 1.5})
    found = victim_settings(config, 1000, epochs=4)
    assert (found.eta_f, found.trace_limit, found.trace_batch_size) == (0.5, 2.0, 7)
    assert (found.radius, found.adaptive, found.eta_r) == (1.5, True, 0.0)
    assert found.num_steps == 4 * (1000 // 128)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"pattern"}))
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_attack_on_every_data_set(path, name):
    config = load(path).get_config()
    config.attack.name = name
    if config.victim.checkpoint and name in LEARNT:
        config.attack.state = "runs/attacked/attack"
    check_config(config)


@pytest.mark.parametrize("name", ["badnets", "bppa", "cba", "wanet"])
def test_a_state_of_an_attack_that_learns_nothing(name):
    config = config_with("attack.state", "runs/attacked/attack")
    config.attack.name = name
    with pytest.raises(
        UserError, match=rf"^attack\.state: found .*runs/attacked/attack.*{name} learns nothing"
    ):
        check_config(config)


@pytest.mark.parametrize("name", LEARNT)
def test_a_network_from_elsewhere_and_no_trigger(name):
    config = config_with("victim.checkpoint", "some.pth")
    config.attack.name = name
    with pytest.raises(UserError, match=r"^attack\.state: found nothing, expected attack/"):
        check_config(config)
    config.attack.state = "runs/attacked/attack"
    check_config(config)


@pytest.mark.parametrize(
    "name, key, value, message",
    [
        ("wanet", "attack.poison_rate", 0.003, "which is no image of the 128 of a batch"),
        ("wanet", "attack.poison_rate", 0.4, r"expected at most 0\.333, since wanet changes 2 more images"),
        (
            "dynamic",
            "victim.radius",
            0.5,
            r"found 0\.5, expected 0\.0 for dynamic, whose trigger is trained along",
        ),
        ("lira", "parallel.mode", "pmap", "found 'pmap', expected 'none' for lira"),
    ],
)
def test_what_an_attack_that_controls_the_training_cannot_have(name, key, value, message):
    config = config_with("attack.name", name)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"^{key}: .*{message}"):
        check_config(config)
    config.victim.checkpoint, config.attack.state = (
        "some.pth",
        "" if name == "wanet" else "runs/attacked/attack",
    )
    check_config(config)  # nothing is trained
