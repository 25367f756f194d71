"""Times fip_jax beside PyTorch: steps of every method, whole purifications, top eigenvalue, evaluation.

    python -m pip install ".[bench]" && python -m benchmarks.run --preset=cpu --out=benchmarks/results/cpu

Each side runs in a process of its own, and they take turns in every round, so that a machine that slows down slows all
of them. Before a step is timed, PyTorch takes one from the weights, images and noise of ours, in float64: its loss,
trace and update have to be ours, else the row is left out. Compiling is reported apart. Writes OUT.json after every
row, and OUT.md and OUT.png at the end. A second start goes on from the rows that OUT.json has, where preset, versions
and hardware are the same.
"""

import argparse
import json
import os
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed import table
from benchmarks.speed.agreement import agree
from benchmarks.speed.worker import SIDES, Failed, Worker
from benchmarks.speed.workload import ROWS, Workload
from fip_jax.progress import console
from fip_jax.workdir import write_json

EVERY = tuple(ROWS)


class Network(NamedTuple):
    """A network, and the `ROWS` that each side does on it: PyTorch's none that ours does not.

    Attributes:
      width: of the network.
      ours: rows of fip_jax.
      eager: rows of PyTorch.
      compiled: rows of compiled PyTorch: on a CPU compiling takes a minute or more for each.
    """

    width: int
    ours: tuple[str, ...] = EVERY
    eager: tuple[str, ...] = EVERY
    compiled: tuple[str, ...] = EVERY

    def takes_part(self, side: str, row: str) -> bool:
        """Whether one of `SIDES` does a row."""
        return row in dict(zip(SIDES, (self.ours, self.eager, self.compiled), strict=True))[side]


class Preset(NamedTuple):
    """How much is measured.

    Attributes:
      networks: by name.
      num_clean: clean images.
      rounds: measurements of each row and side; of whole purifications `whole_rounds`.
      whole_rounds: see `rounds`.
      seconds: that a measurement takes at least, by repetition.
      precision: of the losses; the Fisher terms are float32.
      fresh: whether every row has new processes, without which a GPU's peak memory is that of all rows before.
    """

    networks: dict[str, Network]
    num_clean: int = 392
    rounds: int = 5
    whole_rounds: int = 3
    seconds: float = 1.0
    precision: str = "float32"
    fresh: bool = False


PRESETS = {
    "cpu": Preset(
        {
            # PyTorch's whole purification is FIP, which both of ours are held against.
            "small_vgg": Network(
                32, eager=tuple(row for row in EVERY if row != "fast_purification"), compiled=("ft", "fip")
            ),
            "preact_resnet18": Network(16, ("ft", "fip", "fast_fip"), compiled=()),
        },
        rounds=3,
        whole_rounds=1,
        seconds=1.0,  # several steps in a row, as in a purification: the first after a pause is slow
    ),
    "gpu": Preset(
        {"small_vgg": Network(32), "preact_resnet18": Network(64)},
        num_clean=500,
        precision="tensorfloat32",
        fresh=True,
    ),
    "smoke": Preset(
        {"small_vgg": Network(2, ("ft", "lambda_max"), compiled=())},
        num_clean=16,
        rounds=2,
        whole_rounds=1,
        seconds=0.0,
    ),
}


def compare(work: Workload, checkers: dict[str, Worker]) -> dict[str, dict[str, Any]]:
    """How far each side's step is from ours, by side, or the error where a side could not take it."""
    found: dict[str, dict[str, Any]] = {}
    try:
        expected = checkers[SIDES[0]].take_step(work)
    except Failed as error:
        return {SIDES[0]: {"error": str(error)}}
    for side, checker in checkers.items():
        if side != SIDES[0]:
            try:
                found[side] = {"differences": checker.compare(work, expected)}
            except Failed as error:
                found[side] = {"error": str(error)}
    return found


def measure(work: Workload, workers: dict[str, Worker], preset: Preset) -> dict[str, dict[str, Any]]:
    """Seconds of a row by side, or the error where a side could not do it."""
    result: dict[str, dict[str, Any]] = {side: {"seconds": []} for side in workers}
    counts: dict[str, int] = {}
    whole = "purification" in work.row

    def begin(side: str) -> None:
        result[side]["first_seconds"] = workers[side].prepare(work)
        done, seconds = (1, preset.seconds) if whole else workers[side].run(1)
        counts[side] = max(1, round(preset.seconds * done / max(seconds, 1e-9)))

    def time(side: str) -> None:
        done, seconds = workers[side].run(counts[side])
        result[side]["seconds"].append(seconds / done)

    def end(side: str) -> None:
        found = result[side]
        found["median"] = statistics.median(found["seconds"])
        found["quartiles"] = quartiles(found["seconds"])
        found["peak_mib"] = workers[side].peak()

    rounds = preset.whole_rounds if whole else preset.rounds
    for act in (begin, *[time] * rounds, end):
        for side in workers:
            if "error" not in result[side]:
                try:
                    act(side)
                except Failed as error:
                    result[side] = {"error": str(error)}
    return result


def quartiles(values: list[float]) -> tuple[float, float]:
    """The lower and the upper one, between the values that there are."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def busy() -> float:
    """Processes that wanted to run over the last minute, for each core; says so where it is many."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > 0.5:
        console.print(
            f"this machine is busy (load {load:.1f} a core): the threads of PyTorch wait for each other and suffer "
            "more from that than ours, so that ratios mean little",
            markup=False,
        )
    return load


def sides() -> list[str]:
    """Those of `SIDES` that can be had here."""
    if find_spec("torch") is None:
        console.print(
            'PyTorch is not installed: its columns are left out (pip install ".[bench]")', markup=False
        )
        return [SIDES[0]]
    return list(SIDES)


def run(preset: Preset, out: Path) -> dict[str, Any]:
    """Measures what `OUT.json` does not hold yet; returns what it holds then."""
    names = sides()
    workers = {side: Worker(side) for side in names}
    # Processes of their own, so that nothing is timed beside what a comparison has left in memory.
    checkers = {side: Worker(side) for side in names}
    content: dict[str, Any] = {"rows": [], "preset": preset._asdict(), "load": busy()}
    try:
        content["environment"] = {side: worker.about() for side, worker in workers.items()}
        kept = rows_before(out.with_suffix(".json"), content)
        for work in workloads(preset):
            taking_part = [side for side in names if preset.networks[work.network].takes_part(side, work.row)]
            if work in kept:
                content["rows"].append(kept[work])
                continue
            row = measure_row(
                work,
                {side: workers[side] for side in taking_part},
                {side: checkers[side] for side in taking_part},
                preset,
            )
            content["rows"].append(row)
            write_json(out.with_suffix(".json"), content)
            console.print(table.line(row), markup=False)
            if preset.fresh:
                for worker in workers.values():
                    worker.close()
                workers = {side: Worker(side) for side in names}
    finally:
        for worker in (*workers.values(), *checkers.values()):
            worker.close()
    return content


def workloads(preset: Preset) -> list[Workload]:
    """All rows, in order."""
    return [
        Workload(row, name, network.width, preset.num_clean, precision=preset.precision)
        for name, network in preset.networks.items()
        for row in network.ours
    ]


def measure_row(
    work: Workload, workers: dict[str, Worker], checkers: dict[str, Worker], preset: Preset
) -> dict[str, Any]:
    """A row of `OUT.json`: times, or where the sides compute different things, by how much."""
    compared = compare(work, checkers) if work.is_step and len(workers) > 1 else {}
    wrong = [
        f"{side} by {value:.2g} of the {name}"
        for side, found in compared.items()
        for name, value in found.get("differences", {}).items()
        if not agree(found["differences"])
    ]
    if wrong:
        return work._asdict() | {"sides": {}, "disagree": ", ".join(wrong)}
    able = {side: worker for side, worker in workers.items() if "error" not in compared.get(side, {})}
    measured = measure(work, able, preset)
    return work._asdict() | {
        "sides": {side: compared.get(side, {}) | measured.get(side, {}) for side in workers}
    }


def rows_before(path: Path, content: dict[str, Any]) -> dict[Workload, dict[str, Any]]:
    """The rows of an earlier start that are as good as new: same preset, versions and hardware, nothing failed."""
    if not path.exists():
        return {}
    before, now = json.loads(path.read_text()), json.loads(json.dumps(content))
    if any(before.get(key) != now[key] for key in ("preset", "environment")):
        console.print(f"{path}: of another preset, version or machine; measured anew", markup=False)
        return {}
    rows = [row for row in before["rows"] if not any("error" in found for found in row["sides"].values())]
    console.print(f"{path}: goes on with {len(rows)} rows from before; delete it to begin anew", markup=False)
    return {Workload(**{name: row[name] for name in Workload._fields}): row for row in rows}


def main() -> None:
    """Measures, and writes numbers, table and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--out", type=Path, help="files to write, without an ending (runs/speed/PRESET)")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs", "speed", arguments.preset)
    out.parent.mkdir(parents=True, exist_ok=True)
    content = run(PRESETS[arguments.preset], out)
    text = table.markdown(content)
    out.with_suffix(".md").write_text(text)
    table.draw(content, out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
