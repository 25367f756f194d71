"""The study of sharpness: networks that are alike but for the attack, areas under curves by hand, and a tiny study."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles import TinyNet

from benchmarks import sharpness
from benchmarks.purification import models, rows
from benchmarks.sharpness import PRESETS, area_under_roc, configure, pending, table
from fip_jax.models import MODELS

PLACES = models.Places(Path("/i"), Path("/m"), Path("/o"), Path("/g"), Path("/d"), Path("/v"))


@pytest.mark.parametrize(
    "benign, backdoored, expected",
    [
        ([1.0, 2.0], [3.0, 4.0], 1.0),
        ([3.0, 4.0], [1.0, 2.0], 0.0),
        ([2.0], [1.0, 2.0, 3.0, 3.0], 2.5 / 4),  # pairs: lost, tied, won, won
        ([1.0], [], np.nan),
    ],
)
def test_the_area_is_the_share_of_pairs_in_order(benign, backdoored, expected):
    np.testing.assert_equal(area_under_roc(benign, backdoored), expected)


def test_networks_differ_by_attack_and_seed_alone():
    def flat(attack, seed):
        config = configure(PRESETS["full"], attack, seed, PLACES).to_dict()
        return config | {"attack": config["attack"] | {"name": ""}, "seed": 0}

    assert flat("none", 0) == flat("badnets", 1) == flat("blend", 2)
    assert configure(PRESETS["full"], "blend", 2, PLACES).attack.name == "blend"
    assert configure(PRESETS["full"], "blend", 2, PLACES).seed == 2


def row(attack, seed, value, converged=True):
    found = {"dataset": "gtsrb", "attack": attack, "seed": seed}
    for when in ("before", "after"):
        names = (
            "lambda_max_hessian",
            "lambda_max_fisher",
            "trace_fisher",
            "lambda_max_relative",
            "trace_relative",
        )
        found |= {f"{name}_{when}": value for name in names}
        found |= {f"converged_{kind}_{when}": converged for kind in ("fisher", "hessian", "relative")}
        # As Lanczos has them, 2 % above.
        nodes = json.dumps({"nodes": [[-value, 0.0, 1.02 * value]]})
        found |= {f"density_{matrix}_{when}": nodes for matrix in ("fisher", "hessian")}
    return found


def test_the_table_by_hand(tmp_path):
    path = tmp_path / "found.csv"
    for found in (
        row("none", 0, 2.0),
        row("none", 1, 4.0),
        row("badnets", 0, 3.0),
        row("blend", 0, 8.0, False),
    ):
        rows.append(path, found)
    lines = table(rows.read(path)).splitlines()
    assert lines[2].startswith("| none | 2 | 3 ± 1.41 | ")
    assert lines[3].startswith("| badnets | 1 | 3 | ")
    # Of the four pairs of a backdoored and a benign network three are in order.
    assert "| trace_fisher | 0.75 |" in lines
    assert lines[-2] == "Top eigenvalues that had not converged: 6 of 24."
    assert lines[-1] == "By power iteration and by Lanczos they differ by 2 % at most."
    assert pending(PRESETS["full"], path) == [
        ("none", 2),
        ("badnets", 1),
        ("badnets", 2),
        ("blend", 1),
        ("blend", 2),
    ]


def test_a_killed_study_goes_on_to_its_picture(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "small_vgg", TinyNet)
    configured = sharpness.configure

    def at_hand(*arguments):
        config = configured(*arguments)
        config.dataset.data_dir, config.clean.fraction = str(data_dir), 0.1
        return config

    monkeypatch.setattr(sharpness, "configure", at_hand)
    flags = [f"--{name}={tmp_path / name}" for name in ("out", "gtsrb", "data", "victims")]
    monkeypatch.setattr(sys, "argv", ["sharpness", "--preset=smoke", *flags])
    monkeypatch.setattr(sharpness.compiled, "keep", lambda: None)
    monkeypatch.setattr(sharpness, "ATTACKS", ("badnets",))
    sharpness.main()
    (found,) = rows.read(tmp_path / "out.csv")
    assert found["attack"] == "badnets"
    assert float(found["trace_fisher_before"]) > 0
    assert float(found["trace_fisher_after"]) != float(found["trace_fisher_before"])
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert "| badnets | 1 | " in (tmp_path / "out.md").read_text()
    capsys.readouterr()
    monkeypatch.setattr(sharpness, "measure", None)  # nothing is left to measure
    sharpness.main()
    assert len(rows.read(tmp_path / "out.csv")) == 1
