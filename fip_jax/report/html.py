"""`report.html`: a run on one page that needs nothing beside it, for people who did not make the run."""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from PIL import Image

from fip_jax.config import default_config
from fip_jax.report import headline, verdict
from fip_jax.report.interval import interval
from fip_jax.report.text import number, per_cent
from fip_jax.shown import shown
from fip_jax.workdir import flatten, read_json, write_whole

RATES = {
    "acc": ("ACC", "clean images right", "test_images"),
    "asr": ("ASR", "triggered images taken for the target", "triggered_images"),
    "ra": ("RA", "triggered images right", "triggered_images"),
}
COLUMNS = {"victim": "Suspicious", "purified": "Purified"}
_ASIDE = ("residual", "residuals", "iterations", "converged")
# The order of the story; further figures come after these.
FIGURES = ("examples", "triggers", "purification", "representations", "spectrum", "landscape", "victim")


class Cell(NamedTuple):
    """A number in a table; `share` is the length of the bar behind it, `note` stands below it."""

    text: str
    share: float | None = None
    note: str = ""


class Quantity(NamedTuple):
    """A row of measurements; `aside` are those that only say how others were computed."""

    name: str
    cells: list[Cell]
    aside: bool


class Picture(NamedTuple):
    """A figure: its title, what it shows in words, its size in pixels, and its bytes in base64."""

    title: str
    description: str
    width: int
    height: int
    data: str


def write(workdir: Path, summary: dict[str, Any], command: str | None) -> None:
    """Writes `report.html` of a run, from `config.json` and `figures/` beside it.

    Args:
      workdir: the run's folder.
      summary: the content of `summary.json`.
      command: the command line that the run was started with, or None for a run from Python.
    """
    page = render(summary, read_json(workdir / "config.json"), pictures(workdir / "figures"), command)
    # A path that is no text has no other way into UTF-8.
    write_whole(workdir / "report.html", page.encode("utf-8", "backslashreplace"))


def render(
    summary: dict[str, Any], config: dict[str, Any], figures: list[Picture], command: str | None
) -> str:
    """The page as HTML; everything that is put in is escaped."""
    attack = summary["attack"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        summary=summary,
        title=f"{summary['defense']} against {attack}" if "defense" in summary else f"attack {attack}",
        verdict=verdict.judge(summary, config),
        limits={
            name: f"{100 * getattr(headline, name):g} %"
            for name in ("GONE", "AT_MOST", "WORKS", "PRICE", "HARM", "COLLAPSE")
        },
        columns=[heading for name, heading in COLUMNS.items() if name in summary],
        rates=_rate_rows(summary),
        smoothness=_smoothness_rows(summary["smoothness"]),
        figures=figures,
        changed_settings=_changed_settings(config),
        settings={key: _as_text(value) for key, value in sorted(flatten(config).items())},
        command=command,
    )


def _shown(value: Any) -> Any:
    """What the page is given: no text in it can turn the lines around it."""
    return shown(value, "\n") if isinstance(value, str) and not hasattr(value, "__html__") else value


def pictures(folder: Path) -> list[Picture]:
    """The PNG files of a folder, with what they say of themselves (see `figures.draw_all`)."""

    def place(file: Path) -> tuple[int, str]:
        return (FIGURES.index(file.stem) if file.stem in FIGURES else len(FIGURES), file.stem)

    found = []
    for file in sorted(folder.glob("[!.]*.png"), key=place):
        with Image.open(file) as image:
            image.load()
            title = image.info.get("Title", file.stem.replace("_", " "))
            description = image.info.get("Description", title)
            size = image.size
        found.append(Picture(title, description, *size, base64.b64encode(file.read_bytes()).decode()))
    return found


def _rate_rows(summary: dict[str, Any]) -> list[tuple[str, str, list[Cell]]]:
    """(name, meaning, a cell for every column) of every rate; the columns are networks, and the change."""
    networks = [summary[name] for name in COLUMNS if name in summary]
    rows = []
    for key, (name, meaning, images) in RATES.items():
        cells = [_rate(rates[key], summary.get(images)) for rates in networks]
        if len(networks) > 1:
            before, after = (rates[key] for rates in networks)
            cells.append(Cell("–" if after is None else f"{100 * (after - before):+.2f} points"))
        rows.append((name, meaning, cells))
    if len(networks) > 1:
        der = summary["purified"]["der"]
        shown = [Cell("–"), Cell("unknown" if der is None else f"{der:.3f}"), Cell("–")]
        rows.append(("DER", "0.5 for no effect, 1 at best", shown))
    return rows


def _rate(rate: float | None, count: int | None) -> Cell:
    if rate is None or not count:
        return Cell(per_cent(rate), rate)
    low, high = interval(rate, count)
    return Cell(per_cent(rate), rate, f"{100 * low:.2f} to {100 * high:.2f}")


def _smoothness_rows(smoothness: dict[str, Any]) -> list[Quantity]:
    """Every number and every few, with a cell for every network; what is more is left to the figures."""
    networks = [flatten(part) for part in smoothness.values()]
    return [
        Quantity(
            verdict.in_words(key),
            [Cell(_measurement(part.get(key))) for part in networks],
            key.endswith(_ASIDE),
        )
        for key, value in networks[0].items()
        if not isinstance(value, list) or key.endswith(("eigenvalues", "residuals"))
    ]


def _measurement(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_measurement, value))
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,}" if isinstance(value, int) else number(value)


def _changed_settings(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value, default) of every setting that is not at its default."""
    defaults = flatten(json.loads(default_config().to_json()))
    return [
        (key, _as_text(value), _as_text(defaults[key]) if key in defaults else "none")
        for key, value in sorted(flatten(config).items())
        if key not in defaults or value != defaults[key]
    ]


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
