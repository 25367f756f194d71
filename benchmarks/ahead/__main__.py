"""What programs cost on accelerators that are not here: they are compiled ahead of time, and the result is read.

    python -m benchmarks.ahead --out=benchmarks/results/ahead

Needs `pip install ".[aot]"`, no accelerator and no driver; nothing runs. Writes OUT.json and OUT.md. A program that
OUT.json has a row of is not compiled again, and an error of its compiler is a row as well. Times of compiling are
those of the processors, since the machine may do other things meanwhile.
"""

import argparse
import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"  # whatever else is here
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.ahead import programs, table
from benchmarks.ahead.chips import CHIPS
from benchmarks.ahead.worker import Worker
from fip_jax.errors import UserError
from fip_jax.experiment import environment
from fip_jax.progress import console
from fip_jax.workdir import write_json, write_whole

COMPILERS = ("libtpu", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12")
# With its own choice the compiler for TPUs takes minutes a program; with little the cycles that it estimates mean
# nothing.
EFFORTS = {"cuda": "UNKNOWN", "tpu": "O0"}


def wanted(arguments: argparse.Namespace) -> list[programs.Wanted]:
    """All programs, the most telling ones first."""
    return [
        programs.Wanted(chip, kind, name, int(width), arguments.effort or EFFORTS[CHIPS[chip].platform])
        for kind in arguments.kinds
        for chip in arguments.chips
        for name, width in (network.split(":") for network in arguments.networks)
    ]


def main() -> None:
    """Compiles what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="files to write, without an ending")
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--kinds", nargs="+", choices=programs.KINDS, default=list(programs.KINDS))
    parser.add_argument(
        "--networks", nargs="+", default=["small_vgg:64", "preact_resnet18:64"], help="name:width"
    )
    parser.add_argument(
        "--effort",
        choices=("UNKNOWN", "O0", "O1", "O2", "O3"),
        help=f"of the compiler, UNKNOWN for its own choice; by default {EFFORTS}",
    )
    arguments = parser.parse_args()
    try:
        compile_missing(arguments.out, wanted(arguments))
    except UserError as error:
        parser.exit(2, f"{error}\n")


def compile_missing(out: Path, asked: list[programs.Wanted]) -> None:
    """Adds the programs that OUT.json does not have."""
    path = out.with_suffix(".json")
    rows = _rows_of(path) if path.exists() else []
    have = {tuple(row[name] for name in programs.Wanted._fields) for row in rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    worker = Worker()
    for program in asked:
        if tuple(program) in have:
            continue
        rows.append(worker.compiled(program))
        console.print(table.in_words(rows[-1]), markup=False)
        compilers = {"compilers": {name: version(name) for name in COMPILERS}}
        write_json(path, {"versions": environment()["versions"]} | compilers | {"rows": rows})
        write_whole(out.with_suffix(".md"), table.markdown(rows).encode())


def _rows_of(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text())["rows"]
        return [row for row in rows if programs.Wanted(*(row[name] for name in programs.Wanted._fields))]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: found no rows of this program, expected a file that it has written"
        ) from error


if __name__ == "__main__":
    main()
