"""How far each step is from what the machine could do at best.

    python -m benchmarks.roofline --out=benchmarks/results/roofline

The floor of a step is the larger of two times: its operations at the rate of a large matrix product, and the bytes that
its compiled program moves at the rate of a large copy. Operations are counted in the program before XLA optimises it,
bytes after, both by XLA's own cost analysis; both rates are the best ones measured here, in the same run. The fraction
is floor / measured. What one kernel writes and the next one finds in a cache is counted as if it went to memory and
back, so that the floor of a small network lies a little too high. Writes OUT.json and OUT.png.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.speed import ours
from benchmarks.speed.workload import ROWS, Workload, configure, draw_images
from fip_jax import compiled, defend
from fip_jax.experiment import environment
from fip_jax.models import abstract_model
from fip_jax.network import split_module
from fip_jax.pages import ask_for_large_pages
from fip_jax.progress import console
from fip_jax.workdir import write_json

STYLES = {
    "ft": ("#0072b2", "o"),
    "ft_sam": ("#e69f00", "s"),
    "fip": ("#d55e00", "^"),
    "fip_exact": ("#cc79a7", "D"),
    "fast_fip": ("#009e73", "v"),
}


class Sizes(NamedTuple):
    """How large the measured product and copy are: a side of the square matrices, and MiB."""

    side: int
    mib: int


# Large enough for the full rate, small enough for a few seconds.
SIZES = {"cpu": Sizes(2048, 256), "gpu": Sizes(8192, 2048)}


class Ceilings(NamedTuple):
    """What the machine can do at best: operations and bytes a second."""

    operations: float
    bytes: float


class Cost(NamedTuple):
    """What a step needs: operations, bytes read and written, and bytes of its temporary arrays."""

    operations: float
    bytes: float
    temporary: int


def floor_seconds(cost: Cost, ceilings: Ceilings) -> tuple[float, str]:
    """(seconds that a step takes at least, what holds it up: "operations" or "bytes")."""
    times = {
        "operations": cost.operations / ceilings.operations,
        "bytes": cost.bytes / ceilings.bytes,
    }
    slowest = max(times, key=lambda name: times[name])
    return times[slowest], slowest


def lower(work: Workload) -> jax.stages.Lowered:
    """One step, ready to be compiled. Its weights are zeros, on which no count depends."""
    module = abstract_model(work.network, work.num_classes, work.image_size, width=work.width)
    network, *shapes = split_module(module)
    params, model_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    start = defend.begin(configure(work), network, params, model_state, draw_images(work))
    step = jax.jit(lambda *arguments: start.step_fn(*arguments))
    return step.lower(start.state, start.anchor, start.data)


def operations(lowered: jax.stages.Lowered) -> float:
    """Floating-point operations that a program asks for."""
    return float(_found(lowered.cost_analysis())["flops"])


def count(lowered: jax.stages.Lowered) -> Cost:
    """What a program costs by XLA's count."""
    compiled = lowered.compile()
    moved = float(_found(compiled.cost_analysis())["bytes accessed"])
    return Cost(operations(lowered), moved, int(_found(compiled.memory_analysis()).temp_size_in_bytes))


def _found(analysis: Any) -> Any:
    """An analysis, which JAX does not promise on every platform."""
    if analysis is None:
        raise RuntimeError(f"XLA counts nothing on {jax.default_backend()}, expected a CPU or a GPU")
    return analysis


def best_rates(sizes: Sizes, repetitions: int = 5) -> Ceilings:
    """The best rates of a product of square float32 matrices and of a copy, at the precision in force.

    The copy is read and written in place: memory that a process has just been given costs time of its own.
    """
    mean = jnp.full((sizes.side, sizes.side), 1 / sizes.side, jnp.float32)  # numbers stay as they are
    long = jnp.ones(sizes.mib * 2**18, jnp.float32)
    size = long.nbytes
    product = _fastest(jax.jit(lambda x: x @ mean), jnp.ones_like(mean), repetitions)
    copy = _fastest(jax.jit(lambda x: x + 1, donate_argnums=0), long, repetitions)
    return Ceilings(2.0 * sizes.side**3 / product, 2.0 * size / copy)


def _fastest(fn: Callable[[jax.Array], jax.Array], x: jax.Array, repetitions: int) -> float:
    """Seconds of the fastest call of fn(fn(...fn(x))), after one that compiles."""
    x = fn(x).block_until_ready()
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        x = fn(x).block_until_ready()
        found.append(time.perf_counter() - start)
    return min(found)


def measure(works: list[Workload], rounds: int, seconds: float, sizes: Sizes) -> dict[str, Any]:
    """Steps and ceilings by turns; returns what `OUT.json` holds."""
    costs = [count(lower(work)) for work in works]
    tasks = [ours.prepare(work) for work in works]
    repetitions = []
    for task in tasks:
        task.warm_up()
        spent = _seconds(task, 1)
        repetitions.append(max(1, round(seconds / max(spent, 1e-9))))
    found: list[list[float]] = [[] for _ in works]
    rates = []
    for _ in range(rounds):
        rates.append(best_rates(sizes))
        for seen, task, times in zip(found, tasks, repetitions, strict=True):
            seen.append(_seconds(task, times))
    ceilings = Ceilings(max(rate.operations for rate in rates), max(rate.bytes for rate in rates))
    rows = []
    for work, cost, seen in zip(works, costs, found, strict=True):
        floor, bound = floor_seconds(cost, ceilings)
        median = statistics.median(seen)
        rows.append(
            work._asdict()
            | cost._asdict()
            | {"seconds": seen, "median": median, "floor": floor, "bound": bound, "fraction": floor / median}
        )
        console.print(
            f"{work.network} {ROWS[work.row][0]}: {1e3 * median:.1f} ms, at least {1e3 * floor:.1f} ms by its {bound}: "
            f"{100 * floor / median:.0f} % of the roofline",
            markup=False,
        )
    return {**environment(), "ceilings": ceilings._asdict(), "runs": rounds, "rows": rows}


def _seconds(task: Any, times: int) -> float:
    """Mean seconds of one repetition."""
    start = time.perf_counter()
    done = task.run(times)
    return (time.perf_counter() - start) / done


def draw(content: dict[str, Any], path: Path) -> None:
    """Operations a second over operations a byte, under the two ceilings; a panel a network."""
    ceilings = Ceilings(**content["ceilings"])
    networks = list(dict.fromkeys(row["network"] for row in content["rows"]))
    figure = Figure(figsize=(4.6 * len(networks), 4), layout="constrained")
    for axis, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        corner = ceilings.operations / ceilings.bytes
        roof = [corner / 100, corner, corner * 100]
        heights = [min(ceilings.operations, x * ceilings.bytes) / 1e9 for x in roof]
        axis.loglog(roof, heights, color="black", label="measured ceilings")
        for row in content["rows"]:
            if row["network"] == network:
                colour, marker = STYLES[row["row"]]
                intensity, rate = row["operations"] / row["bytes"], row["operations"] / row["median"] / 1e9
                label = f"{ROWS[row['row']][0]}: {100 * row['fraction']:.0f} %"
                axis.loglog([intensity], [rate], color=colour, marker=marker, ls="", label=label)
        axis.grid(alpha=0.3)
        axis.set(title=network, xlabel="operations a byte", ylabel="10⁹ operations a second")
        axis.legend(fontsize=8, loc="lower right")
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    """Measures, and writes numbers and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="files to write, without an ending")
    parser.add_argument(
        "--networks", nargs="+", default=["small_vgg:32", "preact_resnet18:64"], help="name:width"
    )
    parser.add_argument("--rows", nargs="+", choices=STYLES, default=list(STYLES), help="steps")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each step and of the ceilings")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a measurement takes at least")
    arguments = parser.parse_args()
    compiled.spread_convolutions()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    works = [
        Workload(row, name, int(width))
        for name, width in (network.split(":") for network in arguments.networks)
        for row in arguments.rows
    ]
    sizes = SIZES["cpu" if jax.default_backend() == "cpu" else "gpu"]
    content = measure(works, arguments.rounds, arguments.seconds, sizes)
    write_json(arguments.out.with_suffix(".json"), content)
    draw(content, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    ask_for_large_pages()
    main()
