"""A phase stopped anywhere and started again against one that was left alone: the same state, the same rows."""

import gc
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_trees_equal

from fip_jax import phase, purify
from fip_jax.checkpoint import Checkpoints
from fip_jax.errors import UserError
from fip_jax.objective import Objective, Settings
from fip_jax.timing import Lap, every
from fip_jax.workdir import MetricsLog, Workdir

NUM_STEPS, MEASURE_EVERY = 11, 4
SETTINGS = Settings(learning_rate=0.1, num_steps=NUM_STEPS, momentum=0.9, eta_f=0.01)
DATA = jnp.asarray(np.random.default_rng(0).normal(size=(NUM_STEPS, 3)), jnp.float32)


def loss_fn(params, model_state, batch, key):
    """A parabola around an entry of the data and noise of the step; the model state adds up the parameters."""
    centre = batch + 0.1 * jax.random.normal(key, batch.shape)
    return ((params["t"] - centre) ** 2).mean(), {"sum": model_state["sum"] + params["t"]}


OBJECTIVE = Objective(loss_fn, lambda params, model_state, example: params["t"] ** 2 * example)
STEP = purify.make_step(OBJECTIVE, SETTINGS, lambda key, step, data: data[step])


class Stop(Exception):
    """The crash."""


class Crash:
    """Raises `Stop` when it has been called at the `at`-th of the places called `where`, once."""

    def __init__(self, where=None, at=0):
        self._where, self._at, self._seen, self.happened = where, at, 0, False

    def __call__(self, where):
        if where == self._where:
            self._seen += 1
            if self._seen == self._at:
                self.happened = True
                raise Stop


def start():
    params = {"t": jnp.asarray(2.0)}
    return purify.init_state(SETTINGS, params, {"sum": jnp.asarray(0.0)}, jax.random.key(0))


def run(path, *, crash=None, data=DATA, measure=None, step=STEP, checkpoint_seconds=1e9):
    """(outcome, rows) of a start in the folder; the rates are a function of the state."""
    crash = crash or Crash()

    class Stepping:
        platform = "cpu"

        def __call__(self, *arguments):
            crash("step")
            return step(*arguments)

        def several(self, count):
            crash("step")
            return step.several(count)

    def measuring(state):
        crash("measure")
        return {"acc": float(state.params["t"]), "asr": None}

    workdir = Workdir(path, {"seed": 0})
    workdir.begin()
    try:
        plan = phase.Phase(
            "purify", "title", NUM_STEPS, MEASURE_EVERY, measure or measuring, checkpoint_seconds
        )
        outcome = phase.run(plan, workdir, Stepping(), start(), None, data)
    finally:
        workdir.close()
    return outcome, rows_in(path)


def rows_in(path):
    return MetricsLog(path / "metrics.jsonl").rows("purify")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed"))


def assert_states_equal(found, expected):
    """Equal bit for bit, the key too."""
    bare = [state._replace(key=jax.random.key_data(state.key)) for state in (found, expected)]
    assert_trees_equal(*bare)


def patch_crash(monkeypatch, crash):
    """Lets `crash` happen before a checkpoint is written, and after."""
    save = Checkpoints.save

    def saving(*arguments):
        crash("before saving")
        save(*arguments)
        crash("after saving")

    monkeypatch.setattr(Checkpoints, "save", saving)


def patch_due(monkeypatch, interval):
    """A checkpoint every so many steps, in place of seconds."""

    def counted(_):
        calls = iter(range(1, 1000))
        return lambda: next(calls) % interval == 0

    monkeypatch.setattr(phase, "every", counted)


@pytest.mark.parametrize(
    "where, at",
    [
        ("step", 1),
        ("step", 2),
        ("step", 5),
        ("step", 11),
        ("measure", 1),
        ("measure", 2),
        ("measure", 4),
        ("before saving", 1),
        ("before saving", 2),
        ("before saving", 4),
        ("after saving", 2),
        ("after saving", 4),
    ],
)
def test_a_run_that_was_stopped_equals_one_that_was_not(tmp_path, monkeypatch, undisturbed, where, at):
    # Rows at 0, 4, 8 and 11, checkpoints at 3, 6, 9 and 11: the mean of a row spans checkpoints.
    patch_due(monkeypatch, 3)
    crash = Crash(where, at)
    patch_crash(monkeypatch, crash)
    with pytest.raises(Stop):
        run(tmp_path, crash=crash)
    outcome, rows = run(tmp_path)
    assert crash.happened
    assert_states_equal(outcome.state, undisturbed[0].state)
    assert rows == undisturbed[1]


def test_a_run_stopped_at_every_step(tmp_path, monkeypatch, undisturbed):
    patch_due(monkeypatch, 1)
    starts = 0
    while True:
        starts += 1
        try:
            outcome, rows = run(tmp_path, crash=Crash("step", 3))
            break
        except Stop:
            assert starts < 10
    # Two of 11 steps in each start, and one is left for the sixth.
    assert starts == 6
    assert_states_equal(outcome.state, undisturbed[0].state)
    assert rows == undisturbed[1]


@pytest.mark.parametrize("where, at", [("step", 9), ("step", 2), ("before saving", 2), ("after saving", 1)])
def test_a_whole_interval_in_one_dispatch(tmp_path, monkeypatch, undisturbed, where, at):
    # As on a GPU: dispatches of 4, 4 and 3 steps, each of them a row and here a checkpoint.
    monkeypatch.setattr(purify, "steps_at_once", lambda every, platform: every)
    patch_due(monkeypatch, 1)
    crash = Crash(where, at)
    with monkeypatch.context() as patch:
        patch_crash(patch, crash)
        try:
            outcome, rows = run(tmp_path, crash=crash)
        except Stop:
            outcome, rows = run(tmp_path)
    assert crash.happened == (at < 9)
    assert float(outcome.state.params["t"]) == pytest.approx(
        float(undisturbed[0].state.params["t"]), rel=1e-6
    )
    assert [row["step"] for row in rows] == [0, 4, 8, 11]
    for row, expected in zip(rows[1:], undisturbed[1][1:], strict=True):
        for name in ("loss", "trace", "learning_rate", "acc"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name


def test_on_a_cpu_every_step_is_a_dispatch():
    assert STEP.platform == "cpu"
    assert [purify.steps_at_once(20, platform) for platform in ("cpu", "gpu", "tpu")] == [1, 20, 20]


def test_rows_have_the_means_of_their_interval(tmp_path, undisturbed):
    found = []
    purify.run(STEP, start(), None, DATA, NUM_STEPS, lambda _, __, metrics: found.append(metrics))
    before, *rows = undisturbed[1]
    # The start, where t = 2, has rates but no loss yet.
    assert before == {
        "phase": "purify",
        "step": 0,
        "loss": None,
        "trace": None,
        "limited": None,
        "acc": 2.0,
        "asr": None,
    }
    assert [row["step"] for row in rows] == [4, 8, 11]
    assert [row["phase"] for row in rows] == ["purify"] * 3
    for row, (first, last) in zip(rows, [(0, 4), (4, 8), (8, 11)], strict=True):
        for name in ("loss", "trace", "limited"):
            values = [float(getattr(metrics, name)) for metrics in found[first:last]]
            assert row[name] == pytest.approx(np.mean(values), rel=1e-12)
        assert row["trace"] > 0
        # The rate of the interval's last step, and rates as they were measured.
        assert row["learning_rate"] == float(found[last - 1].learning_rate)
        assert row["skipped"] == 0
        assert row["asr"] is None
    assert rows[-1]["acc"] == float(undisturbed[0].state.params["t"])


def test_steps_that_were_skipped_do_not_count(tmp_path):
    # Steps 2 and 5 to 8 (from 1) are not finite: 3 losses in the first interval, none in the second.
    data = DATA.at[jnp.array([1, 4, 5, 6, 7])].set(jnp.nan)
    found = []
    purify.run(STEP, start(), None, data, NUM_STEPS, lambda _, __, metrics: found.append(float(metrics.loss)))
    outcome, (_, *rows) = run(tmp_path, data=data)
    assert [row["skipped"] for row in rows] == [1, 5, 5]
    assert rows[0]["loss"] == pytest.approx(np.mean([found[k] for k in (0, 2, 3)]), rel=1e-12)
    assert rows[1]["loss"] is None
    assert rows[1]["trace"] is None
    assert rows[2]["loss"] == pytest.approx(np.mean(found[8:]), rel=1e-12)
    assert int(outcome.state.num_skipped) == 5


def test_a_finished_phase_takes_no_step(tmp_path, undisturbed):
    first, rows = run(tmp_path)
    again, same = run(tmp_path, crash=Crash("step", 1))
    assert same == rows == undisturbed[1]
    assert_states_equal(again.state, first.state)
    assert (again.seconds, again.compile_seconds) == (first.seconds, first.compile_seconds)


def saved_steps(monkeypatch):
    steps, save = [], Checkpoints.save

    def saving(self, step, state, notes):
        steps.append(step)
        save(self, step, state, notes)

    monkeypatch.setattr(Checkpoints, "save", saving)
    return steps


@pytest.mark.parametrize("seconds, expected", [(0.0, list(range(1, 12))), (1e9, [11])])
def test_how_often_checkpoints_are_written(tmp_path, monkeypatch, seconds, expected):
    steps = saved_steps(monkeypatch)
    run(tmp_path, checkpoint_seconds=seconds)
    assert steps == expected


def test_other_phases_keep_their_rows(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    run(tmp_path)
    log.append("victim", 9, loss=1.0)
    run(tmp_path)
    assert [row["step"] for row in log.rows("victim")] == [9]


def test_seconds_leave_out_the_measurements(tmp_path):
    def slow(state):
        time.sleep(0.2)
        return {"acc": 0.5}

    before = time.monotonic()
    outcome, _ = run(tmp_path, measure=slow)
    # Four measurements: at the start and after 4, 8 and 11 steps.
    assert 0 < outcome.seconds <= time.monotonic() - before - 0.8


def test_seconds_add_up_over_starts(tmp_path, monkeypatch):
    def slow(*arguments):
        time.sleep(0.05)
        return STEP(*arguments)

    patch_due(monkeypatch, 1)
    for _ in range(2):
        with pytest.raises(Stop):
            run(tmp_path, step=slow, crash=Crash("step", 4))
    outcome, _ = run(tmp_path, step=slow)
    # Eleven steps, three in each of the first two starts.
    assert 11 * 0.05 <= outcome.seconds < 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax over damaged files
def test_a_damaged_checkpoint_is_reported(tmp_path):
    run(tmp_path)
    folder = tmp_path / "checkpoints" / "purify" / "11"
    (folder / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError) as caught:
        run(tmp_path)
    assert str(folder) in str(caught.value)
    gc.collect()


def test_every_and_lap(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    due, lap = every(10.0), Lap()
    # Ten seconds after the start, then ten after the last yes.
    found = []
    for now[0] in (105.0, 110.0, 115.0, 121.0, 130.9, 131.0):
        found.append(due())
    assert found == [False, True, False, True, False, True]
    assert lap.read() == {"total": 31.0, "compile": 0.0}
