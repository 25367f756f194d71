"""What an attack has learnt, kept in a folder: which of it is taken, and which refused."""

import jax
import numpy as np
import pytest
from attackers import untrained

from fip_jax import checkpoint
from fip_jax.attacks import create_attack
from fip_jax.attacks.storage import load_state, save_state
from fip_jax.config import default_config
from fip_jax.errors import UserError

SHAPE = (8, 8, 3)


def settings_of(name):
    settings = default_config().attack
    settings.name = name
    return settings


def saved(path, name):
    """(settings, state) of an attack that has learnt nothing, kept in a folder."""
    settings = settings_of(name)
    state = untrained(create_attack(name, SHAPE, settings[name]), SHAPE)
    save_state(path, settings, SHAPE, state)
    return settings, state


def test_a_trigger_that_knows_no_labels_is_for_any(tmp_path):
    settings, state = saved(tmp_path / "attack", "issba")
    settings.target, settings.mode = 1, "all_to_all"
    jax.tree.map(np.testing.assert_array_equal, load_state(tmp_path / "attack", settings, SHAPE), state)


def test_what_keeps_a_victim_from_shortcuts_is_of_its_labels(tmp_path):
    settings, state = saved(tmp_path / "attack", "fba")
    settings.target = 1
    with pytest.raises(UserError, match=r"^attack\.target: found 1, expected 0, for which .* was trained"):
        load_state(tmp_path / "attack", settings, SHAPE)
    # The trigger alone knows no labels.
    found = load_state(tmp_path / "attack", settings, SHAPE, to_train=False)
    jax.tree.map(np.testing.assert_array_equal, found, state)


@pytest.mark.parametrize(
    "name, state",
    [
        ("troj", {"other": np.zeros((6, 6, 3), np.float32)}),
        ("troj", {"square": {"square": np.zeros((6, 6, 3), np.float32)}}),
        ("troj", {"square": np.zeros((6, 5, 3), np.float32)}),
        ("lira", {"generator": {}}),
        ("lira", {"generator": np.zeros(3, np.float32)}),
        ("fba", {}),
        ("clb", np.zeros(3, np.float32)),  # whose trigger needs nothing of it
    ],
)
def test_a_state_of_other_things(name, state, tmp_path):
    settings = settings_of(name)
    save_state(tmp_path / "attack", settings, SHAPE, state)
    with pytest.raises(UserError, match=rf"^attack\.state: .* does not hold what the attack {name} learns"):
        load_state(tmp_path / "attack", settings, SHAPE)


def test_a_state_without_what_only_a_training_needs(tmp_path):
    settings, state = saved(tmp_path / "whole", "fba")
    save_state(tmp_path / "attack", settings, SHAPE, {"painter": state["painter"]})
    load_state(tmp_path / "attack", settings, SHAPE, to_train=False)
    with pytest.raises(UserError, match=r"does not hold what the attack fba learns"):
        load_state(tmp_path / "attack", settings, SHAPE)


def test_a_state_that_is_not_finite(tmp_path):
    settings = settings_of("troj")
    square = np.zeros((6, 6, 3), np.float32)
    square[0, 0, 0] = np.nan
    save_state(tmp_path / "attack", settings, SHAPE, {"square": square})
    with pytest.raises(UserError, match=r"attack: found weights that are not finite"):
        load_state(tmp_path / "attack", settings, SHAPE)


def test_a_state_without_what_it_was_made_for(tmp_path):
    checkpoint.save_model(tmp_path / "attack", {}, {}, {"format": "fip_jax attack 2", "name": "lira"})
    with pytest.raises(UserError, match=r"^attack\.state: .* is for images of None, expected \[8, 8, 3\]"):
        load_state(tmp_path / "attack", settings_of("lira"), SHAPE)
