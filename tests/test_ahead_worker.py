"""A compiler that crashes is a row with the signal, and the next program has a new process."""

import contextlib
import os
import signal

from benchmarks.ahead.programs import Wanted
from benchmarks.ahead.worker import Worker


def crash_for_v4(connection):
    with contextlib.suppress(EOFError):
        while True:
            wanted = connection.recv()
            if wanted.chip == "v4":
                os.kill(os.getpid(), signal.SIGSEGV)
            connection.send({"chip": wanted.chip, "process": os.getpid()})


def test_a_crash_is_a_row():
    worker = Worker(crash_for_v4)
    rows = [worker.compiled(Wanted(chip, "ft", "small_vgg", 8, "O0")) for chip in ("v5e", "v6e", "v4", "v5p")]
    assert rows[0]["process"] == rows[1]["process"] != rows[3]["process"]
    assert rows[2]["error"] == "the compiler's process ended with SIGSEGV"
    assert rows[2]["chip"] == "v4" and rows[3]["chip"] == "v5p"
