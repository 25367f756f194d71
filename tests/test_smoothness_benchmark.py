"""The benchmark of eigenvalue and density: its Lanczos against a known spectrum, and both sides against each other."""

import json
import sys

import numpy as np
import pytest

from fip_jax.errors import UserError

torch = pytest.importorskip("torch", reason="the benchmark compares with PyTorch")
smoothness = pytest.importorskip("benchmarks.smoothness")


def test_lanczos_of_the_other_side_finds_a_known_spectrum():
    # diag(1, ..., 6) seen from all ones: six steps find it whole, each eigenvalue with weight 1/6.
    matrix = torch.diag(torch.arange(1.0, 7.0))
    found = smoothness._density(lambda vector: matrix @ vector, torch.ones(6), 6)
    np.testing.assert_allclose(
        [found["lowest"], found["highest"], found["second_moment"]], [1, 6, 91 / 6], rtol=1e-4
    )


def test_sides_that_disagree_are_refused():
    smoothness.check_agreement({"a": 10.0, "b": 0.001}, {"a": 10.01, "b": 0.0})
    with pytest.raises(UserError, match=r"^b: found 1 by PyTorch, expected 0.001 "):
        smoothness.check_agreement({"a": 10.0, "b": 0.001}, {"a": 10.0, "b": 1.0})
    with pytest.raises(UserError):
        smoothness.check_agreement({"a": 10.0}, {"a": np.nan})


def test_the_table_by_hand():
    row = {
        "seconds": {"fip_jax": [1.0, 2.0, 9.0], "PyTorch": [5.0, 4.0, 3.0]},
        "first_seconds": {"fip_jax": 7.0},
    }
    lines = smoothness.table({"density": row}, smoothness.PRESETS["full"]).splitlines()
    assert lines[-1] == "| density, 50 steps of Lanczos, one probe | 2 | 4 | 2.00 | 7 |"


def test_a_run_agrees_and_leaves_its_files(tmp_path, monkeypatch):
    out = tmp_path / "new" / "smoke"
    monkeypatch.setattr(sys, "argv", ["smoothness", "--preset=smoke", f"--out={out}"])
    smoothness.main()
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["torch"] == torch.__version__
    assert set(found["quantities"]) == {"lambda_max", "density"}
    assert len(out.with_suffix(".md").read_text().splitlines()) == 6
