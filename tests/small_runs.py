"""A data set and settings so small that the whole line runs in seconds; used by tests of the command line."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

import pytest

from fip_jax.data.rendered_signs import RenderedSigns, builder

ROOT = Path(__file__).parent.parent

SMALL = {
    "model.width": 4,
    "victim.epochs": 3,
    "victim.batch_size": 64,
    "clean.fraction": 0.1,
    "defense.steps": 12,
    "defense.batch_size": 32,
    "defense.inversion.rate": 0.0,
    "smoothness.max_iterations": 2,
    "smoothness.over_time.num_images": 0,
    "report.representations": 0,
    "report.eval_every": 4,
    "report.eval_images": 43,
}


def prepare_small_signs(data_dir: Path) -> None:
    """Prepares `rendered_signs` with 516 + 86 images, which a run then finds ready in its data_dir."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SPLIT_SIZES", {"train": 516, "test": 86})
        RenderedSigns(data_dir=data_dir, file_format="array_record").download_and_prepare()


# Programs that run `fip_jax.main`.
REAL = ("-m", "fip_jax.main")
TINY = (str(ROOT / "tests" / "tiny_main.py"),)

# Programs are forked from a process that has imported what they will: that takes longer than many of these runs.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["fip_jax.defend", "fip_jax.experiment", "fip_jax.report.figures", "flax.nnx"])


def command(workdir: Path, data_dir: Path, program: tuple[str, ...] = REAL, **changes: object) -> list[str]:
    """The arguments of Python for a small run; `changes` are config keys with dots written as two underscores."""
    settings = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    return [
        *program,
        f"--config={ROOT / 'configs' / 'quickstart.py'}",
        f"--config.dataset.data_dir={data_dir}",
        f"--workdir={workdir}",
        *flags,
    ]


class Program:
    """Python with some arguments, in a process of its own, whose output goes to files."""

    def __init__(self, arguments: list[str]):
        self._folder = tempfile.TemporaryDirectory(prefix="fip_jax_output_")
        self._outputs = [Path(self._folder.name, name) for name in ("out", "err")]
        self._process = _FORKED.Process(target=_python, args=(arguments, self._outputs))
        self._process.start()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()

    def end(self) -> tuple[int | None, str, str]:
        """Waits; (exit status, or the signal below zero, standard output, standard error)."""
        self._process.join(timeout=240)
        status = self._process.exitcode
        self._process.kill()
        with self._folder:
            return status, *(path.read_text() for path in self._outputs)


def _python(arguments: list[str], outputs: list[Path]) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("GLIBC_TUNABLES", "")  # or the program would start anew to set it
    module = arguments[0] == "-m"
    sys.argv = arguments[module:]
    (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")


def finish(arguments: list[str]) -> tuple[int | None, str, str]:
    """(exit status, standard output, standard error) of Python with some arguments."""
    return Program(arguments).end()
