"""Figures that show the numbers they were given, and files that are pictures; the table in the terminal."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from fip_jax.attacks.poison import TriggeredSet
from fip_jax.data.split import Split
from fip_jax.experiment import Material
from fip_jax.report import html, text
from fip_jax.report.figures import (
    RIGHT,
    WRONG,
    describe_curves,
    describe_examples,
    draw_all,
    draw_curves,
    draw_examples,
)
from fip_jax.suspect import Suspect
from fip_jax.workdir import MetricsLog

NAMES = ("stop", "yield", "speed limit 20")


def rows_of(**columns):
    """Rows of `metrics.jsonl` at the steps 10, 20, ..."""
    length = len(next(iter(columns.values())))
    columns = {"loss": [1.0] * length, "acc": [0.5] * length, "asr": [None] * length, **columns}
    columns.setdefault("ra", columns["asr"])
    return [{"step": 10 * (k + 1), **{n: v[k] for n, v in columns.items()}} for k in range(length)]


def lines(axis):
    """Label -> (steps, values) of the curves in an axis."""
    return {
        str(line.get_label()): tuple(np.asarray(d).tolist() for d in line.get_data()) for line in axis.lines
    }


def assert_picture(path):
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 200
    # Dark ink on white, over a part of the picture that is neither nothing nor all.
    assert 0.002 < (pixels < 200).mean() < 0.95


def material(num=8, triggered=True):
    """Images whose pixel values are their numbers; every second one triggered, 100 higher."""
    images = np.arange(num, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    labels = (np.arange(num) % 3).astype(np.int32)
    split = Split(images, labels)
    where = np.arange(1, num, 2)
    shown = TriggeredSet(images[where] + 100, labels[where], np.zeros(len(where), np.int32), where)
    return Material(split, split, split, shown if triggered else None, NAMES)


NETWORKS = tuple(Suspect(None, {"add": add}, {}, {}) for add in (0, 1))


def predict(params, model_state, images):
    """Before: the class that the pixels number; after: the one behind that."""
    return (images[:, 0, 0, 0].astype(np.int32) + params["add"]) % 3


def test_curves_show_rates_in_per_cent_and_further_columns():
    rows = rows_of(acc=[0.5, 0.75], asr=[1.0, 0.25], ra=[0.0, 0.5], loss=[0.5, 0.25], trace=[0.0, 8.0])
    figure = draw_curves(rows, "Title", {"loss": "the loss", "trace": "the trace"})
    top, loss, trace = figure.axes
    found = {label[:3].strip(","): points for label, points in lines(top).items()}
    assert found == {
        "ACC": ([10, 20], [50.0, 75.0]),
        "ASR": ([10, 20], [100.0, 25.0]),
        "RA": ([10, 20], [0.0, 50.0]),
    }
    assert top.get_title() == "Title"
    assert [line.get_data()[1].tolist() for line in (*loss.lines, *trace.lines)] == [[0.5, 0.25], [0.0, 8.0]]
    # A logarithmic scale only where nothing would be lost to it.
    assert (loss.get_yscale(), trace.get_yscale()) == ("log", "linear")
    assert (loss.get_ylabel(), trace.get_ylabel()) == ("the loss", "the trace")
    assert trace.get_xlabel() == "step"


def test_curves_differ_in_more_than_their_colour():
    rows = rows_of(acc=[0.5, 0.75], asr=[1.0, 0.25])
    curves = draw_curves(rows, "", {"loss": "loss"}).axes[0].lines
    assert len({curve.get_linestyle() for curve in curves}) == len(curves) == 3
    assert len({curve.get_marker() for curve in curves}) == 3


def test_curves_in_words():
    rows = rows_of(acc=[0.5, 0.25, 0.75], loss=[None, 8.0, 0.5], trace=[None] * 3)
    assert describe_curves(rows, "Title", {"loss": "the loss", "trace": "the trace"}) == (
        "Title, curves over the steps 10 to 30. ACC, clean images right: from 50 % to 75 %, between 25 % and 75 %. "
        "the loss: from 8 to 0.5, between 0.5 and 8."
    )


def test_sharpness_that_has_not_converged_is_drawn_hollow_and_said():
    sharpness = {"sharp": [None, 4.0, 2.0, 1.0], "sharp_converged": [None, True, False, True]}
    rows = rows_of(loss=[1.0] * 4, acc=[0.5] * 4, asr=[0.5] * 4, **sharpness)
    axis = draw_curves(rows, "", {"sharp": "λmax"}).axes[1]
    curve, hollow = axis.lines
    assert [found.tolist() for found in curve.get_data()] == [[20, 30, 40], [4.0, 2.0, 1.0]]
    assert [list(found) for found in hollow.get_data()] == [[30], [2.0]]
    assert hollow.get_markerfacecolor() == "white"
    words = describe_curves(rows, "Title", {"sharp": "λmax"})
    assert words.endswith("λmax: from 4 to 1, between 1 and 4. Not converged at 1 of 3 points, drawn hollow.")


def test_examples_in_words():
    assert describe_examples(draw_examples(material(), NETWORKS, predict, count=1)) == (
        "Test images and what the network says. Clean “yield”: before “yield”, after “speed limit 20”. Triggered "
        "“yield”: before “speed limit 20”, after “stop”."
    )


def test_curves_without_a_trigger_show_the_accuracy_alone():
    (label,) = lines(draw_curves(rows_of(acc=[0.5, 0.75]), "", {"loss": "loss"}).axes[0])
    assert label.startswith("ACC")


@pytest.mark.parametrize("losses", [[None, 1.0, 2.0], [1.0, None, 2.0], [None, None, None]])
def test_intervals_without_a_loss_are_left_out(losses):
    figure = draw_curves(rows_of(loss=losses), "", {"loss": "loss"})
    found = [point for line in figure.axes[1].lines for point in zip(*line.get_data(), strict=True)]
    expected = zip((10, 20, 30), losses, strict=True)
    assert found == [(step, loss) for step, loss in expected if loss is not None]
    FigureCanvasAgg(figure).draw()


def test_a_single_row_can_be_drawn():
    FigureCanvasAgg(draw_curves(rows_of(loss=[0.5]), "", {"loss": "loss"})).draw()


def said(axis):
    """[(what is said, colour)] below an image."""
    return [(found.get_text(), found.get_color()) for found in axis.texts]


def test_examples_show_images_and_answers():
    figure = draw_examples(material(), NETWORKS, predict, count=3)
    clean, triggered = figure.axes[:3], figure.axes[3:]
    assert len(triggered) == 3
    # Of the triggered images 1, 3, 5 and 7 three from first to last (101, ...), each below itself without the trigger.
    pixels = [np.asarray(axis.images[0].get_array())[0, 0, 0] for axis in figure.axes]
    assert pixels == [1, 5, 7, 101, 105, 107]
    # Image 1 is of class 1, which is what the network said before; after, it says 2.
    assert said(clean[0]) == [("before: yield ✓", RIGHT), ("after: speed limit 20 ✗", WRONG)]
    # 101 = 2 mod 3 before and 0 after, and both are wrong.
    assert said(triggered[0]) == [("before: speed limit 20 ✗", WRONG), ("after: stop ✗", WRONG)]
    assert (clean[0].get_ylabel(), triggered[0].get_ylabel()) == ("clean", "triggered")


def test_an_image_composed_of_two_classes_is_right_for_both():
    found = material()
    both = found._replace(triggered=found.triggered._replace(others=np.full(4, 2, np.int32)))
    triggered = draw_examples(both, NETWORKS, predict, count=3).axes[3]
    assert said(triggered) == [("before: speed limit 20 ✓", RIGHT), ("after: stop ✗", WRONG)]


def test_examples_without_a_trigger():
    figure = draw_examples(material(triggered=False), NETWORKS, predict, count=3)
    assert [np.asarray(axis.images[0].get_array())[0, 0, 0] for axis in figure.axes] == [0, 4, 7]


@pytest.mark.parametrize("num_clean, num_triggered", [(2, 4), (8, 3), (1, 1)])
def test_triggered_images_that_came_without_their_clean_ones(num_clean, num_triggered):
    shown = material(8)
    triggered = TriggeredSet(
        shown.test.images[:num_triggered] + 100,
        shown.test.labels[:num_triggered],
        np.zeros(8, np.int32),
        None,
    )
    shown = shown._replace(test=shown.test.take(np.arange(num_clean)), triggered=triggered)
    figure = draw_examples(shown, NETWORKS, predict, count=6)
    FigureCanvasAgg(figure).draw()
    drawn = [axis for axis in figure.axes if axis.images]
    # Test images from first to last above, triggered ones below, each as many as there are.
    pixels = [np.asarray(axis.images[0].get_array())[0, 0, 0] for axis in drawn]
    clean = {1: [0], 2: [0, 1], 8: [0, 1, 3, 4, 6, 7]}[num_clean]
    assert pixels == clean + [100 + index for index in range(num_triggered)]
    assert [axis.get_visible() for axis in figure.axes].count(True) == len(drawn)
    assert said(drawn[len(clean)]) == [("before: yield ✗", WRONG), ("after: speed limit 20 ✗", WRONG)]


@pytest.mark.parametrize("num, triggered", [(4, False), (8, True), (1, False)])
def test_fewer_images_than_places(num, triggered):
    # Four images and six places, or eight of which four are triggered.
    figure = draw_examples(material(num, triggered), NETWORKS, predict)
    FigureCanvasAgg(figure).draw()
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == (8 if triggered else num)


@pytest.mark.parametrize(
    "name", ["staffordshire_bull_terrier", "a very long name of several words", "a$b_{$c"]
)
def test_long_names_are_cut_and_not_lost(name):
    shown = material()._replace(class_names=(name,) * 3)
    figure = draw_examples(shown, NETWORKS, predict, count=1)
    FigureCanvasAgg(figure).draw()
    found, _ = said(figure.axes[0])[0]
    assert len(found) <= len("before: ") + 22 + len(" ✗")
    # A dollar may be escaped.
    assert found.replace("\\", "").startswith("before: " + name[:6])


@pytest.mark.parametrize("triggered, trace", [(True, 2.0), (False, 0.0)])
def test_all_figures_of_a_run(tmp_path, triggered, trace):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    rates = {"asr": 0.5, "ra": 0.25} if triggered else {"asr": None, "ra": None}
    for step in (1, 2):
        sharp = {"lambda_max_fisher": 8.0, "trace_fisher": 16.0} if step == 2 else {}
        log.append("purify", step, acc=0.9, loss=None if step == 1 else 0.5, trace=trace, **rates, **sharp)
        if triggered:
            log.append("victim", step, acc=0.9, loss=0.5, trace=0.0, **rates)
    for _ in range(2):  # the second time over the first
        draw_all(tmp_path, material(16, triggered), NETWORKS, predict)
    expected = ["examples.png", "purification.png", *(["victim.png"] if triggered else [])]
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == expected
    for name in expected:
        assert_picture(tmp_path / "figures" / name)
    found = {picture.title: picture.description for picture in html.pictures(tmp_path / "figures")}
    assert list(found)[:2] == ["Examples", "Purification"]
    assert found["Purification"].startswith(
        "Purification, curves over the steps 1 to 2. ACC, clean images right: from 90 %"
    )
    assert "λmax, Fisher: from 8 to 8, between 8 and 8. Tr F, test images: from 16" in found["Purification"]
    assert "λmax, Hessian" not in found["Purification"]
    assert "“stop”: before “stop”, after “yield”." in found["Examples"]


@pytest.mark.parametrize("asr, der", [(0.999, 0.984), (None, None)])
def test_the_table_says_what_became_of_the_network(tmp_path, capsys, asr, der):
    rates = {"acc": 0.9512, "asr": asr, "ra": asr}
    sharpness = {"lambda_max_fisher": 12.34567, "trace_fisher": 2e5, "trace_fisher_relative": 0.4321}
    summary = {
        "victim": rates,
        "purified": {**rates, "acc": 0.9, "der": der},
        "smoothness": {"before": sharpness, "after": sharpness},
        "seconds": {
            "total": 61.2,
            "compile": 5.0,
            "purify": 12.34,
            "over_time": 6.12,
            "over_time_share": 0.1,
        },
        "clean_images": 360,
        "skipped_steps": 2,
        "attack": "badnets",
        "defense": "fip",
        "seed": 3,
    }
    text.print_summary(summary | {"attack": "[/x]"}, tmp_path / "[/y]")
    found = capsys.readouterr().out
    assert "against [/x]" in found and "[/y]" in found  # as they are, and no markup
    for name in ("purified.pth", "purified.safetensors"):
        (tmp_path / name).touch()
    text.print_summary(summary, tmp_path)
    found = capsys.readouterr().out
    wanted = [
        "fip against badnets, seed 3",
        "95.12 %",
        "90.00 %",
        "12.35",
        "2e+05",
        "0.4321",
        "2 steps were not finite",
    ]
    wanted += [
        "360 clean images, purified in 12.3 s",
        "61 s in all, 5 s of them compiling, 10 % of it for curves of sharpness",
        f"purified network: {tmp_path / 'purified.pth'}",
        f"purified network: {tmp_path / 'purified.safetensors'}",
    ]
    wanted += ["99.90 %", "DER 0.984"] if der else ["unknown"]
    for part in wanted:
        assert part in found
    assert der or "DER" not in found


@pytest.mark.parametrize("acc, asr, hint", [(0.97, 0.5, False), (0.49, None, True)])
def test_a_network_that_knows_little_has_its_settings_called_in_question(acc, asr, hint, capsys):
    text.print_rates({"acc": acc, "asr": asr, "ra": asr}, "suspicious network")
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith(f"suspicious network: ACC {100 * acc:.2f} %")
    assert ("ASR 50.00 %, RA 50.00 %" in words) == (asr is not None)
    assert ("look at dataset.mean" in words) == hint
