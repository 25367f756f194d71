"""The benchmark against PyTorch: what it writes, what it does where a side fails, and that both sides do the same."""

import json
from importlib.util import find_spec

import pytest
from PIL import Image

from benchmarks import growth, run
from benchmarks.speed import table
from benchmarks.speed.worker import SIDES, Failed, Worker
from benchmarks.speed.workload import ROWS, Workload, configure

TINY = {"width": 2, "num_clean": 16, "num_classes": 3, "network": "small_vgg"}


PREPARED = []


class Pretended:
    """A worker of known speed: 2 s a repetition for us, 3 s for PyTorch, and no compiler."""

    def __init__(self, side):
        self.side, self.asked = side, []

    def prepare(self, work):
        if self.side == "PyTorch compiled":
            raise Failed("RuntimeError: no compiler")
        PREPARED.append((self.side, work.row))
        return 7.0

    def run(self, count):
        self.asked.append(count)
        return count, count * {"fip_jax": 2.0, "PyTorch": 3.0}[self.side]

    def peak(self):
        return 12.0

    def take_step(self, work):
        return "ours"

    def compare(self, work, expected):
        assert expected == "ours"
        return {"loss": 0.0}

    def about(self):
        return {"device": "none", "versions": {"x": "1"}}

    def close(self):
        pass


PRESET = run.Preset({"small_vgg": run.Network(4, ("ft", "purification"), compiled=("ft",))}, seconds=9.0)


@pytest.fixture
def pretended(monkeypatch):
    PREPARED.clear()
    monkeypatch.setattr(run, "Worker", Pretended)
    monkeypatch.setattr(run, "sides", lambda: list(SIDES))


@pytest.fixture
def content(pretended, tmp_path):
    return run.run(PRESET, tmp_path / "out")


def test_times_by_hand(content, tmp_path):
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(content))
    step, whole = content["rows"]
    assert (step["row"], whole["row"]) == ("ft", "purification")
    assert step["sides"]["fip_jax"]["median"] == 2.0
    assert step["sides"]["PyTorch"]["seconds"] == [3.0] * 5
    assert whole["sides"]["PyTorch"]["seconds"] == [3.0] * 3
    assert step["sides"]["PyTorch compiled"] == {
        "differences": {"loss": 0.0},
        "error": "RuntimeError: no compiler",
    }
    assert "PyTorch compiled" not in whole["sides"]
    assert table.speedup(step) == 1.5


def test_repetitions_fill_the_time_that_was_asked_for():
    workers = {side: Pretended(side) for side in SIDES[:2]}
    preset = run.Preset({}, seconds=9.0, rounds=2)
    run.measure(Workload("ft", "small_vgg", 4), workers, preset)
    # One to know the speed, then 9 s of 2 s each, and of 3 s.
    assert workers["fip_jax"].asked == [1, 4, 4]
    assert workers["PyTorch"].asked == [1, 3, 3]


def test_table_and_figure(content, tmp_path):
    text = table.markdown(content)
    assert "| FT step | 2.00 s (2.00 s to 2.00 s) | 3.00 s (3.00 s to 3.00 s) | failed | 1.50 | 5 |" in text
    assert "| FT step | 7.0 s, 12 MiB | 7.0 s, 12 MiB | – |" in text
    table.draw(content, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.width > 300


@pytest.mark.parametrize("row", ROWS)
def test_rows_name_their_method(row):
    config = configure(Workload(row, "small_vgg", 4))
    expected = {"ft": "ft", "ft_sam": "ft_sam", "fast_fip": "fast_fip", "fast_purification": "fast_fip"}
    assert config.defense.name == expected.get(row, "fip")
    assert (config.defense.fip.num_probes == 0) == (row == "fip_exact")


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("row", ["fip", "fast_fip", "official"])
def test_sides_agree_before_they_are_timed(row, monkeypatch):
    from benchmarks import pytorch_baseline
    from benchmarks.speed import agreement

    work = Workload(row, **TINY)
    expected = agreement.take_step(work)
    found = agreement.compare(work, expected, compiled=False)
    assert set(found) == {"loss", "trace", "update"}
    assert max(found.values()) < 1e-10
    assert agreement.agree(found)
    # One of the sides with a trace that is a little larger.
    whole = pytorch_baseline.Purification._trace_fn
    monkeypatch.setattr(pytorch_baseline.Purification, "_trace_fn", lambda *a: (1 + 1e-4) * whole(*a))
    found = agreement.compare(work, expected, compiled=False)
    assert found["trace"] == pytest.approx(1e-4, rel=1e-3)
    assert not agreement.agree(found)


def test_a_row_that_disagrees_is_told_and_left_out(monkeypatch, pretended, tmp_path, capsys):
    differ = {"ft": 0.5, "fip": float("nan"), "fast_fip": 1e-9}
    monkeypatch.setattr(Pretended, "compare", lambda self, work, _: {"loss": differ[work.row]})
    preset = run.Preset({"small_vgg": run.Network(4, tuple(differ), compiled=())})
    content = run.run(preset, tmp_path / "out")
    assert {row for _, row in PREPARED} == {"fast_fip"}
    assert "small_vgg FT step is not ours in float64: PyTorch by 0.5 of the loss: left out" in " ".join(
        capsys.readouterr().out.split()
    )
    text = table.markdown(content)
    assert "Left out: small_vgg FT step is not ours in float64: PyTorch by 0.5 of the loss.\n" in text
    assert "| FT step" not in text
    assert "| Fast FIP step | 2.00 s" in text
    assert table.speedup(content["rows"][2]) == 1.5
    table.draw(content, tmp_path / "out.png")


def test_a_second_start_goes_on_from_what_was_measured(pretended, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as stopped:

        def stop(self, work):
            raise KeyboardInterrupt

        stopped.setattr(Pretended, "peak", lambda self: 12.0 if PREPARED[-1][1] == "ft" else stop(self, None))
        with pytest.raises(KeyboardInterrupt):
            run.run(run.Preset({"small_vgg": run.Network(4, ("ft", "fip"), compiled=())}), out)
    PREPARED.clear()
    content = run.run(run.Preset({"small_vgg": run.Network(4, ("ft", "fip"), compiled=())}), out)
    assert PREPARED == [("fip_jax", "fip"), ("PyTorch", "fip")]
    assert [row["row"] for row in content["rows"]] == ["ft", "fip"]
    assert "goes on with 1 rows from before" in " ".join(capsys.readouterr().out.split())
    run.run(run.Preset({"small_vgg": run.Network(4, ("ft", "fip"), compiled=())}, rounds=3), out)
    assert PREPARED[2:] == [(side, row) for row in ("ft", "fip") for side in SIDES[:2]]
    assert "measured anew" in capsys.readouterr().out


def test_a_row_that_failed_is_tried_again(content, tmp_path):
    PREPARED.clear()
    run.run(PRESET, tmp_path / "out")
    assert PREPARED == [("fip_jax", "ft"), ("PyTorch", "ft")]  # whose compiled column had failed


def test_a_side_that_fails_in_the_middle_leaves_the_others(monkeypatch, pretended, tmp_path):
    def run_until_killed(self, count):
        self.asked.append(count)
        if self.side == "PyTorch" and len(self.asked) == 3:
            raise Failed("the process ended")
        return count, 2.0 * count

    monkeypatch.setattr(Pretended, "run", run_until_killed)
    preset = run.Preset({"small_vgg": run.Network(4, ("ft",), compiled=())}, rounds=4)
    sides = run.run(preset, tmp_path / "out")["rows"][0]["sides"]
    assert sides["PyTorch"] == {"differences": {"loss": 0.0}, "error": "the process ended"}
    assert sides["fip_jax"]["seconds"] == [2.0] * 4


def test_a_process_that_ended_is_followed_by_another():
    worker = Worker("fip_jax")
    worker._process.kill()
    with pytest.raises(Failed, match="the process ended"):
        worker.about()
    assert worker.about()["hardware"]["platform"] == "cpu"
    worker.close()


def test_quartiles_by_hand():
    assert run.quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 4.0)
    assert run.quartiles([7.0]) == (7.0, 7.0)


# PyTorch's own, when its forward mode is first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("row", ["fip", "fast_fip", "official", "lambda_max", "evaluation"])
def test_pytorch_does_every_row(row):
    from benchmarks.speed import pytorch

    task = pytorch.prepare(Workload(row, **TINY), compiled=False)
    task.warm_up()
    assert task.run(2) == 2


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
def test_pytorch_begins_every_purification_anew():
    from benchmarks import pytorch_baseline as baseline
    from benchmarks.speed import pytorch
    from fip_jax.config import defense_settings

    work = Workload("fip", **TINY)
    one = baseline.Purification(pytorch.build(work), defense_settings(configure(work)))
    start, draw = one.snapshot(), pytorch._batches(work)
    one.step(draw(), one.noise_for(16), 0.1)
    assert any((start[name] != tensor).any() for name, tensor in one.params.items())
    one.restore(start)
    assert all((start[name] == tensor).all() for name, tensor in (one.params | one.state).items())


def test_exponents_of_powers():
    assert growth.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert growth.exponent([10, 100, 1000], [7, 7, 7]) == pytest.approx(0)


def test_growth_is_measured_and_drawn(monkeypatch, tmp_path):
    cost = {
        "estimated": lambda point: 2.0 * point.examples * point.probes,
        "exact": lambda point: point.examples**2,
    }
    monkeypatch.setattr(
        growth,
        "measure",
        lambda quantity, point, rounds: {
            "seconds": cost.get(quantity, lambda point: point.images)(point) * point.width,
            "bytes": None if quantity == "product" else point.examples,
        },
    )
    rows = growth.grow(dict.fromkeys(growth.SIZES, (1, 2, 4)), 1)
    found = {(row["quantity"], row["changed"]): row for row in rows if "seconds_exponent" in row}
    assert found["estimated", "examples"]["seconds_exponent"] == pytest.approx(1)
    assert found["exact", "examples"]["seconds_exponent"] == pytest.approx(2)
    assert found["exact", "examples"]["bytes_exponent"] == pytest.approx(1)
    assert "bytes_exponent" not in found["product", "images"]
    growth.draw(rows, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as image:
        assert image.width > 1000


def test_memory_is_taken_apart():
    """Of a program with 100 bytes an example and unit of width, 8 a parameter and 4 for each of both, or none."""
    for each in (0, 4):
        rows = []
        for name in ("examples", "width"):
            for size in growth.SIZES[name]:
                point = growth.Point()._replace(**{name: size})
                parameters = 300 * point.width**2 + 700 * point.width
                size_of = 100 * point.examples * point.width + (8 + each * point.examples) * parameters
                row = {"quantity": "exact", "changed": name, "size": size, "parameters": parameters}
                rows.append(row | {"bytes": size_of})
        found = growth.shares(rows, "exact")
        assert found["bytes_per_example_and_width"] == pytest.approx(100, rel=1e-3)
        assert found["bytes_per_parameter"] == pytest.approx(8, rel=1e-3)
        assert found["bytes_per_example_and_parameter"] == pytest.approx(each, abs=1e-3)
