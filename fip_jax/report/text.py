"""The result as a table in the terminal."""

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fip_jax.progress import console

# An ACC below is named, since the images may come to the network in another way than in its training.
PLAUSIBLE = 0.5
SUSPECT_SETTINGS = (
    "If it should know more, look at dataset.mean, .std, .crop and .image_size, at the order of the classes, and at "
    "layers that a file does not name, such as a pooling."
)


def print_rates(rates: dict[str, Any], name: str) -> None:
    """One line of rates, and a hint where they look wrong."""
    known = (
        f"{key.upper()} {per_cent(rates[key])}" for key in ("acc", "asr", "ra") if rates[key] is not None
    )
    console.print(f"{name}: {', '.join(known)}", markup=False)
    if rates["acc"] < PLAUSIBLE:
        console.print(f"  {SUSPECT_SETTINGS}", markup=False)


def print_summary(summary: dict[str, Any], workdir: Path) -> None:
    """Prints what a person wants to know of `summary.json` first, and where the rest is."""
    networks = [name for name in ("victim", "purified") if name in summary]
    sharp = summary["smoothness"]
    title = f"{summary.get('defense', 'none')} against {summary['attack']}, seed {summary['seed']}"
    table = Table(title=Text(title))  # as text: a name from a file could hold what rich takes for markup
    table.add_column("")
    for heading in ("suspicious", "purified")[: len(networks)]:
        table.add_column(heading, justify="right")
    for name, meaning in (
        ("acc", "ACC, clean images right"),
        ("asr", "ASR, triggered images fooled"),
        ("ra", "RA, triggered images right"),
    ):
        table.add_row(meaning, *(per_cent(summary[network][name]) for network in networks))
    for name, meaning in (
        ("lambda_max_fisher", "Fisher, top eigenvalue"),
        ("trace_fisher", "Fisher, trace"),
        ("trace_fisher_relative", "Fisher, trace in relative changes"),
    ):
        table.add_row(meaning, *(number(part[name]) for part in sharp.values()))
    for matrix in ("fisher", "hessian"):
        if matrix in sharp["before"]:
            _add_spectrum(table, matrix.capitalize(), sharp["before"][matrix])
    console.print(table)
    if "headline" in summary:
        console.print(f"verdict: {summary['verdict']}. {summary['headline']}", markup=False)
    seconds = summary["seconds"]
    if "purified" in summary:
        if summary["purified"]["der"] is not None:
            console.print(f"DER {summary['purified']['der']:.3f}")
        if summary["skipped_steps"]:
            console.print(f"{summary['skipped_steps']} steps were not finite and were left out")
        for file in (*sorted(workdir.glob("purified.*")), workdir / "defense_result.pt"):
            if file.exists():
                console.print(f"purified network: {file}", markup=False)
    work = f"purified in {seconds['purify']:.1f} s, " if "purified" in summary else ""
    console.print(
        f"{summary['clean_images']} clean images, {work}"
        f"{seconds['total']:.0f} s in all, {seconds['compile']:.0f} s of them compiling"
        + (
            f", {100 * seconds['over_time_share']:.0f} % of it for curves of sharpness"
            if "over_time" in seconds
            else ""
        )
    )
    for what, name in (("numbers", "summary.json"), ("pictures", "figures"), ("report", "report.html")):
        console.print(f"{what}: {workdir / name}", markup=False)


def _add_spectrum(table: Table, name: str, found: dict[str, Any]) -> None:
    values = ", ".join(map(number, found["eigenvalues"]))
    table.add_row(f"{name}, top eigenvalues", values + ("" if found["converged"] else " (not converged)"))
    density = found["density"]
    error = "unknown" if density["trace_standard_error"] is None else number(density["trace_standard_error"])
    table.add_row(f"{name}, trace by probes", f"{number(density['trace'])} ± {error}")


def per_cent(rate: float | None) -> str:
    """A rate for people."""
    return "unknown" if rate is None else f"{100 * rate:.2f} %"


def number(value: float | None) -> str:
    """A measurement for people."""
    return "not finite" if value is None else f"{value:.4g}"


def moved(key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """A rate before and after."""
    return f"{per_cent(before[key])} before, {per_cent(after[key])} after"
