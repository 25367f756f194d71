"""The rows of `benchmarks.ahead` for people."""

from typing import Any

from benchmarks.ahead.chips import CHIPS
from benchmarks.ahead.programs import KINDS

HEADS = (
    *("program", "chip", "compiler's effort and seconds", "operations (10⁹)", "moved", "kernels", "floor"),
    *("cycles", "peak memory", "donated", "exchanges"),
)


def in_words(row: dict[str, Any]) -> str:
    """One line of a row."""
    title = f"{row['network']} {row['width']}: {KINDS[row['kind']].title} for {row['chip']}"
    if "error" in row:
        return f"{title}: {row['error'].splitlines()[0][:200]}"
    return (
        f"{title}: compiled in {row['compile_processor_seconds']} s, {operations(row)}, at least {_time(row)}"
    )


def operations(row: dict[str, Any]) -> str:
    """Operations of a step by precision, in 10⁹."""
    found = sorted(row["operations"].items(), key=lambda item: -item[1])
    return ", ".join(f"{count / 1e9:.3g} {name}" for name, count in found) or "none"


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table a network: a row a program and chip, programs that belong together beside each other."""
    parts = []
    for network, width in dict.fromkeys((row["network"], row["width"]) for row in rows):
        parts.append(f"**{network}, width {width}**\n")
        parts.append("\n".join([f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]))
        mine = [row for row in rows if (row["network"], row["width"]) == (network, width)]
        order = sorted(mine, key=lambda row: (list(KINDS).index(row["kind"]), list(CHIPS).index(row["chip"])))
        parts[-1] += "\n" + "\n".join(f"| {' | '.join(_cells(row))} |" for row in order) + "\n"
    return "\n".join(parts)


def _cells(row: dict[str, Any]) -> list[str]:
    effort = "own" if row["effort"] == "UNKNOWN" else row["effort"]
    if "compile_processor_seconds" in row:  # else the compiler crashed
        effort += f", {row['compile_processor_seconds']:.0f} s"
    start = [KINDS[row["kind"]].title, row["chip"], effort]
    if "error" in row:
        return [*start, row["error"].splitlines()[0][:120].replace("|", "/"), *[""] * (len(HEADS) - 4)]
    exchanges = ", ".join(f"{count} {name}" for name, count in row["collectives"].items()) or "–"
    return [
        *start,
        operations(row),
        f"{row['bytes'] / 1e9:.2f} GB",
        str(row["kernels"]),
        _time(row),
        f"{row['cycles'] / 1e6:.2f} M" if row["cycles"] else "–",
        f"{row['peak_bytes'] / 2**20:.0f} MiB",
        f"{row['donated_bytes'] / 2**20:.1f} MiB",
        exchanges,
    ]


def _time(row: dict[str, Any]) -> str:
    return f"{1e3 * row['floor_seconds']:.2f} ms"
