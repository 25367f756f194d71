"""The page of a run: what it says for given numbers, that nothing in it can run or load, and a browser's view of it."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import stats

from fip_jax.config import default_config
from fip_jax.report import html

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
EMBEDDED = "data:image/png;base64,"
VOID = {"meta", "img", "br", "hr", "link", "input"}


def summary(before=(0.98, 0.97, 0.02), after=(0.96, 0.01, 0.94), converged=True, **changes):
    """Like `summary.json`; `before` and `after` are ACC, ASR and RA."""
    names = ("acc", "asr", "ra")
    sharp = {
        "lambda_max_fisher": 12.34567,
        "lambda_max_residual": 0.5,
        "lambda_max_iterations": 7,
        "lambda_max_converged": True,
        "trace_fisher": 80.0,
        "trace_fisher_relative": 1.5,
    }
    later = sharp | {
        "lambda_max_fisher": 4.5,
        "lambda_max_converged": converged,
        "trace_fisher": 160.0,
        "trace_fisher_relative": 0.5,
    }
    return {
        "victim": dict(zip(names, before, strict=True)),
        "purified": dict(zip(names, after, strict=True)) | {"der": None if after[1] is None else 0.97},
        "smoothness": {"before": sharp, "after": later},
        "seconds": {"total": 61.2, "compile": 5.0, "purify": 12.34},
        "clean_images": 360,
        "test_images": 1000,
        "triggered_images": None if after[1] is None else 900,
        "skipped_steps": 0,
        "attack": "badnets",
        "defense": "fip",
        "seed": 3,
        "versions": {"fip_jax": "0.1.0", "jax": "0.10.2"},
        "hardware": {"platform": "cpu", "cpu_count": 2},
    } | changes


def config(**changes):
    """Like `config.json`; `changes` are keys with dots written as two underscores."""
    settings = default_config()
    settings.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return json.loads(settings.to_json())


def picture(title="A title", description="What it shows"):
    """A figure of one white pixel."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(file, "png")
    return html.Picture(title, description, 1, 1, base64.b64encode(file.getvalue()).decode())


class Page(HTMLParser):
    """A parsed page: its elements, the text of each, and a complaint at the first tag that does not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        """Opens an element; no attribute twice."""
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Closes the innermost element, which must be this one."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Text that a person sees."""
        if not {"style", "title"} & set(self.open):
            self.text.append(data)

    def find(self, tag):
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        """All text, white space as one blank."""
        return " ".join(" ".join(self.text).split())


def page(figures=(), command="python -m fip_jax.main --workdir=x", settings=None, **changes):
    """A rendered and parsed page."""
    return Page(html.render(summary(**changes), settings or config(), list(figures), command))


def test_the_page_holds_the_numbers_of_the_run():
    words = page(settings=config(defense__steps=77, attack__target=8)).words
    for part in (
        "The trigger no longer works (ASR 97.00 % before, 1.00 % after; over 900 images, it may be up to 1.89 %).",
        "This does not show that the network is safe",
        "The verdict in one word: removed .",
        "on 1,000 clean test images",
        "on 900 triggered test images (attack badnets, target class 8)",
        "had the network and 360 clean images",
        "RA, triggered images right: 2.00 % before, 94.00 % after.",
        "Top eigenvalue of the Fisher matrix: fell from 12.35 to 4.5.",
        "Trace of the Fisher matrix: rose from 80 to 160.",
        "Its trace in relative changes of the weights, which their scale does not move: fell from 1.5 to 0.5.",
        "does not prove that nothing is left",
        "-96.00 points",
        "+92.00 points",
        "0.970",
        "python -m fip_jax.main --workdir=x",
        "Settings that are not at their defaults Setting Value Default attack.target 8 0 defense.steps 77 75 All",
        "12.3 s, without compiling",
        "jax 0.10.2",
        "cpu_count 2",
    ):
        assert part in words, part
    # Wilson at 9 of 900, by hand: centre (0.01 + 1.9208 / 900) / (1 + 3.8415 / 900) = 0.012084,
    # half width 1.95996 / 1.0042683 sqrt(0.0099 / 900 + 3.8415 / 3240000) = 0.0068122.
    assert "1.00 % 0.53 to 1.89" in words
    assert "Not converged" not in words


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.98, 0.97, 0.02), (0.90, 0.01, 0.9), "✓ The trigger no longer works (ASR 97.00 % before, 1.00 % after; over "
         "900 images, it may be up to 1.89 %), and 8.0 points of ACC were lost."),
        ((0.98, 0.97, 0.02), (0.97, 0.05, 0.9), "✓ The trigger no longer works"),
        ((0.98, 0.97, 0.02), (0.97, 0.051, 0.9), "! The trigger works less often, but it is not gone"),
        ((0.98, 0.97, 0.02), (0.97, 0.201, 0.7), "✗ Purification failed: the trigger still works (ASR 97.00 % "
         "before, 20.10 % after;"),
        ((0.98, 0.01, 0.95), (0.97, 0.30, 0.6), "✗ Purification failed: the trigger works now, and did not before"),
        ((0.98, 0.97, 0.02), (0.87, 0.0, 0.4), "✗ The network was harmed: ACC 98.00 % before, 87.00 % after (ASR 97"),
        ((0.98, None, None), (0.48, None, None), "✗ The network was harmed: ACC 98.00 % before, 48.00 % after."),
        ((0.12, None, None), (0.05, None, None), "✗ The network was harmed"),
        ((0.98, 0.01, 0.95), (0.97, 0.0, 0.96), "– The trigger hardly worked before"),
        ((0.98, None, None), (0.97, None, None), "? No trigger was known"),
    ],
)  # fmt: skip
def test_the_headline_says_how_it_went(before, after, expected):
    found = page(before=before, after=after)
    assert expected in found.words
    (card,) = [a["class"] for a in found.find("section")]
    grades = {"✓": "removed", "!": "reduced", "–": "nothing_to_remove", "?": "no_trigger_known"}
    grades["✗"] = "harmed" if "harmed" in expected else "not_removed"
    assert card == f"verdict {grades[expected[0]]}"


def test_without_a_trigger_only_the_accuracy_is_known():
    words = page(before=(0.98, None, None), after=(0.97, None, None), attack="none").words
    assert "whether a backdoor was there or is gone cannot be said" in words
    assert "Without a trigger only ACC can be measured" in words
    assert "A low ASR" not in words
    assert "ASR triggered images taken for the target unknown unknown –" in words
    assert "DER 0.5 for no effect, 1 at best – unknown –" in words


def test_the_network_that_was_purified_is_named_and_questioned_where_it_knows_little():
    network = {
        "model": {"name": "vit_small", "width": 96, "patch_size": 4, "depth": 2, "heads": 3},
        "num_classes": 43,
        "image_size": 32,
        "mean": [0.5, 0.5, 0.4],
        "std": [1.0, 1.0, 1.0],
        "copies": "'ema'",
    }
    words = page(network=network, before=(0.31, 0.97, 0.02)).words
    assert (
        "The network: vit_small, width 96, patch size 4, depth 2, heads 3, 43 classes, images of 32 pixels with mean "
        "[0.5, 0.5, 0.4] and standard deviation [1.0, 1.0, 1.0]." in words
    )
    assert "got 31.00 % of the clean images right. If it should know more, look at dataset.mean" in words
    assert "The file holds tensors of the network's shapes elsewhere as well ('ema')." in words
    words = page(network=network | {"copies": ""}).words
    assert "If it should know more" not in words
    assert "elsewhere as well" not in words


def test_what_did_not_converge_or_was_not_finite_is_said():
    given = summary(converged=False, skipped_steps=2)
    given["smoothness"]["after"]["trace_fisher"] = None
    words = Page(html.render(given, config(), [], None)).words
    assert "Not converged after purification: Fisher matrix, top eigenvalue." in words
    assert "converged yes NO" in words
    assert "Not known or not finite after purification: Fisher matrix, trace (exact)." in words
    assert "Fisher matrix, trace (exact) 80 not finite" in words
    assert "Trace of the Fisher matrix:" not in words
    assert "2 steps of purification were not finite" in words
    assert "The run was started from Python" in words


def test_quantities_that_are_not_known_by_name_are_shown():
    given = summary()
    given["smoothness"]["before"] |= {
        "hessian": {"lambda_max": 3.0, "converged": False, "density": [1.0, 2.0]}
    }
    given["smoothness"]["after"] |= {"hessian": {"lambda_max": 2.0, "converged": True, "density": [1.0, 2.0]}}
    words = Page(html.render(given, config(), [], None)).words
    assert "Hessian, lambda max 3 2" in words
    assert "Hessian, top eigenvalues converged NO yes" in words
    assert "Not converged before purification: Hessian, top eigenvalues." in words
    assert "Hessian, density" not in words


def test_the_price_and_the_faults_of_the_curves_are_told():
    seconds = {"total": 61.2, "compile": 5.0, "purify": 12.34, "over_time": 6.12, "over_time_share": 0.1}
    words = page(seconds=seconds, over_time={"points": 8, "not_converged": 2}).words
    assert "Measuring the sharpness on the way, for the curves: 6.1 s, 10 % of the run." in words
    assert "At 2 of 8 points of the curves the Hessian's top eigenvalue had not converged" in words
    settled = page(seconds=seconds, over_time={"points": 8, "not_converged": 0}).words
    assert "points of the curves" not in settled
    assert "for the curves" not in page().words


def inspected(asr):
    """The summary of a run in the mode "inspect"."""
    given = summary(before=(0.98, asr, 0.1 if asr else None))
    for key in ("purified", "defense", "skipped_steps"):
        del given[key]
    del given["seconds"]["purify"], given["smoothness"]["after"]
    given["smoothness"]["before"]["hessian"] = {
        "eigenvalues": [3.5, 2.25, None],
        "converged": False,
        "density": {"nodes": [[1.0, 2.0]], "trace": 4.0, "trace_standard_error": None},
    }
    return given


@pytest.mark.parametrize(
    "asr, said", [(0.9, "the trigger works (ASR 90.00 %)"), (None, "no trigger was known")]
)
def test_an_inspection_says_that_nothing_was_purified(asr, said):
    words = Page(html.render(inspected(asr), config(mode="inspect"), [], None)).words
    assert f"? The network was inspected, not purified (ACC 98.00 %); {said}." in words
    assert "Rate Suspicious ACC clean images right 98.00 % 96.93 to 98.70 ASR" in words
    assert "Hessian, top eigenvalues 3.5, 2.25, not finite" in words
    assert "Hessian, top eigenvalues converged NO" in words
    assert "Not known or not finite: Hessian, top eigenvalues." in words
    assert "Not known or not finite: Hessian, standard error of the trace by probes." in words
    assert "Not converged: Hessian, top eigenvalues." in words
    assert "themselves rough: 2 probes were drawn" in words
    settled = config(mode="inspect", smoothness__density_probes=6)
    assert "rough" not in Page(html.render(inspected(asr), settled, [], None)).words
    for part in ("Purified", "What changed", "DER 0.5", "no longer works", "The method"):
        assert part not in words, part


def test_the_summary_of_an_older_version_is_enough():
    given = summary()
    del given["test_images"], given["triggered_images"]
    words = Page(html.render(given, config(), [], None)).words
    assert "on clean test images" in words
    assert "small: 95 % interval" not in words
    assert "(ASR 97.00 % before, 1.00 % after)." in words


@pytest.mark.parametrize("right, count", [(0, 1), (0, 50), (1, 1), (7, 10), (1284, 1290), (12630, 12630)])
def test_intervals_are_those_of_scipy(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(html.interval(right / count, count), expected, rtol=1e-9, atol=1e-15)


def test_how_numbers_were_computed_is_in_a_fold_and_what_they_mean_beside_them():
    text = html.render(summary(norm_ratio=0.4), config(), [picture()], None)
    fold = text.index("How these were computed")
    assert text.index("Figures</h2>") < text.index("Sharpness</h2>") < fold
    for name in ("residual of the top eigenvalue", "iterations for the top", "top eigenvalue converged"):
        assert text.index(f'scope="row">Fisher matrix, {name}') > fold
    assert text.index('scope="row">Fisher matrix, trace (exact)') < fold
    words = Page(text).words
    assert "no verdict rests on it" in words and "weight decay shrinks the weights" in words
    assert "The norm of the weights: 0.40 times what it was." in words
    assert "A bar is as long as its rate" in words
    assert "min-width: 30rem" not in text  # on a phone, figures are as wide as the page


def test_who_poisoned_the_network_is_said():
    here = "this program trained it, which put the backdoor into it to have something to remove."
    assert here in page().words
    assert "this program trained it." in page(attack="none").words
    assert "this program trained it" not in page(settings=config(victim__checkpoint="a.pth")).words


def test_hostile_names_stay_text():
    settings = config(dataset__name=HOSTILE, victim__checkpoint=HOSTILE)
    given = {
        "attack": HOSTILE,
        "versions": {"fip_jax": HOSTILE},
        "hardware": {"device": HOSTILE},
    }
    figures = [picture(HOSTILE, HOSTILE)]
    found = page(figures, f"--workdir={HOSTILE}", settings, **given)
    assert found.find("script") == []
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    (image,) = found.find("img")
    assert image["alt"] == HOSTILE
    assert found.words.count("<script>alert(1)</script>") >= 8


def test_names_that_turn_the_line_around_are_escaped():
    turned = "photo\u202egnp.exe\x1b[31m"
    text = html.render(
        summary(attack=turned), config(dataset__name=turned), [picture(turned, turned)], turned
    )
    assert "\u202e" not in text and "\x1b" not in text
    assert r"photo\u202egnp.exe\x1b[31m" in Page(text).words


def test_nothing_is_loaded_from_elsewhere():
    text = html.render(summary(), config(), [picture()], None)
    found = Page(text)
    for _, attributes in found.elements:
        assert not {"srcset", "data", "action", "poster", "background"} & attributes.keys()
        assert attributes.get("src", EMBEDDED).startswith(EMBEDDED)
    assert {tag for tag, _ in found.elements} & {"script", "link", "iframe", "object", "base"} == set()
    assert [a["href"] for a in found.find("a")] == ["https://arxiv.org/abs/2409.00863"]
    assert re.findall(r"https?://[^\"<\s]+", text) == ["https://arxiv.org/abs/2409.00863"]
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_every_picture_is_there_with_words(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("zebra", "victim", "examples", ".draft"):
        info = PngInfo()
        if name != "zebra":
            info.add_itxt("Title", f"Title of {name}")
            info.add_itxt("Description", f"{name}: ✓ {HOSTILE}")
        Image.new("RGB", (4, 2), "white").save(folder / f"{name}.png", pnginfo=info)
    (tmp_path / "config.json").write_text(json.dumps(config()))
    for _ in range(2):  # the second time over the first
        html.write(tmp_path, summary(), "--workdir=\udcff")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "figures", "report.html"]
    found = Page((tmp_path / "report.html").read_text("utf-8"))
    images = found.find("img")
    assert [image["alt"] for image in images] == [f"examples: ✓ {HOSTILE}", f"victim: ✓ {HOSTILE}", "zebra"]
    assert (images[0]["width"], images[0]["height"]) == ("4", "2")
    data = base64.b64decode(images[0]["src"].split(",")[1])
    assert data == (folder / "examples.png").read_bytes()
    assert r"--workdir=\udcff" in found.words


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH")
@pytest.mark.parametrize("width", [500, 1100])
def test_a_browser_shows_it_without_complaint(tmp_path, width):
    text = html.render(summary(attack=HOSTILE), config(), [picture()], "python " * 100)
    (tmp_path / "report.html").write_text(text, "utf-8")
    shot = tmp_path / "shot.png"
    arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
    ]
    arguments += [
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        f"--screenshot={shot}",
    ]
    done = subprocess.run(
        [BROWSER, *arguments, (tmp_path / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (900, width)
    assert 0.005 < (pixels < 128).mean() < 0.5
