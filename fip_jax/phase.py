"""A stretch of steps that survives a crash: checkpoints, metrics and progress around `purify.run`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fip_jax import parallel, purify
from fip_jax.checkpoint import Checkpoints
from fip_jax.errors import UserError
from fip_jax.objective import Anchor
from fip_jax.per_example import PyTree
from fip_jax.progress import Task
from fip_jax.timing import Lap, every
from fip_jax.workdir import MetricsLog, Workdir

Row = dict[str, Any]  # columns of `metrics.jsonl`: numbers, truth values and None
Measure = Callable[[purify.State], Row]


# Columns that are means over the applied steps since the row before.
MEANS = ("loss", "trace", "limited")
# What a person sees of a row while the phase runs, where it is there.
SHOWN = ("acc", "asr", "ra")


class Phase(NamedTuple):
    """What to run and how to follow it.

    Attributes:
      name: of the checkpoints and of the rows in `metrics.jsonl`.
      title: for people.
      num_steps: steps in all.
      measure_every: steps between rows; the last step always has one.
      measure: rates of a state, for the rows alone; nothing depends on them.
      checkpoint_seconds: seconds between checkpoints.
    """

    name: str
    title: str
    num_steps: int
    measure_every: int
    measure: Measure
    checkpoint_seconds: float


class Outcome(NamedTuple):
    """The last state, and the phase's seconds over all starts, without measuring: all, and compiling."""

    state: purify.State
    seconds: float
    compile_seconds: float


class _Recorder:
    """Follows the steps of a phase: means of loss and trace into the log, states into checkpoints."""

    def __init__(self, phase: Phase, workdir: Workdir, checkpoints: Checkpoints, task: Task, notes: dict):
        self._phase, self._workdir, self._checkpoints, self._task = phase, workdir, checkpoints, task
        MetricsLog(workdir.path / "metrics.jsonl").rewind(phase.name, task.done or -1)
        self._due = every(phase.checkpoint_seconds)
        self._pending: list[purify.Metrics] = []
        self._notes = notes
        self._lap = Lap()

    def start(self, state: purify.State) -> None:
        """The row before the first step."""
        if self._task.done == 0:
            self._workdir.log_row(self._phase.name, 0, **dict.fromkeys(MEANS), **self._phase.measure(state))
            self._lap = Lap()

    def __call__(self, taken: int, state: purify.State, metrics: purify.Metrics) -> None:
        self._pending.append(metrics)
        # Two single steps ahead keep a device busy; more would only make the progress shown untrue.
        ahead = 0 if metrics.loss.ndim else 2
        if len(self._pending) > ahead:
            self._pending[-1 - ahead].loss.block_until_ready()
        last = taken == self._phase.num_steps
        if last or taken % self._phase.measure_every == 0:
            self._row(taken, state)
        else:
            self._task.update(taken)
        if last or self._due():
            self._collect()
            self._workdir.check_held()
            self._checkpoints.save(taken, parallel.on_one(state), self._notes)
            self._workdir.save()

    def _collect(self) -> None:
        """Moves the pending metrics into the running sums, and the time since the last call into the notes."""
        for metrics in self._pending:
            applied = np.asarray(metrics.applied)
            self._notes["count"] += int(applied.sum())
            for name in MEANS:
                column = np.asarray(getattr(metrics, name), np.float64)
                self._notes[name] += float(column.sum(where=applied))
        self._pending.clear()
        spent = self._lap.read()
        self._notes["seconds"] += spent["total"]
        self._notes["compile"] += spent["compile"]
        self._lap = Lap()

    def _row(self, taken: int, state: purify.State) -> None:
        learning_rate = float(np.asarray(self._pending[-1].learning_rate).flat[-1])
        self._collect()
        count = self._notes["count"]
        values = {name: self._notes[name] / count if count else None for name in MEANS}
        rates = self._phase.measure(parallel.on_one(state))
        skipped = int(state.num_skipped)
        self._workdir.log_row(
            self._phase.name, taken, **values, learning_rate=learning_rate, skipped=skipped, **rates
        )
        self._task.update(taken, loss=values["loss"], **{name: rates.get(name) for name in SHOWN})
        self._notes.update(dict.fromkeys(MEANS, 0.0), count=0)
        self._lap = Lap()


def run(
    phase: Phase,
    workdir: Workdir,
    step_fn: purify.StepFn,
    state: purify.State,
    anchor: Anchor | None,
    data: PyTree,
) -> Outcome:
    """Runs a phase from its last checkpoint, or from `state` where there is none.

    Args:
      phase: what to run.
      workdir: where checkpoints and metrics go.
      step_fn: from `purify.make_step`.
      state: the start; consumed.
      anchor: for `step_fn`.
      data: for `step_fn`.

    Raises:
      UserError: a damaged checkpoint, or not one finite step.
    """
    checkpoints = Checkpoints(workdir.path / "checkpoints" / phase.name)
    notes = {"count": 0, "seconds": 0.0, "compile": 0.0} | dict.fromkeys(MEANS, 0.0)
    try:
        saved = checkpoints.restore(state)
        if saved is not None:
            state, notes = saved
        done = int(np.asarray(state.step))
        with Task(phase.title, phase.num_steps, done) as task:
            recorder = _Recorder(phase, workdir, checkpoints, task, notes)
            recorder.start(state)
            at_once = purify.steps_at_once(phase.measure_every, step_fn.platform)
            state = purify.run(step_fn, state, anchor, data, phase.num_steps, recorder, at_once)
    finally:
        checkpoints.close()
    if int(state.num_skipped) == phase.num_steps:
        raise UserError(
            f"{phase.name}: not one of {phase.num_steps} steps was finite, expected a smaller learning_rate"
        )
    return Outcome(state, notes["seconds"], notes["compile"])
