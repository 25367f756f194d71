"""A CSV of the study as tables to read.

    python -m benchmarks.purification.summary benchmarks/purification/results/main.csv

Prints Markdown: each method and setting over all networks (the worst ASR is the highest of a network), the methods
side by side, then network by network. Rates in per cent, mean and standard deviation over the rows; the deviation of
the averages is over seeds.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.purification.rows import read
from benchmarks.purification.tables import TUNED_ON

Row = dict[str, str]
HEAD = "| runs | ACC | ASR | RA | DER | seconds |"


def grouped(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by key, keys in the order in which they appear."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def spread(values: list[float], digits: int = 1) -> str:
    """Mean, and the standard deviation where there are several."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def percent(rows: list[Row], column: str) -> list[float]:
    """A column in per cent."""
    return [100 * float(row[column]) for row in rows]


def over_networks(rows: list[Row], title: str = "all networks") -> list[str]:
    """A line for each method and setting: averages over the networks that all of them have, a seed at a time."""
    settings = grouped(rows, _setting)
    names = set.intersection(*({row["model"] for row in group} for group in settings.values()))
    lines = []
    for setting, group in settings.items():
        some = [row for row in group if row["model"] in names]
        complete = [
            part for part in grouped(some, lambda row: row["seed"]).values() if len(part) == len(names)
        ]
        if complete:
            columns = [
                [over(measure(part)) for part in complete]
                for over, measure in (
                    (statistics.fmean, _drop),
                    (statistics.fmean, _asr),
                    (max, _asr),
                    (statistics.fmean, _gap),
                    (statistics.fmean, _der),
                    (statistics.fmean, _seconds),
                )
            ]
            lines.append((statistics.fmean(columns[4]), setting, len(complete), columns))
    head = [
        f"**{title}** ({len(names)}), averages, best DER first:",
        "",
        "| method and settings | seeds | ACC lost | ASR | worst ASR | ACC - RA | DER | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return head + [
        f"| {setting} | {seeds} | "
        + " | ".join(spread(c, 3 if i == 4 else 1) for i, c in enumerate(columns))
        + " |"
        for _, setting, seeds, columns in sorted(lines, reverse=True)
    ]


def side_by_side(rows: list[Row]) -> list[str]:
    """A line for each network, a column for each method and setting: ACC / ASR / RA."""
    settings = list(grouped(rows, _setting))
    lines = [f"| network | before | {' | '.join(settings)} |", "|---" * (len(settings) + 2) + "|"]
    for name, group in grouped(rows, lambda row: row["model"]).items():
        parts = grouped(group, _setting)
        cells = [_cell(parts[setting], "after") if setting in parts else "" for setting in settings]
        lines.append(f"| `{name}` | {_cell(group, 'before')} | {' | '.join(cells)} |")
    return lines


def _cell(rows: list[Row], when: str) -> str:
    """Means, and the deviation of the ASR where it is half a point or more."""
    acc, asr, ra = (percent(rows, f"{rate}_{when}") for rate in ("acc", "asr", "ra"))
    wide = when == "after" and len(asr) > 1 and statistics.stdev(asr) >= 0.5
    middle = spread(asr) if wide else f"{statistics.fmean(asr):.1f}"
    return f"{statistics.fmean(acc):.1f} / {middle} / {statistics.fmean(ra):.1f}"


def by_network(rows: list[Row]) -> list[str]:
    """A table for each network."""
    lines = []
    for name, group in grouped(rows, lambda row: row["model"]).items():
        before = [spread(percent(group, f"{rate}_before")) for rate in ("acc", "asr", "ra")]
        lines += ["", f"**{name}**: before ACC {before[0]}, ASR {before[1]}, RA {before[2]}", ""]
        lines += [f"| method and settings {HEAD}", "|---" * 7 + "|"]
        for setting, part in grouped(group, _setting).items():
            rates = [spread(percent(part, f"{rate}_after")) for rate in ("acc", "asr", "ra")]
            der = spread(_der(part), 3)
            lines.append(
                f"| {setting} | {len(part)} | {' | '.join(rates)} | {der} | {spread(_seconds(part))} |"
            )
    return lines


def _setting(row: Row) -> str:
    changed = row["settings"].strip("{}").replace('"', "").replace("defense.", "")
    share = "" if float(row["clean"]) == 1 else f" clean x {row['clean']}"
    return f"{row['method']}{share} {changed}".strip()


def _drop(rows: list[Row]) -> list[float]:
    return [a - b for a, b in zip(percent(rows, "acc_before"), percent(rows, "acc_after"), strict=True)]


def _gap(rows: list[Row]) -> list[float]:
    return [a - b for a, b in zip(percent(rows, "acc_after"), percent(rows, "ra_after"), strict=True)]


def _asr(rows: list[Row]) -> list[float]:
    return percent(rows, "asr_after")


def _der(rows: list[Row]) -> list[float]:
    return [float(row["der"]) for row in rows]


def _seconds(rows: list[Row]) -> list[float]:
    return [float(row["seconds"]) for row in rows]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("csv", type=Path, nargs="+", help="one, or the shares of a table")
    parser.add_argument("--models", nargs="+", help="no others")
    parser.add_argument("--seeds", nargs="+", help="no others")
    arguments = parser.parse_args()
    rows = [row for path in arguments.csv for row in read(path)]
    for column, kept in (("model", arguments.models), ("seed", arguments.seeds)):
        rows = [row for row in rows if kept is None or row[column] in kept]
    parts = {
        "all networks": rows,
        "networks that the settings were chosen on": [row for row in rows if row["model"] in TUNED_ON],
        "the other networks": [row for row in rows if row["model"] not in TUNED_ON],
    }
    for title, part in parts.items():
        if part:
            print("\n".join(over_networks(part, title)) + "\n")
    print("\n".join(side_by_side(rows) + by_network(rows)))


if __name__ == "__main__":
    main()
