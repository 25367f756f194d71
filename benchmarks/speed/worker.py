"""One side of a benchmark in a process of its own, so that the threads of one library never slow the other.

While one side works the others wait at a pipe and cost nothing.
"""

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.speed import agreement, ours
from benchmarks.speed.agreement import Step
from benchmarks.speed.workload import Task, Workload
from fip_jax import compiled
from fip_jax.pages import LARGE_PAGES

SIDES = ("fip_jax", "PyTorch", "PyTorch compiled")


class Failed(RuntimeError):
    """A side could not do a row; the last line of what it said."""


class Worker:
    """A process for one of `SIDES`.

    Args:
      side: one of them.
      environment: variables to set in the process.
    """

    def __init__(self, side: str, environment: dict[str, str] | None = None):
        # Several processes share a GPU: none may take most of its memory at its start. Large pages help all of them.
        self._environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | LARGE_PAGES | (environment or {})
        self._side = side
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._side), daemon=True)
        with _set(self._environment):
            self._process.start()
        other.close()

    def prepare(self, work: Workload) -> float:
        """Seconds from nothing to a warm task, compiling included. Raises Failed."""
        return self._ask("prepare", work)

    def run(self, count: int) -> tuple[int, float]:
        """(repetitions, their seconds in all). Raises Failed."""
        return self._ask("run", count)

    def peak(self) -> float:
        """Highest memory since everything was warm, over what the process held before `prepare`, in MiB."""
        return self._ask("peak", None)

    def take_step(self, work: Workload) -> Step:
        """As `agreement.take_step`, by our side. Raises Failed."""
        return self._ask("take_step", work)

    def compare(self, work: Workload, expected: Step) -> dict[str, float]:
        """As `agreement.compare`, by a side of PyTorch. Raises Failed."""
        return self._ask("compare", (work, expected))

    def about(self) -> dict[str, Any]:
        """Versions and device."""
        return self._ask("about", None)

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()

    def _ask(self, what: str, value: Any) -> Any:
        try:
            self._pipe.send((what, value))
            good, answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self.close()
            self._start()  # for the next row
            raise Failed("the process ended") from None
        if not good:
            raise Failed(answer)
        return answer


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """Variables of the environment, for processes that are started here."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(pipe: Connection, side: str) -> None:
    compiled.spread_convolutions()
    server = _Server(side)
    while True:
        try:
            what, value = pipe.recv()
        except EOFError:  # nobody asks any more
            return
        try:
            answer = getattr(server, what)(value)
        except Exception as error:
            traceback.print_exc()
            pipe.send((False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
        else:
            pipe.send((True, answer))


class _Server:
    """What a `Worker` asks for, in its process."""

    def __init__(self, side: str):
        self._side, self._compiled, self._held = side, side == "PyTorch compiled", 0.0
        self._task: Task | None = None

    def prepare(self, work: Workload) -> float:
        self._task = None
        ours.weights(work)  # no part of anybody's memory or time
        self._held = _held(self._side)
        start = time.perf_counter()
        task: Task
        if self._side == "fip_jax":
            task = ours.prepare(work)
        else:
            from benchmarks.speed import pytorch

            task = pytorch.prepare(work, compiled=self._compiled)
        task.warm_up()
        self._task = task
        seconds = time.perf_counter() - start
        _reset_peak(self._side)
        return seconds

    def run(self, count: int) -> tuple[int, float]:
        assert self._task is not None
        start = time.perf_counter()
        done = self._task.run(count)
        return done, time.perf_counter() - start

    def peak(self, _: None) -> float:
        return (_peak(self._side) - self._held) / 2**20

    def take_step(self, work: Workload) -> Step:
        return agreement.take_step(work)

    def compare(self, given: tuple[Workload, Step]) -> dict[str, float]:
        return agreement.compare(*given, compiled=self._compiled)

    def about(self, _: None) -> dict[str, Any]:
        if self._side == "fip_jax":
            from fip_jax.experiment import environment

            return environment()
        import torch

        from benchmarks.speed import pytorch

        name = torch.cuda.get_device_name() if pytorch.device() == "cuda" else "cpu"
        return {"versions": {"torch": torch.__version__}, "device": name, "threads": torch.get_num_threads()}


def _held(side: str) -> float:
    return 0.0 if _on_gpu(side) else _from_status("VmRSS")


def _reset_peak(side: str) -> None:
    """Forgets the highest memory so far; JAX's on a GPU cannot be forgotten."""
    if not _on_gpu(side):
        # Linux: 5 sets the high-water mark of the resident memory back.
        Path("/proc/self/clear_refs").write_text("5")
    elif side != "fip_jax":
        import torch

        torch.cuda.reset_peak_memory_stats()


def _peak(side: str) -> float:
    if not _on_gpu(side):
        return _from_status("VmHWM")
    if side == "fip_jax":
        import jax

        return float(jax.devices()[0].memory_stats()["peak_bytes_in_use"])
    import torch

    return float(torch.cuda.max_memory_allocated())


def _on_gpu(side: str) -> bool:
    if side == "fip_jax":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available()


def _from_status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
