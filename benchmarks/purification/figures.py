"""A CSV of the study as pictures.

    python -m benchmarks.purification.figures curve benchmarks/purification/results/curve.csv --out=docs/study

Writes PNG files: `curve` one for all networks, `ablation` one with a panel a setting, `retuning` one for all networks.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.purification.retuning import STEPS
from benchmarks.purification.summary import Row, grouped, percent, read
from benchmarks.purification.tables import ABLATED
from fip_jax.config import default_config
from fip_jax.report.figures import RATE_STYLES

# Distinct for the colour-blind (Okabe and Ito).
METHOD_STYLES = {
    "none": ("#999999", "x"),
    "benign": ("#000000", "+"),
    "ft": ("#0072b2", "o"),
    "ft_sam": ("#e69f00", "s"),
    "fip": ("#d55e00", "^"),
    "fast_fip": ("#009e73", "v"),
}


def curve(rows: list[Row]) -> Iterator[tuple[str, Figure]]:
    """ACC and ASR over the number of clean images, a panel a network."""
    networks = grouped(rows, lambda row: row["model"])
    figure, panels = _panels(len(networks), "clean images")
    for axis, (name, group) in zip(panels, networks.items(), strict=False):
        for method, part in grouped(group, lambda row: row["method"]).items():
            colour, marker = METHOD_STYLES[method]
            part = sorted(part, key=lambda row: int(row["clean_images"]))
            images = [int(row["clean_images"]) for row in part]
            axis.plot(images, percent(part, "acc_after"), color=colour, marker=marker, label=f"{method} ACC")
            axis.plot(
                images, percent(part, "asr_after"), color=colour, marker=marker, ls=":", label=f"{method} ASR"
            )
        axis.axhline(100 * float(group[0]["acc_before"]), color="#999999", lw=0.8)
        axis.set(title=name, xscale="log", ylim=(-3, 103))
        axis.set_xticks(images, [str(count) for count in images], fontsize=8)
        axis.minorticks_off()
    _name_the_lines(figure, panels)
    yield "curve", figure


def ablation(rows: list[Row]) -> Iterator[tuple[str, Figure]]:
    """Rates over the settings, a panel each: thick the mean over the networks, thin each network."""
    networks = list(grouped(rows, lambda row: row["model"]))
    by_setting = grouped(rows, lambda row: row["settings"])
    complete = {}
    for key in ABLATED:
        name = f"defense.{key.replace('__', '.')}"
        found = {_standard(name): by_setting.get("{}", [])}
        for text, part in by_setting.items():
            if name in (changed := json.loads(text)):
                found[changed[name]] = part
        whole = {value: part for value, part in found.items() if len(part) == len(networks)}
        if len(whole) > 1:
            complete[name] = dict(sorted(whole.items()))
    figure, panels = _panels(len(complete), "setting (* default)")
    for axis, (name, found) in zip(panels, complete.items(), strict=False):
        for rate, style in RATE_STYLES.items():
            columns = [percent(part, f"{rate}_after") for part in found.values()]
            for line in zip(*columns, strict=True):
                axis.plot(line, color=style["color"], lw=0.6, alpha=0.5)
            (mean,) = axis.plot(list(map(statistics.fmean, columns)), lw=2.5, label=rate.upper())
            mean.set(**style)
        labels = [f"{value:g} *" if value == _standard(name) else f"{value:g}" for value in found]
        axis.set_xticks(range(len(found)), labels, fontsize=8)
        axis.set_title(name.removeprefix("defense."), fontsize=9)
        axis.set(ylim=(-3, 103))
    _name_the_lines(figure, panels)
    yield "ablation", figure


def retuning(rows: list[Row]) -> Iterator[tuple[str, Figure]]:
    """ASR over the steps of fine-tuning on poisoned images; bands are a standard deviation over seeds."""
    networks = grouped(rows, lambda row: row["model"])
    figure, panels = _panels(len(networks), "steps on images of which 0.5 % are poisoned")
    for axis, (name, group) in zip(panels, networks.items(), strict=False):
        for method, part in grouped(group, lambda row: row["method"]).items():
            colour, marker = METHOD_STYLES[method]
            columns = [percent(part, f"asr_{step}") for step in STEPS]
            mean = list(map(statistics.fmean, columns))
            axis.plot(STEPS, mean, color=colour, marker=marker, label=method)
            if len(part) > 1:
                spread = list(map(statistics.stdev, columns))
                low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
                axis.fill_between(STEPS, low, high, color=colour, alpha=0.15)
        axis.set(title=name, ylim=(-3, 103))
    _name_the_lines(figure, panels)
    yield "retuning", figure


def _standard(name: str) -> Any:
    value: Any = default_config()
    for part in name.split("."):
        value = value[part]
    return value


def _panels(count: int, label: str) -> tuple[Figure, list[Axes]]:
    columns = min(3, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(3.3 * columns, 2.8 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten().tolist()
    for axis in panels[count:]:
        axis.set_axis_off()
    for axis in panels:
        axis.grid(alpha=0.3)
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("%", fontsize=9)
    return figure, panels


def _name_the_lines(figure: Figure, panels: list[Axes]) -> None:
    """One legend for all panels, of which each may lack some."""
    lines = {
        label: handle
        for axis in panels
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=6, fontsize=8)


def main() -> None:
    """Draws what is asked for."""
    kinds = {"ablation": ablation, "curve": curve, "retuning": retuning}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("csv", type=Path, nargs="+", help="one, or the shares of a table")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, figure in kinds[arguments.kind]([row for path in arguments.csv for row in read(path)]):
        figure.savefig(arguments.out / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
