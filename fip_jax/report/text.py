"""The result as a table in the terminal."""

from pathlib import Path
from typing import Any

from rich.table import Table

from fip_jax.progress import console


def print_summary(summary: dict[str, Any], workdir: Path) -> None:
    """Prints what a person wants to know of `summary.json` first, and where the rest is."""
    before, after = summary["victim"], summary["purified"]
    sharp = summary["smoothness"]
    table = Table(title=f"{summary['defense']} against {summary['attack']}, seed {summary['seed']}")
    for heading in ("", "suspicious", "purified"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, meaning in (
        ("acc", "ACC, clean images right"),
        ("asr", "ASR, triggered images fooled"),
        ("ra", "RA, triggered images right"),
    ):
        table.add_row(meaning, _per_cent(before[name]), _per_cent(after[name]))
    for name, meaning in (("lambda_max_fisher", "Fisher, top eigenvalue"), ("trace_fisher", "Fisher, trace")):
        table.add_row(meaning, *(_number(sharp[when][name]) for when in ("before", "after")))
    console.print(table)
    if after["der"] is not None:
        console.print(f"DER {after['der']:.3f}")
    if summary["skipped_steps"]:
        console.print(f"{summary['skipped_steps']} steps were not finite and were left out")
    seconds = summary["seconds"]
    console.print(
        f"{summary['clean_images']} clean images, purified in {seconds['purify']:.1f} s, "
        f"{seconds['total']:.0f} s in all, {seconds['compile']:.0f} s of them compiling"
    )
    console.print(f"model: {workdir / 'purified'}\nnumbers: {workdir / 'summary.json'}")
    console.print(f"pictures: {workdir / 'figures'}")


def _per_cent(rate: float | None) -> str:
    return "unknown" if rate is None else f"{100 * rate:.2f} %"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
