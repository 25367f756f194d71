"""What is compiled for a TPU and a GPU that are not here: no float64, the state given away, no exchange but sums.

    pip install ".[aot]" && python -m pytest tests/test_ahead.py

Without that extra it is skipped.
"""

import jax
import pytest

from benchmarks.ahead import programs
from benchmarks.ahead.programs import Kind, Wanted

pytest.importorskip("libtpu", reason="the extra aot is not installed")
pytest.importorskip("jax_plugins.xla_cuda12", reason="the extra aot is not installed")
pytest.importorskip("nvidia.cuda_nvcc", reason="the extra aot is not installed")

NETWORK, WIDTH, STEPS = "small_vgg", 8, 3
KINDS = {
    "ft": Kind("", "ft"),
    "fip": Kind("", "fip"),
    "evaluation": Kind("", "evaluation"),
    "pmap": Kind("", "ft", devices=4),
    "loop": Kind("", "ft", steps=STEPS),
}
CASES = [
    *(("H100", kind) for kind in ("ft", "fip", "pmap", "loop")),
    *(("v5e", kind) for kind in ("ft", "evaluation", "pmap", "loop")),
]


@pytest.mark.parametrize("chip, kind", CASES)
def test_a_program_compiles_for_a_chip(chip, kind, monkeypatch):
    monkeypatch.setattr(programs, "KINDS", KINDS)
    row = programs.compiled(Wanted(chip, kind, NETWORK, WIDTH, "O0"))
    assert "error" not in row, row["error"]
    assert row["doubles"] == 0
    assert row["callbacks"] == []
    assert sum(row["operations"].values()) > 1e8
    _, params, model_state = programs._weights(NETWORK, WIDTH)
    if kind == "evaluation":
        assert row["donated_bytes"] == 0
        assert set(row["operations"]) == {"bf16 x 6"}  # float32, as far as a TPU has it
        return
    size, statistics = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (params, model_state))
    # Parameters and their momentum; a key of two numbers, and three counters.
    assert row["donated_bytes"] == 2 * size + statistics + 5 * 4
    # Merged: the gradient in one, and a layer's statistics of the batch in one each way, which wait for each other.
    normalised = len(jax.tree.leaves(model_state)) // 2
    assert row["collectives"] == ({"all-reduce": 2 * normalised + 1} if kind == "pmap" else {})
    assert (STEPS in row["loops"]) == (kind == "loop")
