"""The command line: `python -m fip_jax.main --config=configs/gtsrb.py --workdir=DIR`."""

import errno
import gc
import os
import shlex
import sys
import threading
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
    import jax

    from fip_jax import compiled, experiment

    # What importing made stays: to look through it for garbage again and again takes a tenth of a short run.
    gc.freeze()
    gc.enable()
    compiled.set_up()
    try:
        command = shlex.join(["python", "-m", "fip_jax.main", *sys.argv[1:]])
        summary = experiment.run(_CONFIG.value, Path(os.path.expanduser(_WORKDIR.value or "")), command)
    except UserError as error:
        _refuse(str(error))
    except OSError as error:
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
    # Orbax logs and prints what its threads raised, which it then raises here as well: once is enough.
    logging.set_verbosity(logging.FATAL)
    threading.excepthook = lambda _: None
    return rest


def _refuse(message: str) -> None:
    print(f"fip_jax: {shown(message)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    ask_for_large_pages()
    app.run(_main, flags_parser=_parse)
