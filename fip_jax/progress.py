"""What a person sees while waiting: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fip_jax.shown import shown


class _Screen(Console):
    """A console on which text from elsewhere, such as names of files, stays text."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As of rich."""
        super().print(*(shown(part, "\n") if isinstance(part, str) else part for part in objects), **options)


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
        self._interactive, self._brief = sys.stdout.isatty(), brief
        self._begun, self._done_before = time.monotonic(), done
        self._printed = self._begun
        self._values = ""
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
        """How long it will take at the speed so far, as soon as one is known."""
        done = self.done - self._done_before
        if not done or self.done >= self.total:
            return ""
        seconds = (time.monotonic() - self._begun) * (self.total - self.done) / done
        return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"
