"""A search whose results are kept in a workdir, and what a second look adds."""

import json

import jax
import numpy as np
import pytest
from oracles import TinyNet
from test_inversion import CLASSES, TARGET, images, planted

from fip_jax import constructed, experiment, shrinking
from fip_jax.config import default_config
from fip_jax.data.split import Split
from fip_jax.defend import begin
from fip_jax.errors import UserError
from fip_jax.models import MODELS
from fip_jax.report import html
from fip_jax.workdir import Workdir


def subject(**options):
    config = default_config()
    config.defense.steps, config.defense.batch_size = 2, 8
    # A planted corner of a strength that 60 steps find.
    config.defense.inversion.update({"steps": 60, "starts": 2, "scout": 2} | options)
    network, params = planted(40.0)
    data, labels = images()
    clean = Split(np.asarray(data * 255).astype(np.uint8), np.asarray(labels))
    return constructed.Subject(config, network, params, {}, clean)


def opened(path):
    workdir = Workdir(path, {})
    workdir.begin()
    return workdir


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_search_is_kept_and_mended(tmp_path, monkeypatch):
    workdir = opened(tmp_path)
    found, seconds = constructed.once(subject(), workdir)
    workdir.close()
    names = [f"class {k}" for k in range(CLASSES)]
    assert [row["name"] for row in constructed.described(found, names) if row["stands_out"]] == ["class 4"]
    # Two starts, and two more of what a first purification left.
    assert found[1].target.tolist() == [TARGET] * 4
    same(jax.tree.map(lambda x: x[:2], found[1]), constructed.look(subject())[1])

    # A run that is begun again reads the files.
    with monkeypatch.context() as patch:
        patch.setattr(constructed, "look", None)
        patch.setattr(constructed, "look_again", None)
        workdir = opened(tmp_path)
        again, seconds_again = constructed.once(subject(), workdir)
        workdir.close()
    same(again, found)
    assert seconds_again == seconds

    # Cut by a power failure: made once more.
    for name in ("triggers", "triggers_left"):
        file = tmp_path / f"{name}.safetensors"
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        workdir = opened(tmp_path)
        same(constructed.once(subject(), workdir)[0], found)
        workdir.close()
        assert file.read_bytes() == whole

    # Somebody else's numbers are refused.
    results = tmp_path / "checkpoints" / "results.json"
    content = json.loads(results.read_text())
    for wrong in ({"seconds": 1.0}, [], {"sha256": 3, "seconds": 1.0}):
        results.write_text(json.dumps(content | {"triggers": wrong}))
        workdir = opened(tmp_path)
        with pytest.raises(
            UserError, match=r"results.json: found triggers = .*, expected sha256 and seconds"
        ):
            constructed.once(subject(), workdir)
        workdir.close()


def test_only_small_masks_count_the_second_time():
    chosen = constructed.look(subject())[1]
    left = constructed.look_again(subject(), chosen, 1e6)
    assert len(left.size) == 4
    sizes = np.sort(np.asarray(left.size[2:]))
    # Between the two: one of them counts.
    limit = sizes.mean() / constructed.LEFT
    assert len(constructed.look_again(subject(), chosen, limit).size) == 3
    same(constructed.look_again(subject(), chosen, 0.0), chosen)


def test_nothing_is_searched_for(tmp_path):
    assert constructed.construct(subject(rate=0.0)) is None
    few = subject()
    # Of four classes none can stand out; TARGET is then out of range, and adds nothing.
    few = few._replace(params={"levels": few.params["levels"][:4]})
    assert CLASSES > 4 and constructed.construct(few) is None
    workdir = opened(tmp_path)
    assert constructed.once(subject(rate=0.0), workdir) is None
    workdir.close()
    assert not list(tmp_path.glob("*.safetensors"))


def test_held_back_images_have_no_part(monkeypatch):
    seen = []

    def search(options, network, params, model_state, images, *_):
        seen.append(len(images))
        raise KeyboardInterrupt

    monkeypatch.setattr(constructed.inversion, "search", search)
    held = subject()
    held.config.defense.hold_back = 0.25
    with pytest.raises(KeyboardInterrupt):
        constructed.construct(held)
    assert seen == [36]


def test_known_triggers_replace_drawn_corruptions_bring_the_first_move_and_slow_the_steps(
    monkeypatch,
):
    found = constructed.look(subject())[1]
    case, budgets = subject(pace=0.5), []
    gates = shrinking.gates
    monkeypatch.setattr(
        shrinking, "gates", lambda options, *rest: budgets.append(options.budget) or gates(options, *rest)
    )
    network = case.network, case.params, case.model_state
    start = begin(case.config, *network, case.clean, triggers=found)
    assert start.data["triggers"]["mask"].shape == (2, 8, 8, 1)
    assert budgets == [case.config.defense.inversion.shrink]  # of the first move, which is made here alone
    _, metrics = start.step_fn(start.state, start.anchor, start.data)
    plain = begin(case.config, *network, case.clean)
    assert len(budgets) == 1
    _, unslowed = plain.step_fn(plain.state, plain.anchor, plain.data)
    pace = case.config.defense.inversion.pace
    np.testing.assert_allclose(metrics.learning_rate, pace * unslowed.learning_rate, rtol=1e-6)
    # The config of the run is left as it is.
    assert case.config.defense.corruption.patch.rate > 0


def test_share_of_test_images_that_are_turned():
    labels = np.array([0, 1, 2, 2], np.int32)
    test = Split(np.zeros((4, 2, 2, 1), np.uint8), labels)
    mask = np.zeros((2, 2, 2, 1), np.float32)
    mask[0, 0, 0], mask[1, 1, 1] = 1, 1
    triggers = constructed.Triggers(mask, np.ones((2, 2, 2, 1), np.float32), np.array([2, 0]), None, None)

    def predict(params, model_state, images):
        # A white first pixel means class 2; a white last one class 0, but for images of class 1, which come first.
        first, last = images[:, 0, 0, 0] == 255, images[:, 1, 1, 0] == 255
        return np.where(first, 2, np.where(last & (np.arange(len(images)) > 0), 0, 1))

    one = jax.tree.map(lambda x: x[1:], triggers[:3])
    assert constructed.turned(predict, ({}, {}), test, constructed.Triggers(*one, None, None)) == 2 / 3
    assert constructed.turned(predict, ({}, {}), test, triggers) == 1.0


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    """A run of a network of two layers and six classes, of which class 1 is said to stand out."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 96), ("test", 24)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 6
    np.savez(tmp_path / "own.npz", **arrays)
    monkeypatch.setitem(MODELS, "small_vgg", TinyNet)
    monkeypatch.setattr(constructed.inversion, "outstanding", lambda *_: [1])
    config = default_config()
    config.dataset.name, config.dataset.image_size = str(tmp_path / "own.npz"), 8
    config.model.width, config.victim.epochs, config.clean.fraction = 2, 1, 0.3
    config.victim.batch_size, config.defense.steps, config.defense.batch_size = 16, 3, 8
    config.defense.inversion.update({"steps": 3, "starts": 2, "scout": 2})
    config.smoothness.update({"num_images": 4, "max_iterations": 2, "density_steps": 2, "slice_points": 2})
    config.smoothness.over_time.num_images, config.report.representations = 0, 0
    return config, tmp_path / "run"


def test_a_run_tells_and_shows_what_stands_out(tiny_run, capsys):
    config, folder = tiny_run
    with jax.numpy_dtype_promotion("standard"):
        summary = experiment.run(config, folder)
    assert [row["stands_out"] for row in summary["constructed"]] == [False, True, False, False, False, False]
    assert all(0 <= share <= 1 for share in summary["constructed_asr"])
    assert "constructed triggers: 1 (" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert (
        "Constructed triggers: 1 (" in page
        and "Triggers constructed from the clean images turn up to" in page
    )
    figure = next(f for f in html.pictures(folder / "figures") if f.title == "Constructed triggers")
    assert "“1”" in figure.description and "(stands out)" in figure.description


def test_an_inspection_searches_but_unlearns_nothing(tiny_run, monkeypatch):
    config, folder = tiny_run
    config.mode = "inspect"
    monkeypatch.setattr(constructed, "look_again", None)
    with jax.numpy_dtype_promotion("standard"):
        summary = experiment.run(config, folder)
    assert len(summary["constructed"]) == 6 and "constructed_asr" not in summary
    assert (folder / "triggers.safetensors").exists() and not (folder / "triggers_left.safetensors").exists()
