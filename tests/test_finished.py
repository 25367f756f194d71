"""What a power cut took of a run, finished or not, is noticed by the next start, and made again."""

import json
import shutil
import threading
import time

import pytest
from oracles import TinyNet
from small_runs import SMALL

from fip_jax import checkpoint, experiment, finished
from fip_jax.config import default_config
from fip_jax.errors import UserError
from fip_jax.models import MODELS

NETWORKS = (
    "purified.safetensors",
    "purified/description.json",
    "purified/network/params.conv.kernel/c/0/0/0/0",
)


@pytest.fixture
def config(data_dir, monkeypatch):
    """Of a small run, in this process."""
    monkeypatch.setitem(MODELS, "small_vgg", TinyNet)
    found = default_config()
    for key, value in {**SMALL, "dataset.data_dir": str(data_dir), "defense.name": "ft"}.items():
        found.update_from_flattened_dict({key: value})
    return found


def test_what_is_lost_is_made_again(config, tmp_path, capsys):
    folder = tmp_path / "run"
    first = experiment.run(config, folder)
    assert finished.damaged(folder, first) == []
    whole = {name: (folder / name).read_bytes() for name in [*NETWORKS, "figures/examples.png"]}

    def again():
        """What the next start says."""
        capsys.readouterr()
        second = experiment.run(config, folder)
        same = ("verdict", "victim", "purified", "given", "norm_ratio")
        assert {key: second[key] for key in same} == {key: first[key] for key in same}
        assert {name: (folder / name).read_bytes() for name in whole} == whole
        assert finished.damaged(folder, second) == []
        return capsys.readouterr().out

    assert "this run was finished before" in again()
    networks = list(whole)
    for name, content in zip(
        whole, (b"", whole[networks[1]][:-9], whole[networks[2]][:-9], None), strict=True
    ):
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    said = again()
    assert "missing or damaged since this run was finished, and made again: " in said
    assert all(name in said for name in whole)
    for name in ("purified", "victim"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    assert again().count("found no model") == 2
    (folder / "report.html").write_bytes(b"")
    assert "finished before" in again()
    assert (folder / "report.html").stat().st_size
    (folder / "summary.json").unlink()
    (folder / "victim/network/params.linear.bias/zarr.json").write_bytes(b"")
    assert "it is made again" in again()
    (folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json: expected JSON written by fip_jax.*delete it"):
        again()


def test_a_folder_that_is_moved_while_the_run_goes_on(config, tmp_path):
    folder, moved = tmp_path / "run", tmp_path / "moved"

    def move():
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.01)
        folder.rename(moved)

    mover = threading.Thread(target=move)
    mover.start()
    with pytest.raises(UserError, match=r"^--workdir: .*run was removed or moved"):
        experiment.run(config, folder)
    mover.join()
    assert not (folder / "summary.json").exists()
    # With its new place it goes on.
    assert experiment.run(config, moved)["verdict"]
    assert json.loads((moved / "summary.json").read_text())["files"]


def test_a_model_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Whatever is cut off before the last step leaves no folder of that name."""
    monkeypatch.setattr(checkpoint, "_to_disk", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.save_model(tmp_path / "model", {"a": checkpoint.jax.numpy.ones(2)}, {}, {})
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    checkpoint.save_model(tmp_path / "model", {"a": checkpoint.jax.numpy.ones(2)}, {}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
