"""The pictures of a run."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fip_jax.data.split import spread
from fip_jax.errors import UserError
from fip_jax.evaluate import Predict
from fip_jax.inversion import Triggers
from fip_jax.material import Material
from fip_jax.progress import console
from fip_jax.report import representations, spectra
from fip_jax.report.triggers import describe_triggers, draw_triggers
from fip_jax.suspect import Suspect
from fip_jax.workdir import MetricsLog

# Hues that the colour-blind tell apart (Okabe and Ito, 2008), and another line and marker for each.
RATE_STYLES = {
    "acc": {"color": "#0072b2", "linestyle": "-", "marker": "o"},
    "asr": {"color": "#d55e00", "linestyle": "--", "marker": "^"},
    "ra": {"color": "#009e73", "linestyle": ":", "marker": "s"},
}
RATE_NAMES = {
    "acc": "ACC, clean images right",
    "asr": "ASR, triggered images fooled",
    "ra": "RA, triggered images right",
}
# Columns of `over_time.py`, over clean test images.
SHARPNESS = {
    "lambda_max_hessian": "λmax, Hessian",
    "lambda_max_fisher": "λmax, Fisher",
    "trace_fisher": "Tr F, test images",
}
WHEN = ("before", "after")
RIGHT, WRONG = "#00608f", "#b34700"


def draw_representations(
    workdir: Path, material: Material, networks: tuple[Suspect, ...], count: int, seed: int
) -> None:
    """Draws penultimate features by t-SNE, or says in a sentence why not: a picture is no reason to end a run.

    Args:
      workdir: the run's folder, with `figures/`.
      material: its data.
      networks: before and, where there was one, after purification.
      count: test images of each kind; 0 for no picture.
      seed: of t-SNE.
    """
    if not count:
        return
    whens = ("before purification", "after purification")[: len(networks)]
    try:
        figure, words = representations.make(material, networks, count, seed, whens)
    except UserError as error:
        console.print(f"the figure of representations is left out: {error}", markup=False)
        return
    _save(figure, workdir / "figures" / "representations.png", "Representations", words)


def draw_all(workdir: Path, material: Material, networks: tuple[Suspect, Suspect], predict: Predict) -> None:
    """Draws every figure of a run into `figures/`; each carries a title and what it shows in words.

    The words are the entries `Title` and `Description` of the PNG file.

    Args:
      workdir: the run's folder.
      material: its data.
      networks: before and after purification.
      predict: from `evaluate.make_predict`.
    """
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    log = MetricsLog(workdir / "metrics.jsonl")
    _draw_training(log, folder)
    rows = log.rows("purify")
    penalty = {"trace": "Tr F where SAM looks"} if any(row["trace"] for row in rows) else {}
    _save_curves(rows, "Purification", {"loss": "loss", **penalty}, folder / "purification.png")
    examples = draw_examples(material, networks, predict)
    _save(examples, folder / "examples.png", "Examples", describe_examples(examples))


def draw_constructed(
    workdir: Path, first: Triggers, classes: list[dict[str, Any]], image: np.ndarray
) -> None:
    """Draws the constructed triggers into `figures/`; arguments as of `triggers.draw_triggers`."""
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    figure, words = draw_triggers(first, classes, image), describe_triggers(classes)
    _save(figure, folder / "triggers.png", "Constructed triggers", words)


def draw_inspection(
    workdir: Path, material: Material, network: Suspect, predict: Predict, found: dict[str, Any]
) -> None:
    """Draws the figures of a run in the mode "inspect", as `draw_all`; `found` is of `Analysis.whole`."""
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    _draw_training(MetricsLog(workdir / "metrics.jsonl"), folder)
    _save(
        spectra.draw_densities(found), folder / "spectrum.png", "Spectra", spectra.describe_densities(found)
    )
    slices = spectra.draw_slices(found), folder / "landscape.png"
    _save(*slices, "Loss along the top eigenvectors", spectra.describe_slices(found))
    examples = draw_examples(material, (network,), predict)
    _save(examples, folder / "examples.png", "Examples", describe_examples(examples))


def _draw_training(log: MetricsLog, folder: Path) -> None:
    rows = log.rows("victim")
    if rows:
        _save_curves(rows, "Training of the victim", {"loss": "loss"}, folder / "victim.png")


def _save_curves(rows: list[dict[str, Any]], title: str, panels: dict[str, str], path: Path) -> None:
    """Saves the curves of a phase, with those of its sharpness where that was measured."""
    panels = panels | {
        name: label for name, label in SHARPNESS.items() if any(row.get(name) is not None for row in rows)
    }
    _save(draw_curves(rows, title, panels), path, title, describe_curves(rows, title, panels))


def _save(figure: Figure, path: Path, title: str, description: str) -> None:
    draft = path.with_name(f".{path.name}")
    # Names of folders need not be text that can be written.
    words = description.encode("utf-8", "backslashreplace").decode()
    FigureCanvasAgg(figure).print_png(str(draft), metadata={"Title": title, "Description": words})
    draft.replace(path)


def draw_curves(rows: list[dict[str, Any]], title: str, panels: dict[str, str]) -> Figure:
    """Rates over steps, and a panel below for each further column (means since the row before).

    Args:
      rows: of `metrics.jsonl`, one phase.
      title: of the figure.
      panels: column -> label of its axis.
    """
    figure = Figure(figsize=(7, 2.8 + 1.7 * len(panels)), layout="constrained")
    axes = figure.subplots(1 + len(panels), 1, sharex=True, height_ratios=[2.2] + [1.0] * len(panels))
    steps = [row["step"] for row in rows]
    for name, style in RATE_STYLES.items():
        rates = [row.get(name) for row in rows]
        if all(rate is not None for rate in rates):
            axes[0].plot(steps, 100 * np.array(rates), **style, markersize=4, label=RATE_NAMES[name])
    axes[0].set(ylabel="%", ylim=(-3, 103), title=title)
    axes[0].legend(loc="center right", fontsize=8)
    for axis, (name, label) in zip(axes[1:], panels.items(), strict=True):
        found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        axis.plot(*zip(*found, strict=True), color="#444444", marker=".")
        rough = [(row["step"], row[name]) for row in _unsettled(rows, name)]
        if rough:
            axis.plot(*zip(*rough, strict=True), "o", mfc="white", mec="#444444", label="not converged")
            axis.legend(fontsize=8)
        axis.set(ylabel=label)
        if found and min(value for _, value in found) > 0:
            axis.set_yscale("log")
    axes[-1].set(xlabel="step")
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure


def _unsettled(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The rows whose value in a column had not converged."""
    return [row for row in rows if row.get(name) is not None and row.get(f"{name}_converged") is False]


def describe_curves(rows: list[dict[str, Any]], title: str, panels: dict[str, str]) -> str:
    """What `draw_curves` shows: first, last, lowest and highest value of every curve."""
    steps = [row["step"] for row in rows]
    sentences = [f"{title}, curves over the steps {min(steps)} to {max(steps)}."]
    for column, name, scale, unit in (
        *((key, name, 100, " %") for key, name in RATE_NAMES.items()),
        *((key, label, 1, "") for key, label in panels.items()),
    ):
        values = [scale * row[column] for row in rows if row.get(column) is not None]
        if values:
            first, last, low, high = (
                f"{x:.4g}{unit}" for x in (values[0], values[-1], min(values), max(values))
            )
            sentences.append(f"{name}: from {first} to {last}, between {low} and {high}.")
            if rough := len(_unsettled(rows, column)):
                sentences.append(f"Not converged at {rough} of {len(values)} points, drawn hollow.")
    return " ".join(sentences)


def describe_examples(figure: Figure) -> str:
    """What a figure of `draw_examples` shows: every image, and what the networks take it for."""
    found = [str(axis.get_label()) for axis in figure.axes if axis.images]
    return " ".join(["Test images and what the network says.", *found])


def draw_examples(
    material: Material, networks: tuple[Suspect, ...], predict: Predict, count: int = 6
) -> Figure:
    """Clean and triggered test images side by side, with what the networks take them for.

    Args:
      material: the run's data.
      networks: before and, where there was one, after purification.
      predict: from `evaluate.make_predict`.
      count: images.
    """
    test, triggered = material.test, material.triggered
    # From first to last, since some test sets are sorted by class.
    some = spread(len(triggered.labels), count) if triggered is not None else None
    if triggered is None or triggered.indices is None:
        shown = spread(len(test.labels), count)
    else:
        shown = triggered.indices[some]
    rows = [("clean", test.images[shown], test.labels[shown, None])]
    if triggered is not None:
        rows.append(("triggered", triggered.images[some], triggered.shown[some]))
    names = material.class_names
    columns = max(len(labels) for _, _, labels in rows)
    # The layout knows nothing of the answers below the last row; it gets a margin for them.
    layout = ConstrainedLayoutEngine(rect=(0, 0.05, 1, 0.95))
    figure = Figure(figsize=(1.75 * columns, 2.45 * len(rows)), layout=layout)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for (name, images, labels), row in zip(rows, axes, strict=True):
        answers = [predict(network.params, network.model_state, images) for network in networks]
        for axis in row[len(labels) :]:
            axis.set_visible(False)
        for column, axis in enumerate(row[: len(labels)]):
            _draw_example(axis, images[column], labels[column], [a[column] for a in answers], names)
            axis.set_label(f"{name.capitalize()} {axis.get_label()}")
        row[0].set_ylabel(name, fontsize=12)
    whens = "before and after purification" if len(networks) > 1 else "before any purification"
    figure.suptitle(f"What the network says: {whens}", fontsize=12)
    return figure


def _draw_example(
    axis: Axes, image: np.ndarray, labels: np.ndarray, answers: list[int], names: tuple
) -> None:
    """`labels`: the classes that the image shows, the first of which is its name."""
    axis.imshow(image, interpolation="nearest")
    words = ", ".join(f"{when} “{names[answer]}”" for when, answer in zip(WHEN, answers, strict=False))
    axis.set(xticks=[], yticks=[], label=f"“{names[labels[0]]}”: {words}.")
    for line, (when, answer) in enumerate(zip(WHEN, answers, strict=False)):
        right = answer in labels
        said = names[answer] if len(names[answer]) <= 22 else names[answer][:21] + "…"
        said = said.replace("$", r"\$")
        axis.text(
            0.5,
            -0.08 - 0.11 * line,
            f"{when}: {said} {'✓' if right else '✗'}",
            color=RIGHT if right else WRONG,
            fontsize=7.5,
            ha="center",
            va="center",
            transform=axis.transAxes,
        )
