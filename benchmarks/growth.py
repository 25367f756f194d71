"""How time and memory grow with examples, width, probes and clean images.

    python -m benchmarks.growth --out=benchmarks/results/growth

Measures the gradient of the trace term, estimated and exact, and a Fisher-vector product over all clean images,
changing one thing at a time, and fits exponents: seconds or bytes ~ size^exponent. Seconds are medians; bytes are what
the compiled program asks for beside its arguments and results, exact and the same in every run. They are taken apart
into bytes for each example and unit of width, for each parameter, and for each example and parameter: the last are what
the estimated trace is there to avoid. Writes OUT.json and OUT.png.
"""

import argparse
import functools
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import nnls

from benchmarks.speed.workload import Workload, draw_images
from fip_jax import compiled, convolution, parallel
from fip_jax.data.batches import to_device, to_unit
from fip_jax.experiment import environment
from fip_jax.models import create_model
from fip_jax.network import make_log_probs_fn, make_objective, split_module
from fip_jax.objective import Settings, trace_of_fisher
from fip_jax.pages import ask_for_large_pages
from fip_jax.progress import console
from fip_jax.smoothness import Smoothness
from fip_jax.workdir import write_json


class Point(NamedTuple):
    """A size of the problem.

    Attributes:
      examples: that the trace is taken over.
      width: of the network.
      probes: of the estimate.
      images: that the Fisher-vector product is taken over.
    """

    examples: int = 16
    width: int = 16
    probes: int = 1
    images: int = 128


SIZES: dict[str, tuple[int, ...]] = {
    "examples": (8, 16, 32, 64),
    "width": (8, 16, 32, 64),
    "probes": (1, 2, 4, 8),
    "images": (64, 128, 256, 512),
}
# Quantity: (title, what changes it, colour, marker).
QUANTITIES: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "estimated": ("gradient of the estimated trace", ("examples", "width", "probes"), "#0072b2", "o"),
    "exact": ("gradient of the exact trace", ("examples", "width"), "#d55e00", "^"),
    "product": ("Fisher-vector product, 64 images at once", ("width", "images"), "#009e73", "s"),
}
CHUNK = 64


def gradient_of_trace(exact: bool, point: Point, network: Any, params: Any, model_state: Any) -> Any:
    """(compiled function, its arguments)."""
    choose = convolution.for_per_example_gradients if exact else convolution.for_batches
    convolve = choose(parallel.platform_of(None))
    objective = make_objective(network, batch_statistics=True, dropout=False)
    objective = objective._replace(log_probs_fn=make_log_probs_fn(network.with_convolution(convolve)))
    settings = Settings(0.1, 1, eta_f=1.0, num_probes=0 if exact else point.probes)
    images = draw_images(Workload("fip", "small_vgg", point.width), point.examples)
    batch = {"image": to_unit(jnp.asarray(images.images)), "label": jnp.asarray(images.labels)}

    def value(params, model_state, batch, key):
        return trace_of_fisher(objective, settings, params, model_state, batch, key)

    arguments = params, model_state, batch, jax.random.key(0)
    return jax.jit(jax.grad(value)).lower(*arguments).compile(), arguments


def measure(quantity: str, point: Point, rounds: int) -> dict[str, Any]:
    """Seconds and bytes of a quantity."""
    network, params, model_state = split_module(create_model("small_vgg", 43, 32, 0, width=point.width))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    size: int | None = None
    if quantity == "product":
        images = draw_images(Workload("fip", "small_vgg", point.width), point.images)
        data = to_device(images.images, images.labels)
        smoothness = Smoothness(network, data | {"image": to_unit(data["image"])}, CHUNK)
        run = functools.partial(smoothness.product, params, model_state, params)
    else:
        compiled, arguments = gradient_of_trace(quantity == "exact", point, network, params, model_state)
        size = int(compiled.memory_analysis().temp_size_in_bytes)
        run = functools.partial(compiled, *arguments)
    jax.block_until_ready(run())
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "bytes": size, "runs": rounds, "parameters": count}


def exponent(sizes: list[float], values: list[float]) -> float:
    """Slope of the straight line through the logarithms, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def grow(sizes: dict[str, tuple[int, ...]], rounds: int) -> list[dict[str, Any]]:
    """A row for every quantity, size and value; with the exponents in the last row of each."""
    rows = []
    for quantity, (title, changed, _, _) in QUANTITIES.items():
        for name in changed:
            group: list[dict[str, Any]] = [
                {"quantity": quantity, "changed": name, "size": size}
                | measure(quantity, Point()._replace(**{name: size}), rounds)
                for size in sizes[name]
            ]
            for unit in ("seconds", "bytes"):
                values = [row[unit] for row in group]
                if None not in values:
                    group[-1][f"{unit}_exponent"] = exponent([row["size"] for row in group], values)
            rows += group
            found = ", ".join(
                f"{unit} ~ {name}^{group[-1][f'{unit}_exponent']:.2f}"
                for unit in ("seconds", "bytes")
                if f"{unit}_exponent" in group[-1]
            )
            console.print(f"{title}: {found}", markup=False)
    return rows


def shares(rows: list[dict[str, Any]], quantity: str) -> dict[str, float]:
    """What the memory of a quantity is made of, by non-negative least squares of the relative errors.

    Returns:
      Bytes for each example and unit of width (activations), for each parameter, and for each example and parameter
      (gradients of single examples, which the estimated trace must not hold).
    """
    terms, sizes = [], []
    for row in rows:
        if row["quantity"] == quantity and row["changed"] in ("examples", "width"):
            point = Point()._replace(**{row["changed"]: row["size"]})
            activations = point.examples * point.width
            terms.append([activations, row["parameters"], point.examples * row["parameters"]])
            sizes.append(row["bytes"])
    relative = np.array(terms, np.float64) / np.array(sizes, np.float64)[:, None]
    scale = relative.max(axis=0)
    found = nnls(relative / scale, np.ones(len(sizes)))[0] / scale
    names = ("example_and_width", "parameter", "example_and_parameter")
    return {f"bytes_per_{name}": float(value) for name, value in zip(names, found, strict=True)}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds above, MiB below, a column for each thing that was changed."""
    names = list(dict.fromkeys(row["changed"] for row in rows))
    figure = Figure(figsize=(3.6 * len(names), 6.5), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex="col", sharey="row")
    for column, name in enumerate(names):
        for axis, (unit, scale) in zip(axes[:, column], (("seconds", 1), ("bytes", 2**-20)), strict=True):
            for quantity, (title, _, colour, marker) in QUANTITIES.items():
                group = [row for row in rows if (row["changed"], row["quantity"]) == (name, quantity)]
                if not group or group[0][unit] is None:
                    continue
                slope = group[-1][f"{unit}_exponent"]
                sizes, values = zip(*((row["size"], scale * row[unit]) for row in group), strict=True)
                axis.loglog(
                    sizes, values, color=colour, marker=marker, label=f"{title}: exponent {slope:.2f}"
                )
                axis.set_xticks(sizes, [str(size) for size in sizes])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend(fontsize=7)
            else:
                axis.set_axis_off()
                axes[0, column].tick_params(labelbottom=True)
        axes[0, column].set(title=name, xlabel="" if axes[1, column].axison else name)
        axes[1, column].set_xlabel(name)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("memory of the program, MiB")
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    """Measures, and writes numbers and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="files to write, without an ending")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each point")
    arguments = parser.parse_args()
    compiled.spread_convolutions()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = grow(SIZES, arguments.rounds)
    memory = {quantity: shares(rows, quantity) for quantity in ("estimated", "exact")}
    for quantity, found in memory.items():
        each = found["bytes_per_example_and_parameter"]
        console.print(
            f"{QUANTITIES[quantity][0]}: {each:.2f} bytes for each example and parameter", markup=False
        )
    write_json(arguments.out.with_suffix(".json"), {**environment(), "memory": memory, "rows": rows})
    draw(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    ask_for_large_pages()
    main()
