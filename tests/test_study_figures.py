"""The pictures of the study, from rows by hand."""

import json

import numpy as np
import pytest

from benchmarks.purification import figures
from benchmarks.purification.retuning import STEPS


def row(model, method="fip", *, changed=None, clean_images=100, acc=0.9, asr=0.1):
    return {
        "model": model,
        "method": method,
        "settings": json.dumps(changed or {}),
        "clean_images": str(clean_images),
        "acc_before": "0.95",
        "acc_after": str(acc),
        "asr_after": str(asr),
        "ra_after": "0.8",
    }


def lines(axis):
    """What an axis shows, by label."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}


def test_ablation_has_a_panel_for_each_setting_that_all_networks_have():
    radius, steps = "defense.fip.radius", "defense.steps"
    rows = [
        *(row(model, acc=acc) for model, acc in (("a", 0.9), ("b", 0.8))),
        *(row(model, changed={radius: 0.3}, acc=acc) for model, acc in (("a", 0.7), ("b", 0.5))),
        row("a", changed={radius: 1.0}),
        row("a", changed={steps: 100}),
    ]
    ((name, figure),) = figures.ablation(rows)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert (name, [axis.get_title() for axis in panels]) == ("ablation", ["fip.radius"])
    np.testing.assert_allclose(lines(panels[0])["ACC"], [[0, 1], [85, 60]])
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["0 *", "0.3"]


def test_curve_goes_by_the_number_of_images():
    rows = [row("a", clean_images=count, acc=count / 1000, asr=1 / count) for count in (400, 100)]
    ((_, figure),) = figures.curve([*rows, row("b")])
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    shown = lines(figure.axes[0])
    np.testing.assert_allclose(shown["fip ACC"], [[100, 400], [10, 40]])
    np.testing.assert_allclose(shown["fip ASR"], [[100, 400], [1, 0.25]])


def test_retuning_shows_means_and_deviations():
    rows = [
        {"model": "a", "method": "ft"} | {f"asr_{step}": str(asr) for step in STEPS} for asr in (0.1, 0.3)
    ]
    ((_, figure),) = figures.retuning(rows)
    np.testing.assert_allclose(lines(figure.axes[0])["ft"], [list(STEPS), [20] * len(STEPS)])
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((20 - 200**0.5, 20 + 200**0.5))
