"""What a person sees while waiting: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fip_jax.shown import shown


class _Screen(Console):
    """A console on which text from elsewhere stays text, and whose end is not the end of a run."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As of rich; what nobody takes any more, such as a pipe to `head`, or a disk without room, is dropped."""
        parts = (shown(part, "\n") if isinstance(part, str) else part for part in objects)
        try:
            super().print(*parts, **options)
        except (OSError, ValueError):  # a closed file raises the latter
            self._drop()

    def on_broken_pipe(self) -> None:
        """As of rich, which would end the program."""
        self._drop()

    def _drop(self) -> None:
        """From now on nothing is printed, and nothing is left for Python to complain about at the end."""
        self.quiet = True
        with contextlib.suppress(AttributeError, OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


console = _Screen(highlight=False, soft_wrap=True)

SECONDS_BETWEEN_LINES = 15.0


class Task:
    """A phase of known length.

    Args:
      title: what is being done.
      total: steps in all.
      done: steps done before.
      brief: whether it is mostly over soon: elsewhere than on a terminal it then says nothing at its end.
    """

    def __init__(self, title: str, total: int, done: int = 0, *, brief: bool = False):
        self.title, self.total, self.done = title, total, done
        self._interactive, self._brief = sys.stdout is not None and sys.stdout.isatty(), brief
        self._done_before = done
        self._printed = time.monotonic()
        self._values = ""
        self._first: tuple[float, int] | None = None  # when and where the first steps were over
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=console,
            disable=not self._interactive,
        )
        self._bar = self._progress.add_task(title, total=total, completed=done, values="")

    def __enter__(self) -> "Task":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if not self._interactive and not self._brief and kind is None:
            self._print()

    def update(self, done: int, **values: float | None) -> None:
        """Shows `done` steps and the latest values of whatever is measured."""
        self.done = done
        if self._first is None and done > self._done_before:
            self._first = time.monotonic(), done
        if values:
            self._values = "  ".join(f"{k} {v:.4g}" for k, v in values.items() if v is not None)
        self._progress.update(self._bar, completed=done, values=self._values)
        if not self._interactive and time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        words = [f"  {self.title}: {self.done}/{self.total}", self._remaining(), self._values]
        console.print("  ".join(filter(None, words)))

    def _remaining(self) -> str:
        """How long it will take at the speed since the first steps, most of which is compiling."""
        begun, first = self._first or (0.0, self.done)
        if self.done == first or self.done >= self.total:
            return ""
        seconds = (time.monotonic() - begun) * (self.total - self.done) / (self.done - first)
        return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"
