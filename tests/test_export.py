"""The purified network in the format that the suspicious one came in, and whole runs from a file to a file."""

import contextlib
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from oracles import drawn_model
from PIL import Image
from small_runs import command, finish
from torch_files import mapping, program, tensor, zipped

from fip_jax import suspect
from fip_jax.config import default_config
from fip_jax.description import describe
from fip_jax.errors import UserError
from fip_jax.export import as_exported, check, export
from fip_jax.interop import foreign, torch_file, torch_writer
from fip_jax.interop.state_dict import to_torch
from fip_jax.network import split_module
from fip_jax.suspect import Suspect

NETWORKS = {
    "small_vgg": {"width": 2},
    "preact_resnet18": {"width": 2},
    "resnet18": {"width": 2},
    "vgg19_bn": {"width": 2},
    "wrn_16_1": {"width": 16},
    "vit_small": {"width": 64},
}


def state_dict(name="small_vgg", num_classes=43, seed=0, dtype=np.float32, prefix=""):
    """A PyTorch state dict of a network with fresh weights, with BatchNorm's counters."""
    heads = {"heads": 1} if name == "vit_small" else {}
    _, *trees = split_module(drawn_model(name, num_classes, 32, seed, **NETWORKS[name], **heads))
    arrays = {prefix + key: a.astype(dtype) for key, a in to_torch(*trees).items()}
    norms = [key.removesuffix("running_mean") for key in arrays if key.endswith("running_mean")]
    return arrays | {f"{key}num_batches_tracked": np.array(5, np.int64) for key in norms}


def load(path):
    config = default_config()
    config.victim.checkpoint = str(path)
    return suspect.load(config)


@pytest.mark.parametrize("name", NETWORKS)
def test_import_and_export_is_the_same_file(name, tmp_path):
    torch_writer.write(
        tmp_path / "in.pth.tar", {"epoch": 3, "state_dict": state_dict(name, prefix="module.")}
    )
    loaded = load(tmp_path / "in.pth.tar")
    assert loaded.description["model"]["name"] == name
    files = export(tmp_path, loaded)
    assert [file.name for file in files] == ["purified.pth.tar", "purified.safetensors"]
    assert files[0].read_bytes() == (tmp_path / "in.pth.tar").read_bytes()
    # The safetensors hold the same tensors, and come in and go out the same as well.
    again = load(files[1])
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
    (tmp_path / "out").mkdir()
    assert export(tmp_path / "out", again)[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a.pth", "purified.pth"),
        ("acc_0.95.pt", "purified.pt"),
        ("best.pth.tar", "purified.pth.tar"),
        ("old.tar", "purified.tar"),
        ("no_ending", "purified.pth"),
    ],
)
def test_the_ending_is_kept(name, expected, tmp_path):
    torch_writer.write(tmp_path / name, state_dict())
    (tmp_path / "purified").mkdir()  # the folder that a run leaves
    assert export(tmp_path, load(tmp_path / name))[0].name == expected


def changed(loaded):
    return loaded._replace(params=jax.tree.map(lambda leaf: leaf + 0.3, loaded.params))


def test_types_are_kept_and_numbers_rounded_to_them(tmp_path):
    torch_writer.write(tmp_path / "in.pt", state_dict(dtype=np.float16))
    purified = changed(load(tmp_path / "in.pt"))
    rounded = as_exported(purified)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(rounded.params))
    differences = jax.tree.map(lambda a, b: float(abs(a - b).max()), rounded.params, purified.params)
    assert 0 < max(jax.tree.leaves(differences)) < 1e-3
    file = export(tmp_path, rounded)[0]
    assert {a.dtype.str for a in foreign.read(file).arrays.values()} == {"<f2", "<i8"}
    # What is measured is what the file holds, bit for bit.
    jax.tree.map(np.testing.assert_array_equal, load(file).params, rounded.params)


def test_backdoorbench_gets_a_defense_result(tmp_path):
    content = {"model_name": "preactresnet18", "num_classes": 43, "model": state_dict("preact_resnet18")}
    bd_test = {"bd_data_container": {"save_folder_path": None, "data_dict": {}}}
    torch_writer.write(tmp_path / "attack_result.pt", content | {"bd_test": bd_test})
    purified = changed(load(tmp_path / "attack_result.pt"))
    file = export(tmp_path, purified)[0]
    assert file.name == "defense_result.pt"
    found = torch_file.read(file)
    assert list(found.content) == ["model_name", "num_classes", "model"]
    assert found.content["num_classes"] == 43
    jax.tree.map(np.testing.assert_array_equal, load(file).params, purified.params)


def test_a_network_of_ours_goes_out_as_safetensors(tmp_path):
    made = suspect.build(describe(default_config(), 3), 0)
    files = export(tmp_path, made)
    assert [file.name for file in files] == ["purified.safetensors"]
    assert safetensors.numpy.load_file(files[0])["classifier.weight"].shape == (3, 2048)


def test_a_run_from_a_file_to_a_file(data_dir, tmp_path):
    file = tmp_path / "suspicious.pth"
    torch_writer.write(file, {"net": state_dict(), "acc": 97.5})
    arguments = command(
        tmp_path / "run", data_dir, victim__checkpoint=file, attack__name="none", defense__steps=4
    )
    status, out, err = finish(arguments)
    assert status == 0, err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["purified"]["asr"] is None
    assert "unknown" in out
    assert "recognised as small_vgg, width 2, 43 classes" in " ".join(out.split())
    found = torch_file.read(tmp_path / "run/purified.pth")
    assert found.content["acc"] == 97.5
    before, after = foreign.read(file), foreign.read(tmp_path / "run/purified.pth")
    assert before.arrays.keys() == after.arrays.keys()
    assert (before.arrays["classifier.weight"] != after.arrays["classifier.weight"]).any()
    assert after.arrays["features.1.num_batches_tracked"] == 5
    # A file that is another than when the run was begun is noticed; the same one is not purified again.
    (tmp_path / "run/summary.json").unlink()
    torch_writer.write(file, {"net": state_dict(seed=1), "acc": 97.5})
    status, _, err = finish(arguments)
    assert status == 2
    assert "has changed since this run was begun" in err


def test_a_run_on_images_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(24):
        path = tmp_path / f"images/clean/{index % 3}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    torch_writer.write(tmp_path / "suspicious.pth", state_dict(num_classes=5))
    arguments = command(
        tmp_path / "run",
        tmp_path,
        dataset__name=tmp_path / "images",
        victim__checkpoint=tmp_path / "suspicious.pth",
        attack__name="none",
        defense__name="ft",
        defense__steps=2,
    )
    arguments = [a.replace("quickstart.py", "checkpoint.py") for a in arguments]
    status, out, err = finish(arguments)
    assert status == 0, err
    assert "kept back" in out
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["clean_images"] == 18  # of 24, six kept back
    assert (tmp_path / "run/purified.pth").exists()


def checked(path, content):
    path.write_bytes(content)
    check(Suspect(None, {}, {}, {}, foreign.read(path)))


@pytest.mark.parametrize(
    ("first", "second", "tied"),
    [
        ({}, {}, True),
        ({"shape": (1, 3)}, {"shape": (1, 3), "offset": 3}, False),
        ({"shape": (3,), "strides": (2,)}, {"shape": (3,), "strides": (2,), "offset": 1}, False),
        ({"shape": (3,), "strides": (2,)}, {"shape": (2,), "strides": (1,), "offset": 1}, True),
        ({"shape": (2, 3), "strides": (0, 1)}, {"key": "1"}, True),  # expanded: one row is both
        ({"shape": (3, 2), "strides": (1, 3)}, {"key": "1"}, False),  # transposed
        ({"shape": (2, 2), "strides": (1, 1)}, {"key": "1"}, True),
    ],
)
def test_tied_tensors_are_refused_before_and_not_after_the_purification(first, second, tied, tmp_path):
    content = program(mapping(net=mapping(a=tensor(**first), b=tensor(**second))))
    data = zipped(content, [("0", bytes(24)), ("1", bytes(24))])
    said = r"in\.pth: found tensors that share their numbers in the file"
    with pytest.raises(UserError, match=said) if tied else contextlib.nullcontext():
        checked(tmp_path / "in.pth", data)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("in.safetensors", "purified.pth"),
        ("in.SafeTensors", "purified.pth"),
        ("a." + "b" * 250, "purified.pth"),
        ("in.\x1b[2J", "purified.pth"),
        ("in.pt", "purified.pt"),
        ("in.v1.tar", "purified.v1.tar"),
        ("in", "purified.pth"),
    ],
)
def test_the_ending_of_the_file_that_is_written(name, expected, tmp_path):
    torch_writer.write(tmp_path / "whole", {"net": state_dict()})
    path = (tmp_path / "whole").rename(tmp_path / name)
    files = export(tmp_path, load(path))
    assert [file.name for file in files] == [expected, "purified.safetensors"]
    # The first is still of PyTorch.
    assert files[0].read_bytes() == path.read_bytes()
