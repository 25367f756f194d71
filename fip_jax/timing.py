"""Seconds, and how many of them went into compiling."""

import time
from collections.abc import Callable

import jax

_COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class Clock:
    """Wall-clock seconds spent in compilation since the clock was made."""

    def __init__(self) -> None:
        self.compile = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in _COMPILE_EVENTS:
            self.compile += duration_secs


_clock = Clock()


class Lap:
    """Seconds of a stretch of work: in all, and of those in lowering and compiling."""

    def __init__(self) -> None:
        self._start, self._compile_start = time.monotonic(), _clock.compile

    def read(self) -> dict[str, float]:
        """`{"total": s, "compile": s}` so far."""
        return {"total": time.monotonic() - self._start, "compile": _clock.compile - self._compile_start}


def every(seconds: float) -> Callable[[], bool]:
    """A function that answers whether this many seconds have passed since it last said yes."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due
