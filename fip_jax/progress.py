"""What a person sees while waiting: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)

SECONDS_BETWEEN_LINES = 15.0


class Task:
    """A phase of known length.

    Args:
      title: what is being done.
      total: steps in all.
      done: steps done before.
    """

    def __init__(self, title: str, total: int, done: int = 0):
        self.title, self.total, self.done = title, total, done
        self._interactive = sys.stdout.isatty()
        self._printed = time.monotonic()
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
        if not self._interactive and kind is None:
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
        console.print(f"  {self.title}: {self.done}/{self.total}  {self._values}")
