"""Where the time of a step goes, by kind of operation.

    python -m benchmarks.profile --out=benchmarks/results/profile

XLA's own trace of a few steps, its operations summed by what they do. On a CPU on one core alone: what several cores
share is in no trace as long as it takes. Writes OUT.json and OUT.md.
"""

import argparse
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.speed import ours
from benchmarks.speed.workload import ROWS, Workload
from fip_jax import compiled
from fip_jax.experiment import environment
from fip_jax.pages import ask_for_large_pages
from fip_jax.progress import console
from fip_jax.workdir import write_json, write_whole

# Kind: HLO operations; an operation of several counts as the first kind that it has one of.
KINDS = {
    "convolutions, forwards and towards the inputs": {"convolution"},
    "matrix products: gradients of kernels, dense layers": {"dot"},
    "sums: normalisation and its gradients": {"reduce", "reduce-window"},
    "by elements": {"add", "multiply", "subtract", "divide", "maximum", "exponential", "select", "compare"},
}
REST = "copies: patches, padding, transposes"
CONTAINERS = {"while", "call", "conditional"}  # what they do is in the trace as well

_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = .*? ([a-z][a-z\-]*)\(")
_CALLED = re.compile(r"calls=%([\w.\-]+)")


def kinds_of(program: str) -> dict[str, str]:
    """The kind of every instruction of a compiled program, by its name; `program` is its HLO text."""
    inside: dict[str, set[str]] = {}
    found: dict[str, tuple[str, str | None]] = {}
    computation = ""
    for line in program.splitlines():
        if begins := _COMPUTATION.match(line):
            computation = begins[1]
        elif instruction := _INSTRUCTION.match(line):
            name, operation = instruction.groups()
            inside.setdefault(computation, set()).add(operation)
            called = _CALLED.search(line)
            found[name] = operation, called and called[1]
    return {
        name: _kind({operation} | inside.get(called or "", set()))
        for name, (operation, called) in found.items()
        if operation not in CONTAINERS
    }


def _kind(operations: set[str]) -> str:
    return next((kind for kind, some in KINDS.items() if operations & some), REST)


def profile(work: Workload, steps: int) -> dict[str, Any]:
    """Milliseconds of a step by kind, and in all."""
    start = ours.begin(work)
    program = jax.jit(lambda *arguments: start.step_fn(*arguments))
    step = program.lower(start.state, start.anchor, start.data).compile()
    jax.block_until_ready(step(start.state, start.anchor, start.data))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                jax.block_until_ready(step(start.state, start.anchor, start.data))
        events = list(_operations(Path(folder)))
    kinds = kinds_of(step.as_text() or "")
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for name, milliseconds in events:
        if name in kinds:
            spent[kinds[name]] += milliseconds / steps
    return work._asdict() | {"milliseconds": spent, "total": sum(spent.values()), "steps": steps}


def _operations(folder: Path) -> Iterator[tuple[str, float]]:
    """(instruction, milliseconds) of everything in a trace."""
    (path,) = folder.rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                if name := dict(event.stats).get("hlo_op"):
                    yield str(name), event.duration_ns / 1e6


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a kind, a column a step."""
    heads = [f"{row['network']} {row['width']}: {ROWS[row['row']][0]}" for row in rows]
    lines = [" | ".join(["|", *heads]) + " |", "|---" * (len(rows) + 1) + "|"]
    spent = {kind: [row["milliseconds"][kind] for row in rows] for kind in (*KINDS, REST)}
    for name, values in (spent | {"in all": [row["total"] for row in rows]}).items():
        lines.append(" | ".join([f"| {name}", *(f"{value:.0f} ms" for value in values)]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Profiles the steps that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="files to write, without an ending")
    parser.add_argument("--networks", nargs="+", default=["small_vgg:32"], help="name:width")
    parser.add_argument("--rows", nargs="+", default=["ft", "fip", "fast_fip"], help="steps")
    parser.add_argument("--steps", type=int, default=5, help="in a trace")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    compiled.spread_convolutions()
    rows = []
    for network in arguments.networks:
        name, width = network.split(":")
        rows += [profile(Workload(row, name, int(width)), arguments.steps) for row in arguments.rows]
    content = table(rows)
    write_json(arguments.out.with_suffix(".json"), environment() | {"rows": rows})
    write_whole(arguments.out.with_suffix(".md"), content.encode())
    console.print(content, markup=False)


if __name__ == "__main__":
    ask_for_large_pages()
    main()
