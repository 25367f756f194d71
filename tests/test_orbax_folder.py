"""Folders of a stranger: read as Orbax wrote them, or refused in one sentence, soon, in little memory."""

import gzip
import json
import os
import resource
import shutil
import struct
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from fip_jax import checkpoint, plain
from fip_jax.errors import UserError

PARAMS = {
    "conv": {"kernel": jnp.arange(60.0).reshape(3, 4, 5)},
    "blocks": {0: {"bias": jnp.ones(2)}, 10: {"bias": jnp.ones(1)}},
}
PARAMS["half"] = jnp.asarray([1.5, -2.0], jnp.bfloat16)
PARAMS["one"] = jnp.asarray(3.0)
STATISTICS = {"norm": {"mean": jnp.asarray([0.25, -1.0])}}
DESCRIPTION = {"format": "fip_jax model 1", "mean": [0.5, 0.25]}


@pytest.fixture
def model(tmp_path):
    checkpoint.save_model(tmp_path / "model", PARAMS, STATISTICS, DESCRIPTION)
    return tmp_path / "model"


def refused(folder, structure=True):
    """The one sentence with which a folder is refused; it takes less than two seconds and little memory."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        checkpoint.load_description(folder)
        if structure:
            checkpoint.load_model(folder, PARAMS, STATISTICS)
        else:
            checkpoint.load_arrays(folder)
    assert time.monotonic() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) < 700
    return message


def files_of(folder):
    return sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())


@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # of Orbax: the structure is not given
def test_orbax_reads_the_folder_too(model):
    found = ocp.load_checkpointables(model, {"network": None})["network"]
    assert found["params"]["blocks"].keys() == {"0", "10"}
    np.testing.assert_array_equal(found["params"]["conv"]["kernel"], PARAMS["conv"]["kernel"])
    arrays = checkpoint.load_arrays(model)
    assert arrays["params"]["half"].dtype == jnp.bfloat16
    assert jax.tree.structure(arrays) == jax.tree.structure(found)
    assert all(map(np.array_equal, jax.tree.leaves(arrays), jax.tree.leaves(found)))


def test_a_pipe_in_any_place(model):
    for file in files_of(model):
        (model / file).rename(model / "aside")
        os.mkfifo(model / file)
        named = "found no model" if file.name == "description.json" else "neither a plain file"
        assert named in refused(model)
        (model / file).unlink()
        (model / "aside").rename(model / file)
    checkpoint.load_model(model, PARAMS, STATISTICS)


def test_a_link_in_any_place(model):
    for file in files_of(model):
        (model / file).rename(model / "aside")
        (model / file).symlink_to("/dev/zero")
        named = "found no model" if file.name == "description.json" else "neither a plain file"
        assert named in refused(model)
        (model / file).unlink()
        (model / "aside").rename(model / file)


def test_a_folder_that_is_a_link(model, tmp_path):
    shutil.move(model / "network", tmp_path / "elsewhere")
    (model / "network").symlink_to(tmp_path / "elsewhere")
    assert "neither a plain file" in refused(model)


def test_a_sparse_file_in_any_place(model):
    for file in files_of(model):
        content = (model / file).read_bytes()
        os.truncate(model / file, 1 << 40)
        refused(model)
        (model / file).write_bytes(content)


KERNEL = "network/params.conv.kernel"


def rewritten(model, **changes):
    """The kernel's `zarr.json` with other entries."""
    path = model / KERNEL / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "shape",
    [[1 << 40], [1 << 20, 1 << 20], [3, 4, 6], [60], [], [0, 5], [-3, -4, 5], [True, 4, 5], "3", None],
)
@pytest.mark.parametrize("structure", [True, False])
def test_other_shapes(model, shape, structure):
    rewritten(model, shape=shape)
    refused(model, structure)


@pytest.mark.parametrize("kind", ["float64", "int32", "r8", "string", 3, ["float32"], None, "x" * 5000])
def test_other_types(model, kind):
    rewritten(model, data_type=kind)
    refused(model)


def test_compressed_numbers_are_not_unpacked(model):
    """A few bytes that would be 2**28 float32."""
    shape = [1 << 28]
    chunks = {"name": "regular", "configuration": {"chunk_shape": shape}}
    plainly = [{"name": "bytes", "configuration": {"endian": "little"}}]
    rewritten(
        model,
        shape=shape,
        chunk_grid=chunks,
        codecs=[*plainly, {"name": "gzip", "configuration": {"level": 9}}],
    )
    shutil.rmtree(model / KERNEL / "c")
    (model / KERNEL / "c").mkdir()
    (model / KERNEL / "c/0").write_bytes(gzip.compress(bytes(1 << 20)))
    for structure in (True, False):
        assert "compressed or in pieces" in refused(model, structure)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[" * 100_000, b"3", b"null", b'"a"', b"\xff\xfe", b'{"shape": [NaN]}',
        b'{"shape": 1' + b"0" * 9000 + b"}",
        b'{"a": 1, "a": 2}', b" " * (1 << 20),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["description.json", KERNEL + "/zarr.json"])
def test_descriptions_that_are_none(model, place, content):
    (model / place).write_bytes(content)
    refused(model)


@pytest.mark.parametrize(
    "key", ["codecs", "chunk_grid", "chunk_key_encoding", "shape", "data_type", "zarr_format"]
)
@pytest.mark.parametrize("value", [None, [], {}, 7, [1, 2], [{}], [[]], {"name": 1}, [{"name": "bytes"}]])
def test_descriptions_of_other_kinds(model, key, value):
    rewritten(model, **{key: value})
    refused(model)


def test_a_million_names(model):
    with (model / "description.json").open("w") as file:
        json.dump({"description": {str(n): n for n in range(1_000_000)}, "weights": "", "sha256": ""}, file)
    assert "at most" in refused(model)


def test_many_arrays(model):
    for n in range(5000):
        (model / f"network/params.x{n}").mkdir()
    assert "more than 4096 arrays" in refused(model)


def test_arrays_inside_of_arrays(model):
    shutil.copytree(model / KERNEL, model / (KERNEL + ".more"))
    told = json.loads((model / "description.json").read_text())
    arrays = checkpoint.orbax_folder.read_arrays(model / "network", None)
    told["weights"] = checkpoint._sha256(arrays)
    told["sha256"] = checkpoint._sha256_of_text({key: told[key] for key in ("description", "weights")})
    (model / "description.json").write_text(json.dumps(told))
    assert "array" in refused(model, structure=False)
    assert "another network" in refused(model)


@pytest.mark.parametrize("index", [(0, 0), (8, 240), (0, 1 << 60)])
def test_numbers_elsewhere_in_the_file(model, index):
    path = model / KERNEL / "c/0/0/0"
    content = path.read_bytes()
    assert struct.unpack_from("<QQ", content, 240) == (0, 240)
    path.write_bytes(content[:240] + struct.pack("<QQ", *index) + content[-4:])
    assert "bytes of numbers" in refused(model)


def test_a_folder_of_an_earlier_version_is_named(tmp_path):
    ocp.save_checkpointables(tmp_path / "old", {"network": {"params": PARAMS}, "description": {"a": 1}})
    assert "earlier fip_jax" in refused(tmp_path / "old")


def test_a_tree_without_end(model):
    place = model
    for _ in range(12):
        place = place / "d"
        place.mkdir()
    assert "near the top" in refused(model)


def test_plain_files(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert plain.read(tmp_path / "file", 3) == b"abc"
    assert plain.read(tmp_path / "link", 3, links=True) == b"abc"
    for path, limit in (
        (tmp_path / "file", 2),
        (tmp_path / "link", 3),
        (tmp_path, 3),
        (Path("/dev/zero"), 3),
    ):
        with pytest.raises((ValueError, IsADirectoryError)):
            plain.read(path, limit)
    plain.check_file(tmp_path / "link", 3)
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="no plain file"):
            plain.check_file(path, 3)
