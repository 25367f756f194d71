"""Is a backdoored network sharper than a benign one, and a purified one flatter than both?

    python -m benchmarks.sharpness --out=benchmarks/results/sharpness --gtsrb=DIR --data=DIR --victims=runs/sharpness

The paper says so (its Figure 1 and Table 6). This trains victims of GTSRB alike for several seeds, benign, with BadNets
and with Blend, purifies each by FIP without SAM, and measures before and after: top eigenvalue, trace and spectral
density of the Fisher matrix and of the Hessian, and the Fisher matrix in relative changes of the weights, all over the
same clean test images. A row a network goes into OUT.csv; one that is there is not run again, so that a killed study
goes on with the same command. At the end OUT.png and OUT.md: the densities, and how well the top eigenvalues of
suspicious networks tell backdoored ones from benign ones (area under the ROC curve), which a defender could use without
knowing any trigger.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from scipy.stats import rankdata

from benchmarks.purification import models, rows
from fip_jax import compiled, suspect
from fip_jax.config import check_config
from fip_jax.data.batches import to_device, to_unit
from fip_jax.defend import begin
from fip_jax.description import describe
from fip_jax.evaluate import make_predict, rates
from fip_jax.material import prepare
from fip_jax.network import RelativeNetwork
from fip_jax.pages import ask_for_large_pages
from fip_jax.progress import console
from fip_jax.purify import State
from fip_jax.smoothness import Matrix, Smoothness
from fip_jax.spectrum import Density
from fip_jax.suspect import Suspect
from fip_jax.workdir import Workdir, write_whole

ATTACKS = ("none", "badnets", "blend")
KEY = ("dataset", "attack", "seed")
MATRICES: tuple[Matrix, ...] = ("fisher", "hessian")
WHENS = ("before", "after")
# Okabe and Ito (2008), and a line each.
STYLES = {"none": ("#0072b2", "-"), "badnets": ("#d55e00", "--"), "blend": ("#009e73", ":")}
Row = dict[str, Any]


class Preset(NamedTuple):
    """How much is done.

    Attributes:
      dataset: of `benchmarks.purification.models`.
      seeds: of the victims: weights, poison, and the images held out.
      num_images: test images that everything is measured over.
      steps: of Lanczos.
      probes: of the density.
      settings: of the configs, beside those of the study of purification.
    """

    dataset: str
    seeds: int
    num_images: int
    steps: int
    probes: int
    settings: dict[str, Any]


PRESETS = {
    "full": Preset("gtsrb", 3, 256, 40, 1, {}),
    "smoke": Preset(
        "signs",
        1,
        8,
        3,
        1,
        {"model.width": 2, "victim.epochs": 1, "defense.steps": 2, "clean.fraction": 0.01},
    ),
}


def configure(preset: Preset, attack: str, seed: int, places: models.Places) -> ConfigDict:
    """The config of a network, as the command line would make it; all but attack and seed are alike."""
    config = models.config_of({"gtsrb": "gtsrb/benign", "signs": "signs/benign_11"}[preset.dataset], places)
    # Without SAM, so that what flattens is the trace.
    own = {"attack.name": attack, "seed": seed, "defense.fip.radius": 0.0}
    config.update_from_flattened_dict(own | preset.settings)
    config.victim.checkpoint = ""
    check_config(config)
    return config


def measure(preset: Preset, attack: str, seed: int, places: models.Places) -> Row:
    """Trains a victim unless it is there, purifies it, and measures it before and after."""
    config = configure(preset, attack, seed, places)
    material = prepare(config)
    assert material.training is not None
    read = {part: config[part].to_dict() for part in ("dataset", "model", "attack", "victim", "clean")}
    workdir = Workdir(places.victims / f"{preset.dataset}_{attack}_{seed}", read | {"seed": seed})
    workdir.begin()
    fresh = suspect.build(describe(config, len(material.class_names)), seed)
    victim = suspect.train(config, fresh, material.training, workdir, lambda _: {})
    workdir.close()
    start = begin(config, victim.network, victim.params, victim.model_state, material.clean)
    purified = jax.block_until_ready(start.run())

    predict = make_predict(victim.network)
    few = material.test.spread(preset.num_images)
    data = to_device(few.images, few.labels)
    absolute, relative = (
        Smoothness(network, data | {"image": to_unit(data["image"])}, config.smoothness.chunk_size)
        for network in (victim.network, RelativeNetwork(victim.network))
    )
    row: Row = {"dataset": preset.dataset, "attack": attack, "seed": seed}
    for when, network in zip(WHENS, (victim, purified), strict=True):
        found = rates(predict, network.params, network.model_state, material.test, material.triggered)
        row |= {f"{name}_{when}": value for name, value in found._asdict().items()}
        found_sharpness = sharpness(absolute, network, preset) | relative_sharpness(relative, network)
        row |= {f"{name}_{when}": value for name, value in found_sharpness.items()}
    return row


def sharpness(smoothness: Smoothness, network: Suspect | State, preset: Preset) -> Row:
    """Columns of a network: for each matrix its top eigenvalue with residual and convergence, trace and density."""
    trees, found = (network.params, network.model_state), Row()
    for matrix in MATRICES:
        top = smoothness.top_eigenvalues(
            *trees, jax.random.key(0), matrix, tolerance=0.01, max_iterations=100
        )
        density = smoothness.density(
            *trees, jax.random.key(1), matrix, num_steps=preset.steps, num_probes=preset.probes
        )
        kept = {"nodes": density.nodes.tolist(), "weights": density.weights.tolist(), "size": density.size}
        found |= {
            f"lambda_max_{matrix}": float(top.values[0]),
            f"residual_{matrix}": float(top.residuals[0]),
            f"converged_{matrix}": top.converged,
            f"density_{matrix}": json.dumps(kept),
        }
    return found | {"trace_fisher": smoothness.trace(*trees)}


def relative_sharpness(smoothness: Smoothness, network: Suspect | State) -> Row:
    """Columns of a network: of the Fisher matrix in relative changes of the weights (see `RelativeNetwork`)."""
    trees = RelativeNetwork.at(network.params, network.model_state)
    top = smoothness.top_eigenvalues(*trees, jax.random.key(0), tolerance=0.01, max_iterations=100)
    return {
        "lambda_max_relative": float(top.values[0]),
        "residual_relative": float(top.residuals[0]),
        "converged_relative": top.converged,
        "trace_relative": smoothness.trace(*trees),
    }


def pending(preset: Preset, path: Path) -> list[tuple[str, int]]:
    """(attack, seed) of the networks that have no row yet."""
    finished = rows.done(path, KEY)
    runs = itertools.product(ATTACKS, range(preset.seeds))
    return [run for run in runs if (preset.dataset, *map(str, run)) not in finished]


def area_under_roc(benign: list[float], backdoored: list[float]) -> float:
    """Chance that a backdoored network has the larger value than a benign one, ties counting half; nan without both."""
    if not benign or not backdoored:
        return float("nan")
    higher = rankdata(benign + backdoored)[len(benign) :].sum() - len(backdoored) * (len(backdoored) + 1) / 2
    return float(higher / (len(benign) * len(backdoored)))


def table(found: list[dict[str, str]]) -> str:
    """Means and deviations by attack, and the areas under the ROC curves, as Markdown."""
    columns = (
        "lambda_max_hessian",
        "lambda_max_fisher",
        "trace_fisher",
        "lambda_max_relative",
        "trace_relative",
    )
    lines = [
        "| attack | networks | " + " | ".join(f"{name}, {when}" for name in columns for when in WHENS) + " |"
    ]
    lines.append("|---" * (2 + len(columns) * len(WHENS)) + "|")
    for attack in ATTACKS:
        group = [row for row in found if row["attack"] == attack]
        if group:
            cells = [_spread([float(row[f"{n}_{when}"]) for row in group]) for n in columns for when in WHENS]
            lines.append(f"| {attack} | {len(group)} | " + " | ".join(cells) + " |")
    lines.append("\n| of the suspicious network | area under the ROC curve |\n|---|---|")
    for name in columns:
        values = [(row["attack"] == "none", float(row[f"{name}_before"])) for row in found]
        benign = [value for clean, value in values if clean]
        backdoored = [value for clean, value in values if not clean]
        lines.append(f"| {name} | {area_under_roc(benign, backdoored):.2f} |")
    kinds = (*MATRICES, "relative")
    unsettled = sum(row[f"converged_{m}_{when}"] == "False" for row in found for m in kinds for when in WHENS)
    lines.append(f"\nTop eigenvalues that had not converged: {unsettled} of {2 * len(kinds) * len(found)}.")
    apart = max(_apart(row, matrix, when) for row in found for matrix in MATRICES for when in WHENS)
    lines.append(f"By power iteration and by Lanczos they differ by {100 * apart:.2g} % at most.")
    return "\n".join(lines) + "\n"


def _apart(row: dict[str, str], matrix: str, when: str) -> float:
    """Relative difference of a top eigenvalue from the eigenvalue of largest magnitude that the density found."""
    value = float(row[f"lambda_max_{matrix}_{when}"])
    nodes = json.loads(row[f"density_{matrix}_{when}"])["nodes"]
    return abs(value / max(np.ravel(nodes), key=abs) - 1)


def _spread(values: list[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.3g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{deviation}"


def draw(found: list[dict[str, str]], path: Path) -> None:
    """The Hessians' densities before and after, and how their top eigenvalues moved; a line a network."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    axes[1].sharey(axes[0])
    highest = max(
        _draw_density(axis, row, when) for axis, when in zip(axes, WHENS, strict=False) for row in found
    )
    for axis, when in zip(axes, WHENS, strict=False):
        axis.set(title=f"{when} purification", xlabel="eigenvalue of the Hessian", ylabel="density")
        axis.set_xscale("symlog", linthresh=1.0)
        axis.set_ylim(1e-8, 3 * highest)
        axis.legend(title="victims", fontsize=8, loc="upper right")
    for row in found:
        tops = [float(row[f"lambda_max_hessian_{when}"]) for when in WHENS]
        colour, line = STYLES[row["attack"]]
        axes[2].plot(WHENS, tops, color=colour, linestyle=line, marker="o", markersize=4)
    axes[2].set(title="top eigenvalue", ylabel="λmax of the Hessian", xmargin=0.2)
    axes[2].set_yscale("symlog", linthresh=1.0)  # it may be negative
    for axis in axes:
        axis.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(str(path))


def _draw_density(axis: Any, row: dict[str, str], when: str) -> float:
    """A line; returns its highest value."""
    kept = json.loads(row[f"density_hessian_{when}"])
    density = Density(np.array(kept["nodes"]), np.array(kept["weights"]), kept["size"])
    low, high = density.nodes.min(), density.nodes.max()
    width = max((high - low) / 100, 1e-12)
    grid = np.linspace(low - 4 * width, high + 4 * width, 600)
    values = density.on(grid, width)[0]
    colour, line = STYLES[row["attack"]]
    label = {"none": "benign"}.get(row["attack"], row["attack"]) if row["seed"] == "0" else None
    axis.semilogy(grid, values, color=colour, linestyle=line, lw=1, label=label)
    return float(values.max())


def main() -> None:
    """Runs what is left, then draws and sums up."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--out", type=Path, required=True, help="files to write, without an ending")
    for place in ("gtsrb", "data", "victims"):
        parser.add_argument(f"--{place}", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    compiled.set_up()
    folders = {place: getattr(arguments, place).absolute() for place in ("gtsrb", "data", "victims")}
    places, preset = (
        models.Places(ibau=Path(), medic=Path(), others=Path(), **folders),
        PRESETS[arguments.preset],
    )
    csv_file = arguments.out.with_suffix(".csv")
    runs = pending(preset, csv_file)
    for count, (attack, seed) in enumerate(runs, 1):
        row = measure(preset, attack, seed, places)
        rows.append(csv_file, row)
        change = " -> ".join(f"{row[f'lambda_max_hessian_{when}']:.4g}" for when in WHENS)
        console.print(f"{count}/{len(runs)} {attack} seed {seed}: lambda_max of the Hessian {change}")
    found = rows.read(csv_file)
    draw(found, arguments.out.with_suffix(".png"))
    write_whole(arguments.out.with_suffix(".md"), table(found).encode())
    console.print(table(found), markup=False)


if __name__ == "__main__":
    ask_for_large_pages()
    main()
