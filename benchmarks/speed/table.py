"""What `benchmarks.run` measured, to read and to look at."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.speed.worker import SIDES
from benchmarks.speed.workload import ROWS

# Distinct for the colour-blind (Okabe and Ito), and in grey.
COLOURS = dict(zip(SIDES, ("#0072b2", "#e69f00", "#999999"), strict=True))


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    if "error" in found:
        return "failed"
    text = _seconds(found["median"])
    if len(found["seconds"]) > 1:
        low, high = found["quartiles"]
        text += f" ({_seconds(low)} to {_seconds(high)})"
    return text


def line(row: dict[str, Any]) -> str:
    """A row while the benchmark runs."""
    if "disagree" in row:
        return f"{_left_out(row)}: left out"
    cells = (f"{side} {_cell(row['sides'].get(side))}" for side in SIDES if side in row["sides"])
    return f"{row['network']} {ROWS[row['row']][0]}: " + ", ".join(cells)


def _left_out(row: dict[str, Any]) -> str:
    return f"{row['network']} {ROWS[row['row']][0]} is not ours in float64: {row['disagree']}"


def speedup(row: dict[str, Any]) -> float | None:
    """How many times faster than the best column of PyTorch, by medians."""
    medians = {side: found["median"] for side, found in row["sides"].items() if "median" in found}
    ours = medians.pop(SIDES[0], None)
    return min(medians.values()) / ours if medians and ours else None


def markdown(content: dict[str, Any]) -> str:
    """Tables of times, of the seconds until the first result, and of memory."""
    lines = []
    timed = [row for row in content["rows"] if "disagree" not in row]
    for network in dict.fromkeys(row["network"] for row in timed):
        rows = [row for row in timed if row["network"] == network]
        lines += [
            f"**{network}, width {rows[0]['width']}**: median (lower to upper quartile), and PyTorch's better column",
            "",
        ]
        lines += [f"| | {' | '.join(SIDES)} | PyTorch / fip_jax | runs |", "|---" * (len(SIDES) + 3) + "|"]
        for row in rows:
            ratio = speedup(row)
            cells = [_cell(row["sides"].get(side)) for side in SIDES]
            runs = max((len(found.get("seconds", ())) for found in row["sides"].values()), default=0)
            lines.append(
                f"| {ROWS[row['row']][0]} | {' | '.join(cells)} | {'–' if ratio is None else f'{ratio:.2f}'} | {runs} |"
            )
        lines += [
            "",
            "Until the first result, with building and compiling; and the highest memory above what the",
        ]
        lines += ["process held before:", "", f"| | {' | '.join(SIDES)} |", "|---" * (len(SIDES) + 1) + "|"]
        for row in rows:
            cells = [
                f"{found['first_seconds']:.1f} s, {found['peak_mib']:.0f} MiB" if "median" in found else "–"
                for found in (row["sides"].get(side, {}) for side in SIDES)
            ]
            lines.append(f"| {ROWS[row['row']][0]} | {' | '.join(cells)} |")
        lines.append("")
    lines += [f"Left out: {_left_out(row)}.\n" for row in content["rows"] if "disagree" in row]
    for side, about in content["environment"].items():
        lines.append(f"{side}: {_about(about)}  ")
    return "\n".join(lines) + "\n"


def _about(about: dict[str, Any]) -> str:
    words = []
    for key, value in about.items():
        parts = value.items() if isinstance(value, dict) else [(key, value)]
        words += [f"{name} {part}" for name, part in parts]
    return ", ".join(words)


def draw(content: dict[str, Any], path: Path) -> None:
    """Bars for every row, as multiples of our time: a panel a network."""
    networks = list(dict.fromkeys(row["network"] for row in content["rows"]))
    count = max(sum(row["network"] == network for row in content["rows"]) for network in networks)
    figure = Figure(figsize=(5.5 * len(networks), 1 + 0.55 * count), layout="constrained")
    for axis, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        rows = [
            row
            for row in content["rows"]
            if row["network"] == network and "median" in row["sides"].get(SIDES[0], {})
        ]
        for index, side in enumerate(SIDES):
            places, lengths, labels = [], [], []
            for place, row in enumerate(rows):
                found = row["sides"].get(side, {})
                if "median" in found:
                    places.append(place + 0.27 * (index - 1))
                    lengths.append(found["median"] / row["sides"][SIDES[0]]["median"])
                    labels.append(_seconds(found["median"]))
            bars = axis.barh(places, lengths, 0.25, color=COLOURS[side])
            axis.bar_label(bars, labels, fontsize=7, padding=2)
        axis.axvline(1, color="black", lw=0.8)
        axis.set_yticks(range(len(rows)), [ROWS[row["row"]][0] for row in rows], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set(title=f"{network}, width {rows[0]['width'] if rows else ''}", xlabel="time, fip_jax = 1")
    handles = [Patch(color=colour, label=side) for side, colour in COLOURS.items()]
    figure.legend(handles=handles, fontsize=8, loc="outside upper center", ncols=len(SIDES))
    FigureCanvasAgg(figure).print_png(str(path))
