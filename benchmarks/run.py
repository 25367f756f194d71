"""Times fip_jax beside PyTorch: steps of every method, whole purifications, top eigenvalue, evaluation.

    python -m pip install ".[bench]" && python -m benchmarks.run --preset=cpu --out=benchmarks/results/cpu

Each side runs in a process of its own, and they take turns in every round, so that a machine that slows down slows all
of them. Before a step is timed, PyTorch takes one from the weights, images and noise of ours: its loss, trace and
update have to be ours to float32 accuracy, else nothing is timed. Compiling is reported apart. Writes OUT.json after
every row, and OUT.md and OUT.png at the end.
"""

import argparse
import os
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed import table
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


def measure(work: Workload, workers: dict[str, Worker], preset: Preset) -> dict[str, dict[str, Any]]:
    """Seconds of a row by side, or the error where a side could not do it.

    Raises:
      Failed: a side computes something else than ours.
    """
    result: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    expected = None
    whole = "purification" in work.row
    for side, worker in workers.items():
        try:
            # Compared in float32, which may be another program than the one that is timed on a GPU.
            exact = work._replace(precision="float32") if work.is_step else work
            result[side] = {"first_seconds": worker.prepare(exact), "seconds": []}
        except Failed as error:
            result[side] = {"error": str(error)}
            if side == SIDES[0]:
                break  # nothing to compare with
            continue
        if work.is_step and side == SIDES[0]:
            expected = worker.take_step(exact)
        elif expected is not None:
            result[side]["differences"] = worker.compare(exact, expected)
        try:
            if exact != work:
                worker.prepare(work)
            done, seconds = (1, preset.seconds) if whole else worker.run(1)
            counts[side] = max(1, round(preset.seconds * done / max(seconds, 1e-9)))
        except Failed as error:
            result[side] = {"error": str(error)}
    for _ in range(preset.whole_rounds if whole else preset.rounds):
        for side, count in counts.items():
            done, seconds = workers[side].run(count)
            result[side]["seconds"].append(seconds / done)
    for side in counts:
        found = result[side]
        found["median"] = statistics.median(found["seconds"])
        found["quartiles"] = quartiles(found["seconds"])
        found["peak_mib"] = workers[side].peak()
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
    """Measures everything; returns what `OUT.json` holds."""
    names = sides()
    workers = {side: Worker(side) for side in names}
    content: dict[str, Any] = {"rows": []}
    try:
        content["load"] = busy()
        content["environment"] = {side: worker.about() for side, worker in workers.items()}
        for name, network in preset.networks.items():
            for row in network.ours:
                work = Workload(row, name, network.width, preset.num_clean, precision=preset.precision)
                taking_part = {side: workers[side] for side in names if network.takes_part(side, row)}
                measured = measure(work, taking_part, preset)
                content["rows"].append(work._asdict() | {"sides": measured})
                write_json(out.with_suffix(".json"), content)
                console.print(table.line(content["rows"][-1]), markup=False)
                if preset.fresh:
                    for worker in workers.values():
                        worker.close()
                    workers = {side: Worker(side) for side in names}
    finally:
        for worker in workers.values():
            worker.close()
    return content


def main() -> None:
    """Measures, and writes numbers, table and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="files to write, without an ending")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        content = run(PRESETS[arguments.preset], arguments.out)
    except Failed as error:
        sys.exit(f"benchmarks.run: {error}")
    arguments.out.with_suffix(".md").write_text(table.markdown(content))
    table.draw(content, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
