"""A data set and settings so small that the whole line runs in seconds; used by tests of the command line."""

import os
import subprocess
import sys
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


# A program that runs `fip_jax.main`.
REAL = ("-m", "fip_jax.main")
TINY = (str(ROOT / "tests" / "tiny_main.py"),)


def command(workdir: Path, data_dir: Path, program: tuple[str, ...] = REAL, **changes: object) -> list[str]:
    """The command line of a small run; `changes` are config keys with dots written as two underscores."""
    settings = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    return [
        sys.executable,
        *program,
        f"--config={ROOT / 'configs' / 'quickstart.py'}",
        f"--config.dataset.data_dir={data_dir}",
        f"--workdir={workdir}",
        *flags,
    ]


def start(arguments: list[str], cwd: Path = ROOT) -> subprocess.Popen:
    """Starts a command with this checkout importable; its output is piped as text."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        arguments, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(arguments: list[str], cwd: Path = ROOT) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a command."""
    process = start(arguments, cwd)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err
