"""A process that compiles: a compiler that crashes ends it, and not the benchmark."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.ahead import programs


def _serve(connection: Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            connection.send(programs.compiled(connection.recv()))


class Worker:
    """The process, begun when it is needed, and again after a crash.

    Args:
      serve: what the process does with its end of a pipe.
    """

    def __init__(self, serve: Callable[[Connection], None] = _serve) -> None:
        self._serve = serve
        self._context = multiprocessing.get_context("spawn")
        self._process: multiprocessing.process.BaseProcess | None = None

    def compiled(self, wanted: programs.Wanted) -> dict[str, Any]:
        """As `programs.compiled`; the error of a crash names the signal."""
        if self._process is None:
            self._here, there = self._context.Pipe()
            self._process = self._context.Process(target=self._serve, args=(there,), daemon=True)
            self._process.start()
            there.close()  # so that the end of the process ends the connection
        try:
            self._here.send(wanted)
            return self._here.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            self._process = None
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return wanted._asdict() | {"error": f"the compiler's process ended with {how}"}
