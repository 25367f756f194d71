"""Loading a suspicious network: what its folder says is checked before anything is built from it."""

import jax
import numpy as np
import pytest

from fip_jax import checkpoint, suspect
from fip_jax.config import default_config
from fip_jax.description import describe
from fip_jax.errors import UserError
from fip_jax.interop.foreign import to_safetensors
from fip_jax.interop.state_dict import to_torch
from fip_jax.models import MODELS, abstract_model, known_options

# Orbax leaves coroutines behind when a folder cannot be read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def config_for(folder=""):
    config = default_config()
    config.model.width = 2
    config.seed = 3
    config.clean.fraction = 0.05
    config.victim.checkpoint = str(folder)
    return config


def save(folder, **changes):
    """A model folder with fresh weights of seed 9, whose description has these changes."""
    made = suspect.build(describe(config_for(), 43), seed=9)
    checkpoint.save_model(folder, made.params, made.model_state, made.description | changes)
    return made


def test_weights_come_back_and_settings_come_from_the_folder(tmp_path):
    made = save(tmp_path / "model", mean=[0.5, 0.25, 0.125])
    config = config_for(tmp_path / "model")
    config.model.width = 7
    loaded = suspect.load(config)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, made.params)
    assert loaded.network.mean == (0.5, 0.25, 0.125)
    assert loaded.description["model"]["width"] == 2


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"num_classes": "ten"}, "num_classes"),
        ({"image_size": 64}, "image_size"),
        ({"mean": [0.5]}, "mean"),
        ({"std": ["a", "b", "c"]}, "std"),
        ({"model": "small_vgg"}, "model"),
        ({"std": [1.0, 0.0, 1.0]}, "std"),
        ({"mean": [float("nan"), 0.0, 0.0]}, "NaN is no JSON"),
        ({"model": {"name": "no_such_net", "width": 2}}, "no_such_net"),
        ({"model": {"name": ["small_vgg"], "width": 2}}, "expected one of"),
        ({"model": {"name": "small_vgg", "width": 10**9}}, "width"),
        ({"num_classes": 5_000_000}, "num_classes"),
        ({"num_classes": -1}, "num_classes"),
        ({"model": {"name": "small_vgg"}}, "model"),
        ({"held_out": "nothing"}, "held_out"),
        ({"held_out": {"dataset": "rendered_signs"}}, "held_out"),
        (
            {"held_out": describe(default_config(), 3)["held_out"] | {"fraction": "all"}},
            "held_out.fraction",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused(changes, part, tmp_path):
    save(tmp_path / "model", **changes)
    with pytest.raises(UserError) as caught:
        suspect.load(config_for(tmp_path / "model"))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("seed", 4, False),
        ("clean.fraction", 0.06, False),
        # A smaller fraction gives a part of the images held out for the larger one.
        ("clean.fraction", 0.04, True),
        ("clean.max_per_track", 3, False),
        # Images of another data set are none that the victim can have seen.
        ("dataset.name", "gtsrb", True),
        # No more are test images.
        ("clean.source", "test", True),
    ],
)
def test_clean_images_that_the_victim_was_trained_on_are_refused(key, value, allowed, tmp_path):
    save(tmp_path / "model")
    config = config_for(tmp_path / "model")
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    if allowed:
        suspect.load(config)
    else:
        with pytest.raises(UserError, match="defender's images"):
            suspect.load(config)


@pytest.mark.parametrize(
    ("trained", "now", "note"),
    [
        (("blend", "all_to_one", 0), "badnets", "attack.name = blend, not badnets"),
        (("badnets", "all_to_one", 7), "badnets", "attack.target = 7, not 0"),
        (("badnets", "all_to_one", 0), "badnets", ""),
        (("blend", "all_to_one", 0), "none", ""),  # nothing is measured
        (
            ("badnets", "all_to_one", 0, {"size": 4, "margin": 0}),
            "badnets",
            "attack.badnets.size = 4, not 3",
        ),
        (
            ("badnets", "all_to_one", 0, {"margin": 0}),
            "badnets",
            "attack.badnets.size = None, not 3",
        ),
        (("badnets", "all_to_one", 0, {"size": 3, "margin": 0}), "badnets", ""),
        (("blend", "all_to_one", 0, {"size": 4}), "badnets", "attack.name = blend, not badnets"),
        (("badnets", "all_to_one", 0, "[/x]"), "badnets", ""),
    ],
)
def test_another_attack_than_the_victims_is_said(trained, now, note, tmp_path, capsys):
    save(tmp_path / "model", attack=dict(zip(("name", "mode", "target", "options"), trained, strict=False)))
    config = config_for(tmp_path / "model")
    config.attack.name = now
    suspect.load(config)
    words = " ".join(capsys.readouterr().out.split())
    assert "small_vgg, width 2, 43 classes" in words
    assert note in words
    assert ("was trained with" in words) == bool(note)


def test_a_folder_says_what_attack_it_was_trained_with():
    config = config_for()
    config.attack.name, config.attack.target = "blend", 3
    options = {"alpha": 0.2, "pattern_seed": 0}
    expected = {"name": "blend", "mode": "all_to_one", "target": 3, "options": options}
    assert describe(config, 43)["attack"] == expected
    config.attack.name = "none"
    assert describe(config, 43)["attack"]["options"] == {}


@pytest.mark.parametrize("attack", [None, "[/x]"])
def test_a_folder_need_not_say_what_attack_it_was_trained_with(attack, tmp_path, capsys):
    save(tmp_path / "model", attack=attack)
    suspect.load(config_for(tmp_path / "model"))
    assert "was trained with" not in capsys.readouterr().out


def test_the_configuration_of_a_data_set_is_not_another_data_set():
    config = config_for()
    config.dataset.name = "cifar10:3.0.2"
    assert describe(config, 10)["held_out"]["dataset"] == "cifar10"


def test_options_of_a_network_are_described_and_built():
    config = config_for()
    config.model.name, config.model.width = "vit_small", 12
    config.model.vit_small.depth = 2
    described = describe(config, 3)
    assert described["model"] == {"name": "vit_small", "width": 12, "patch_size": 4, "depth": 2, "heads": 0}
    assert suspect.build(described, 0).num_classes == 3


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_width_of_0_is_the_networks_own(name):
    config = config_for()
    config.model.name, config.model.width = name, 0
    described = describe(config, 3)["model"]
    assert described["width"] == known_options(name)["width"] > 0
    size = described.pop("width")
    abstract_model(described.pop("name"), 3, 32, width=size, **described)  # every one can be built


@pytest.mark.parametrize(
    "told, asked, heads, note",
    [
        ({}, 0, 1, "assumed; model.vit_small.heads sets them"),
        ({"heads": "3"}, 0, 3, "as the file says"),
        ({"heads": "3"}, 2, 2, ""),
        ({"heads": "x"}, 4, 4, ""),
        ({"heads": "00000" + "2" * 5000}, 0, 1, "assumed; model.vit_small.heads sets them"),
    ],
)
def test_the_heads_of_a_file_are_told_or_asked_for_or_said_to_be_assumed(
    told, asked, heads, note, tmp_path, capsys
):
    config = config_for()
    config.model.name, config.model.width, config.model.vit_small.depth = "vit_small", 12, 1
    made = suspect.build(describe(config, 3), 0)
    path = tmp_path / "vit.safetensors"
    path.write_bytes(to_safetensors(to_torch(made.params, made.model_state), told))
    config = default_config()
    config.model.vit_small.heads, config.victim.checkpoint = asked, str(path)
    assert suspect.load(config).description["model"]["heads"] == heads
    words = " ".join(capsys.readouterr().out.split())
    assert f"recognised as vit_small, width 12, patch_size 4, depth 1, heads {heads}, 3 classes" in words
    assert words.endswith(f"3 classes (heads {note})" if note else "3 classes")


def test_heads_that_do_not_fit_are_refused(tmp_path):
    config = config_for()
    config.model.name, config.model.width, config.model.vit_small.depth = "vit_small", 12, 1
    made = suspect.build(describe(config, 3), 0)
    path = tmp_path / "vit.safetensors"
    path.write_bytes(to_safetensors(to_torch(made.params, made.model_state), {"heads": "5"}))
    config = default_config()
    config.victim.checkpoint = str(path)
    with pytest.raises(UserError, match="heads = 5"):
        suspect.load(config)


def test_a_folder_of_images_is_the_same_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "train").mkdir(parents=True)
    found = set()
    for name in ("./mine", "mine/", str(tmp_path / "mine"), "./other/../mine"):
        (tmp_path / "other").mkdir(exist_ok=True)
        config = default_config()
        config.dataset.name = name
        found.add(describe(config, 3)["held_out"]["dataset"])
    assert found == {str((tmp_path / "mine").resolve())}
