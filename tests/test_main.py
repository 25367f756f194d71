"""The command line: one clear sentence and exit status 2 for what the user can put right, and nothing left behind."""

import csv
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from oracles import TinyNet
from PIL import Image
from small_runs import REAL, ROOT, TINY, command, finish

from fip_jax import checkpoint, suspect
from fip_jax.config import default_config
from fip_jax.data import source
from fip_jax.description import describe
from fip_jax.models import MODELS


def refusal(arguments):
    """The one line on standard error of a command that is refused."""
    status, _, err = finish(arguments)
    assert status == 2, err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("fip_jax: ")
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attack__name": "badnet"}, ["attack.name", "'badnet'", "badnets"]),
        ({"model__name": "resnet"}, ["model.name", "'resnet'", "small_vgg"]),
        ({"dataset__name": "no_such_set"}, ["dataset.name", "'no_such_set'", "rendered_signs"]),
        ({"attack__target": 43}, ["attack.target", "43", "0 to 42"]),
        ({"clean__fraction": 0.001}, ["clean.fraction", "0.001", "larger"]),
        ({"no__such__key": 1}, ["no"]),
        ({"victim__epochs": "many"}, ["victim.epochs", "many"]),
        ({"victim__checkpoint": "/no/such/model"}, ["victim.checkpoint", "/no/such/model"]),
    ],
)
def test_wrong_settings_are_refused_and_leave_no_trace(changes, expected, data_dir, tmp_path):
    message = refusal(command(tmp_path / "run", data_dir, **changes))
    assert all(part in message for part in expected), message
    assert not (tmp_path / "run").exists()


def test_the_module_starts_by_itself():
    """Not forked like the other programs here: with nothing imported, and through the start for large pages."""
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    flags = [f"--config={ROOT / 'configs' / 'quickstart.py'}", "--config.no_such=1", "--workdir=w"]
    done = subprocess.run(
        [sys.executable, *REAL, *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fip_jax: ")
    assert "no_such" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_while_modules_are_imported_leaves_no_traceback(tmp_path):
    """The config file is read then, too."""
    interrupting = tmp_path / "interrupting.py"
    interrupting.write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    arguments = [sys.executable, *REAL, f"--config={interrupting}", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "fip_jax: stopped\n")


def test_missing_flags_and_files_are_named(data_dir, tmp_path):
    arguments = command(tmp_path / "run", data_dir)
    assert "--fail_on: found 'safe', expected some of removed" in refusal([*arguments, "--fail_on=safe"])
    assert "--workdir" in refusal([a for a in arguments if not a.startswith("--workdir")])
    missing = [a.replace("quickstart.py", "missing.py") for a in arguments]
    assert "missing.py" in refusal(missing)
    assert "'stray'" in refusal([*arguments, "stray"])
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    assert "--config" in refusal(
        [a.replace(str(ROOT / "configs" / "quickstart.py"), str(broken)) for a in arguments]
    )
    machine = [a.replace("quickstart.py", "gtsrb.py:toaster") for a in arguments]
    assert "'toaster'" in refusal(machine)


def test_a_workdir_that_cannot_be_is_refused(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "--workdir" in refusal(command(path, data_dir))


def test_clean_images_of_one_class_are_refused_and_lacking_ones_named(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "small_vgg", TinyNet)  # as in `tiny_main`
    description = describe(default_config(), 4) | {"model": {"name": "small_vgg", "width": 4}}
    network = suspect.build(description, 0)
    checkpoint.save_model(tmp_path / "victim", network.params, network.model_state, description)
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    own = tmp_path / "own.npz"
    settings = {"dataset__name": own, "attack__name": "none", "victim__checkpoint": tmp_path / "victim"}
    for labels in (np.full(20, 2), np.tile([1, 2], 10)):
        np.savez(own, clean_images=images, clean_labels=labels, class_names=np.array(["a", "b", "stop", "d"]))
        arguments = command(tmp_path / "run", tmp_path, TINY, **settings)
        if len(set(labels)) == 1:
            expected = "dataset.name: found clean images of the class stop alone, expected some of all 4"
            assert expected in refusal(arguments)
            assert not (tmp_path / "run").exists()
    status, out, err = finish(arguments)
    assert status == 0, err
    told = [f"There are no {kind} images of 2 of 4 classes (a, d): " for kind in ("clean", "test")]
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(sentence in out and sentence in report for sentence in told)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["classes_without_clean_images"] == [0, 3]


def test_archives_missing_without_network(tmp_path):
    arguments = command(tmp_path / "run", tmp_path / "data", dataset__manual_dir=tmp_path)
    arguments = [a.replace("quickstart.py", "gtsrb.py:cpu") for a in arguments]
    message = refusal(arguments)
    assert "GTSRB_Final_Training_Images.zip" in message
    assert "dataset.manual_dir" in message


def test_a_run_leaves_what_it_promises_and_refuses_other_settings(data_dir, tmp_path):
    arguments = command(
        tmp_path / "run", data_dir, TINY, attack__name="none", defense__name="ft", victim__epochs=1
    )
    status, out, err = finish(arguments)
    assert status == 0, err
    assert "unknown" in out  # no trigger, no ASR
    found = {path.name for path in (tmp_path / "run").iterdir()}
    promised = {
        "summary.json",
        "report.html",
        "metrics.jsonl",
        "config.json",
        "figures",
        "checkpoints",
        "victim",
        "purified",
    }
    assert promised <= found
    pictures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert pictures == {"examples.png", "purification.png", "victim.png"}
    message = refusal([*arguments, "--config.seed=7"])
    assert "seed (was 0, is 7)" in message
    again = {"attack__name": "badnets", "defense__name": "fast_fip", "defense__steps": 2}
    again["victim__checkpoint"] = tmp_path / "run" / "victim"
    assert "seed" in refusal(command(tmp_path / "other", data_dir, TINY, **again, seed=7))
    status, _, err = finish(command(tmp_path / "again", data_dir, TINY, **again))
    assert status == 0, err
    acc = [
        json.loads((tmp_path / name / "summary.json").read_text())["victim"]["acc"]
        for name in ("run", "again")
    ]
    assert acc[0] == acc[1]
    # The verdict is one word, and a pipeline can ask for it.
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["verdict"] in ("no_trigger_known", "harmed")
    assert (f"verdict: {summary['verdict']}. {summary['headline']}" in out) and summary["headline"]
    status, _, err = finish([*arguments, f"--fail_on=removed,{summary['verdict']}"])
    assert (status, err) == (3, f"fip_jax: --fail_on: the verdict is {summary['verdict']}\n")
    assert finish([*arguments, "--fail_on=removed,reduced"])[0] == 0
    # A run of a version that wrote no report gets one when it is asked for again.
    report = tmp_path / "run" / "report.html"
    report.unlink()
    status, out, _ = finish(arguments)
    assert status == 0
    assert "finished before" in out
    assert str(report) in out
    assert "defense.name=ft" in report.read_text()


@pytest.mark.filterwarnings(
    "ignore:Sharding info not provided"
)  # of Orbax: the network's structure is not given
def test_a_finished_run_writes_its_images_when_it_is_asked_to(data_dir, tmp_path):
    arguments = command(tmp_path / "run", data_dir, TINY, defense__name="ft", victim__epochs=1)
    assert finish(arguments)[0] == 0
    summary = (tmp_path / "run/summary.json").read_bytes()
    status, out, err = finish([*arguments, "--config.attack.export=True"])
    assert status == 0, err
    assert "DER" in out
    assert (tmp_path / "run/summary.json").read_bytes() == summary
    # The index is that of the data set: with it every image is found again.
    folder = tmp_path / "run/poisoned"
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    data = source.load("rendered_signs", data_dir=str(data_dir))
    for row in rows:
        whole, index = getattr(data, row["split"]), int(row["index"])
        assert int(row["label"]) == whole.labels[index]
        same = np.array_equal(np.asarray(Image.open(folder / row["path"])), whole.images[index])
        assert same == (row["kind"] == "clean")
    of_train = sorted(int(row["index"]) for row in rows if row["split"] == "train")
    assert of_train == list(range(len(data.train.labels)))
    # And the network.
    kept = checkpoint.load_arrays(tmp_path / "run/victim")
    expected = sorted(np.asarray(leaf, np.float64).sum() for leaf in jax.tree.leaves(kept))
    found = safetensors.numpy.load_file(folder / "victim.safetensors")
    assert sorted(leaf.sum(dtype=np.float64) for leaf in found.values()) == pytest.approx(expected)


def test_configs_open_with_their_command():
    for file in (ROOT / "configs").glob("*.py"):
        sweep = file.stem == "sweep"
        command = (
            "python -m configs.sweep" if sweep else f"python -m fip_jax.main --config=configs/{file.name}"
        )
        assert command in file.read_text()[:600]
