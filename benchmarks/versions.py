"""Times the same steps under several Pythons, each with the jax that it has, to say which to take.

    python -m benchmarks.versions --pythons .venv311/bin/python,.venv313/bin/python --out=benchmarks/results/versions

Each Python runs in a process of its own and they take turns in every round. Writes OUT.json and OUT.md. Both sides take
their code from this checkout; the first Python is the one that the ratios are to.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import ours
from benchmarks.speed.workload import ROWS, Workload
from fip_jax import compiled
from fip_jax.experiment import environment
from fip_jax.pages import LARGE_PAGES
from fip_jax.progress import console
from fip_jax.workdir import write_json, write_whole

TIMED = ("ft", "fip", "fast_fip", "evaluation")


class Other:
    """A process of one Python, which answers a line of JSON with another."""

    def __init__(self, python: str):
        self._python = python
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.versions", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | LARGE_PAGES | {"PYTHONPATH": os.getcwd()},
        )

    def ask(self, what: str, value: Any = None) -> Any:
        """The answer of `_answer` there. Raises SystemExit where that process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([what, value]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._python} ended; what it said is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()


def serve() -> None:
    """Answers what `Other` asks, until nobody does."""
    compiled.spread_convolutions()
    task: Any = None
    for line in sys.stdin:
        what, value = json.loads(line)
        start = time.perf_counter()
        answer: Any
        if what == "about":
            answer = environment()
        elif what == "prepare":
            task = ours.prepare(Workload(**value))
            task.warm_up()
            answer = time.perf_counter() - start
        else:
            done = task.run(value)
            answer = (time.perf_counter() - start) / done
        print(json.dumps(answer), flush=True)


def measure(work: Workload, others: list[Other], rounds: int, seconds: float) -> dict[str, Any]:
    """A row: for each process the seconds until everything was compiled, and those of one step, round by round."""
    first = [other.ask("prepare", work._asdict()) for other in others]
    counts = [max(1, round(seconds / other.ask("run", 1))) for other in others]
    times: list[list[float]] = [[] for _ in others]
    for _ in range(rounds):
        for index, other in enumerate(others):
            times[index].append(other.ask("run", counts[index]))
    return work._asdict() | {"first_seconds": first, "seconds": times}


def markdown(content: dict[str, Any]) -> str:
    """A line a row: medians, their ratio to the first Python's, and the first seconds in brackets."""
    names = [
        f"Python {about['versions']['python']}, jax {about['versions']['jax']}"
        for about in content["environment"]
    ]
    lines = [f"| small_vgg, width 32 | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in content["rows"]:
        medians = [statistics.median(seconds) for seconds in row["seconds"]]
        cells = [
            f"{1e3 * median:.0f} ms, {median / medians[0]:.2f} ({first:.0f} s)"
            for median, first in zip(medians, row["first_seconds"], strict=True)
        ]
        lines.append(f"| {ROWS[row['row']][0]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, and writes numbers and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--pythons", default=sys.executable, help="interpreters with fip_jax's packages, by commas"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="that a measurement takes, by repetition")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/versions"), help="files to write, without an ending"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    others = [Other(python) for python in arguments.pythons.split(",")]
    content: dict[str, Any] = {
        "load": os.getloadavg()[0],
        "environment": [other.ask("about") for other in others],
    }
    content["rows"] = []
    for row in TIMED:
        content["rows"].append(
            measure(Workload(row, "small_vgg", 32), others, arguments.rounds, arguments.seconds)
        )
        write_json(arguments.out.with_suffix(".json"), content)
    for other in others:
        other.close()
    text = markdown(content)
    write_whole(arguments.out.with_suffix(".md"), text.encode())
    console.print(text, markup=False)


if __name__ == "__main__":
    main()
