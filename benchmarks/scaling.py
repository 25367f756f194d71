"""How steps and the top eigenvalue get faster with more devices (`parallel.mode=pmap`).

    python -m benchmarks.scaling --out=benchmarks/results/scaling

On GPUs, with 1, 2, 4, ... of those that are visible. Without one, with as many virtual devices of the CPU: they share
its cores, so that nothing can get faster, and what is seen is the price of spreading the work alone.

Two questions, each with its ideal: the same examples over more devices (seconds as 1 / devices; on virtual devices
always the same), and as many examples for each device (seconds always the same; on virtual devices as devices). Each
number of devices has a process of its own, and they take turns. Writes OUT.json and OUT.png.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.speed.worker import Worker
from benchmarks.speed.workload import ROWS, Workload
from fip_jax.progress import console
from fip_jax.workdir import write_json

COUNTS = (1, 2, 4, 8)
STYLES = {"ft": ("#0072b2", "o"), "fip": ("#d55e00", "^"), "lambda_max": ("#009e73", "s")}
KINDS = {"strong": "the same examples", "weak": "as many examples for each device"}
VIRTUAL = "virtual devices of one CPU share its cores: what spreading costs, not what more devices gain"


def variables(virtual: bool, count: int) -> dict[str, str]:
    """What a process has to find in its environment to see `count` devices."""
    if virtual:
        flag = f"--xla_force_host_platform_device_count={count}"
        return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(count)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[:count])}


def ideal(kind: str, virtual: bool, count: int) -> float:
    """Seconds on `count` devices as a multiple of those on one, if spreading the work cost nothing."""
    work = count if kind == "weak" else 1
    return float(work) if virtual else work / count


def spread(work: Workload, kind: str, count: int) -> Workload:
    """The work of `count` devices."""
    times = count if kind == "weak" else 1
    return work._replace(times=times, num_clean=work.num_clean * times, mode="pmap")


def measure(
    work: Workload, kind: str, workers: dict[int, Worker], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """A row for each number of devices."""
    first, repetitions = {}, {}
    for count, worker in workers.items():
        first[count] = worker.prepare(spread(work, kind, count))
        done, spent = worker.run(1)
        repetitions[count] = max(1, round(seconds * done / max(spent, 1e-9)))
    found: dict[int, list[float]] = {count: [] for count in workers}
    for _ in range(rounds):
        for count, worker in workers.items():
            done, spent = worker.run(repetitions[count])
            found[count].append(spent / done)
    return [
        {
            "row": work.row,
            "kind": kind,
            "devices": count,
            "first_seconds": first[count],
            "seconds": found[count],
            "median": statistics.median(found[count]),
        }
        for count in workers
    ]


def with_ratios(rows: list[dict[str, Any]], virtual: bool) -> list[dict[str, Any]]:
    """The rows of one measurement with their times as multiples of the ideal: 1 is perfect, 2 half as fast."""
    one = next(row["median"] for row in rows if row["devices"] == 1)
    return [
        row | {"times_ideal": row["median"] / one / ideal(row["kind"], virtual, row["devices"])}
        for row in rows
    ]


def scale(work: Workload, rounds: int, seconds: float, counts: tuple[int, ...] = COUNTS) -> dict[str, Any]:
    """Measures everything; returns what `OUT.json` holds."""
    probe = Worker("fip_jax")
    environment = probe.about()
    probe.close()
    virtual = environment["hardware"]["platform"] == "cpu"
    if not virtual:
        counts = tuple(count for count in counts if count <= environment["hardware"]["num_devices"])
    console.print(VIRTUAL if virtual else f"GPUs: {', '.join(map(str, counts))}", markup=False)
    workers = {count: Worker("fip_jax", variables(virtual, count)) for count in counts}
    rows = []
    try:
        for kind, title in KINDS.items():
            for name in STYLES:
                found = measure(work._replace(row=name), kind, workers, rounds, seconds)
                rows += with_ratios(found, virtual)
                cells = ", ".join(
                    f"{row['devices']}: {1e3 * row['median']:.1f} ms ({row['times_ideal']:.2f} x ideal)"
                    for row in rows[-len(counts) :]
                )
                console.print(f"{title}, {ROWS[name][0]}, by devices: {cells}", markup=False)
    finally:
        for worker in workers.values():
            worker.close()
    note = VIRTUAL if virtual else ""
    return {
        **environment,
        "virtual": virtual,
        "note": note,
        "work": work._asdict(),
        "runs": rounds,
        "rows": rows,
    }


def draw(content: dict[str, Any], path: Path) -> None:
    """Times as multiples of those on one device, a panel a kind, with the ideal."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    for axis, (kind, title) in zip(figure.subplots(1, len(KINDS)), KINDS.items(), strict=True):
        counts: list[int] = sorted({row["devices"] for row in content["rows"]})
        for name, (colour, marker) in STYLES.items():
            rows = [row for row in content["rows"] if (row["kind"], row["row"]) == (kind, name)]
            times = [row["median"] / rows[0]["median"] for row in rows]
            axis.loglog(counts, times, color=colour, marker=marker, label=ROWS[name][0])
        perfect = [ideal(kind, content["virtual"], count) for count in counts]
        axis.loglog(counts, perfect, color="#999999", ls="--", label="ideal")
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.set(title=title, xlabel="devices", ylabel="time, one device = 1")
    axis.legend(fontsize=8)
    if content["note"]:
        figure.suptitle(content["note"], fontsize=9)
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    """Measures, and writes numbers and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="files to write, without an ending")
    parser.add_argument("--network", default="small_vgg", help="small_vgg or preact_resnet18")
    parser.add_argument("--width", type=int, default=16, help="of the network")
    parser.add_argument("--num_clean", type=int, default=256, help="clean images of one device")
    parser.add_argument("--devices", type=int, nargs="+", default=COUNTS, help="numbers of them, from 1")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each point")
    parser.add_argument("--seconds", type=float, default=0.5, help="that a measurement takes at least")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    work = Workload("fip", arguments.network, arguments.width, arguments.num_clean)
    content = scale(work, arguments.rounds, arguments.seconds, tuple(arguments.devices))
    write_json(arguments.out.with_suffix(".json"), content)
    draw(content, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
