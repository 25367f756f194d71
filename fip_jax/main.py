"""The command line: `python -m fip_jax.main --config=configs/gtsrb.py --workdir=DIR`."""

import os
import signal
import sys
from typing import Any


def _stop(*_: Any) -> None:
    """Ends at once: while modules are imported, a KeyboardInterrupt could come out anywhere."""
    os.write(2, b"fip_jax: stopped\n")
    os._exit(130)


if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _stop)  # before the rest is imported

# ruff: noqa: E402
import errno
import gc
import logging as python_logging
import shlex
import threading
import warnings
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from fip_jax.errors import UserError
from fip_jax.grades import EXIT_STATUS, GRADES
from fip_jax.pages import ask_for_large_pages
from fip_jax.shown import shown

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file; see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
_FAIL_ON = flags.DEFINE_list(
    "fail_on", [], f"Verdicts that end with exit status {EXIT_STATUS}: {', '.join(GRADES)}."
)
_REFUSED = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG)
flags.mark_flags_as_required(["config", "workdir"])


def _main(_: list[str]) -> None:
    gc.disable()
    # Imported here, so that a mistyped flag is answered at once.
    from fip_jax import compiled, experiment

    # What importing made stays: to look through it for garbage again and again takes a tenth of a short run.
    gc.freeze()
    gc.enable()
    compiled.set_up()
    _run(experiment.run)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)  # what is left is to end threads


def _run(run: Any) -> None:
    import jax

    try:
        if signal.getsignal(signal.SIGINT) is _stop:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command = shlex.join(["python", "-m", "fip_jax.main", *sys.argv[1:]])
        summary = run(_CONFIG.value, Path(os.path.expanduser(_WORKDIR.value or "")), command)
    except UserError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse_if_gone()
        if error.errno not in _REFUSED:
            raise
        _refuse(
            f"{error.filename or _WORKDIR.value}: {os.strerror(error.errno)}, expected what can be read, and a "
            "folder to write to"
        )
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _refuse("out of memory, expected a smaller model.width, defense.batch_size or smoothness.chunk_size")
    except KeyboardInterrupt:
        print("fip_jax: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception:
        _refuse_if_gone()  # Orbax raises many types over a folder that is not there any more
        raise
    if summary["verdict"] in _FAIL_ON.value:
        print(f"fip_jax: --fail_on: the verdict is {summary['verdict']}", file=sys.stderr)
        sys.exit(EXIT_STATUS)


def _parse(arguments: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(arguments)
        dict(_CONFIG.value)
    except Exception as error:  # a config file is a program and may raise anything
        # Flags wrap what a config file raised, traceback and all; the last line says what it was.
        message = str(error.args[0] if error.args else error).strip()
        message = message.split("\n")[-1] if "Traceback" in message else " ".join(message.split())
        if not isinstance(error, flags.Error) and not message.startswith("--"):
            message = f"--config: cannot be read as a config with these settings ({message})"
        _refuse(message)
    if not _WORKDIR.value:
        _refuse("--workdir: found nothing, expected the path of a folder")
    if unknown := [word for word in _FAIL_ON.value if word not in GRADES]:
        _refuse(f"--fail_on: found {unknown[0]!r}, expected some of {', '.join(GRADES)}")
    if len(rest) > 1:
        _refuse(f"found the argument {rest[1]!r}, expected only flags")
    quieten()
    return rest


def quieten() -> None:
    """Silences what Orbax's threads and coroutines raise and log: it is raised here as well, and once is enough."""
    logging.set_verbosity(logging.FATAL)
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    python_logging.getLogger("asyncio").disabled = True
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _refuse_if_gone() -> None:
    """Says why, where the workdir was removed while the run was writing to it."""
    if not Path(os.path.expanduser(_WORKDIR.value or "")).exists():
        _refuse(
            f"--workdir: {_WORKDIR.value} was removed or moved while the run was writing to it, expected it to stay"
        )


def _refuse(message: str) -> None:
    print(f"fip_jax: {shown(message)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    ask_for_large_pages()
    app.run(_main, flags_parser=_parse)
