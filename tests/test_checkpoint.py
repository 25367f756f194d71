"""Checkpoints bit for bit; what is half-written does not count, and what is damaged is never taken for good."""

import errno
import gc
import os
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import ROOT

from fip_jax import purify
from fip_jax.checkpoint import Checkpoints, load_description, load_model, save_model
from fip_jax.errors import UserError
from fip_jax.objective import Settings

# Orbax leaves coroutines and futures behind when it gives up on a damaged folder.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("cleared_up"),
]

NOTES = {"count": 3, "loss": 0.1, "trace": 1e-30, "seconds": 12.25}
DESCRIPTION = {"format": "ours", "model": {"name": "small_vgg", "width": 8}, "mean": [0.5, 0.25], "seed": 3}


@pytest.fixture
def cleared_up():
    """What a test leaves behind is found before the next one is blamed for it."""
    yield
    gc.collect()


def state_of(seed=0, size=4):
    """A state with momentum, layers numbered by integers, and entries that are hard to write down."""
    rng = np.random.default_rng(seed)
    params = {
        "layers": {
            k: {"kernel": jnp.asarray(rng.normal(size=(size, size)), jnp.float32)} for k in (0, 1, 10)
        },
        "odd": jnp.asarray([0.0, -0.0, 1e-42, np.inf, np.pi], jnp.float32),
        "half": jnp.asarray(rng.normal(size=3), jnp.bfloat16),
    }
    statistics = {"norm": {"mean": jnp.asarray(rng.normal(size=2), jnp.float32)}}
    settings = Settings(learning_rate=0.1, num_steps=9, weight_decay=0.1, warmup=0.5)
    state = purify.init_state(settings, params, statistics, jax.random.key(seed))
    return state._replace(step=jnp.asarray(7, jnp.int32))


def bits(tree):
    """(structure, dtypes, bytes) of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    plain = [jax.random.key_data(leaf) if key else leaf for leaf, key in zip(leaves, keys, strict=True)]
    return structure, [(leaf.dtype, leaf.shape) for leaf in leaves], [np.asarray(x).tobytes() for x in plain]


def save(path, steps, state=None, notes=NOTES):
    checkpoints = Checkpoints(path)
    for step in steps:
        checkpoints.save(step, state or state_of(step), notes)
    checkpoints.close()


def restore(path, like=None):
    checkpoints = Checkpoints(path)
    try:
        return checkpoints.restore(like or state_of(99))
    finally:
        checkpoints.close()


def steps_in(path):
    return sorted(int(folder.name) for folder in path.iterdir() if folder.name.isdigit())


def test_round_trip_bit_for_bit(tmp_path):
    assert restore(tmp_path) is None
    save(tmp_path, [5])
    state, notes = restore(tmp_path)
    assert isinstance(state, purify.State)
    assert bits(state) == bits(state_of(5))
    assert notes == NOTES
    # Still a key, and a state to go on from: nothing is bound to more than one device.
    assert jax.random.normal(state.key) == jax.random.normal(jax.random.key(5))
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(state.params))


def test_the_last_two_are_kept_and_the_last_counts(tmp_path):
    save(tmp_path, [2, 9, 10])
    assert steps_in(tmp_path) == [9, 10]
    assert bits(restore(tmp_path)[0]) == bits(state_of(10))
    # Another start goes on with that.
    save(tmp_path, [11])
    assert steps_in(tmp_path) == [10, 11]
    assert bits(restore(tmp_path)[0]) == bits(state_of(11))


@pytest.mark.parametrize("name", ["8.orbax-checkpoint-tmp", "8.orbax-checkpoint-tmp-123", "8.tmp", ".8"])
def test_a_half_written_checkpoint_does_not_count(tmp_path, name):
    save(tmp_path, [1, 2])
    shutil.copytree(tmp_path / "2", tmp_path / name)
    assert bits(restore(tmp_path)[0]) == bits(state_of(2))
    # And does not stop that step from being saved.
    save(tmp_path, [8])
    assert bits(restore(tmp_path)[0]) == bits(state_of(8))


def test_after_a_damaged_checkpoint_is_deleted_the_one_before_counts(tmp_path):
    save(tmp_path, [1, 2])
    (tmp_path / "2" / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match=r"/2: expected a complete checkpoint.*delete this folder"):
        restore(tmp_path)
    shutil.rmtree(tmp_path / "2")
    assert bits(restore(tmp_path)[0]) == bits(state_of(1))


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


DAMAGES = {
    "deleted": lambda data: None,
    "cut": lambda data: data[: len(data) // 2],
    "flipped": lambda data: flipped(data, len(data) // 2),
}


def read_wrongly(path, kind, read):
    """Files whose damage makes `read` give something wrong; a UserError that names the folder is right."""
    wrong = []
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        content = file.read_bytes()
        damaged = DAMAGES[kind](content) if content else b"x"
        file.unlink() if damaged is None else file.write_bytes(damaged)
        try:
            if not read():
                wrong.append(str(file.relative_to(path)))
        except UserError as error:
            assert str(path) in str(error)
        file.write_bytes(content)
    return wrong


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_never_read_as_something_else(tmp_path, kind):
    # Small leaves lie in Orbax's index, which has checksums; the kernels of 60 x 60 lie in files of their own.
    original = state_of(2, 60)
    save(tmp_path, [1, 2], original)

    def read():
        state, notes = restore(tmp_path, state_of(99, 60))
        return bits(state) == bits(original) and notes == NOTES

    assert read()
    assert read_wrongly(tmp_path / "2", kind, read) == []


class Other(NamedTuple):
    params: dict


def test_a_state_of_another_shape_is_refused(tmp_path):
    save(tmp_path, [1])
    for like in (state_of(size=5), Other({"t": jnp.zeros(2)})):
        with pytest.raises(UserError, match="/1: "):
            restore(tmp_path, like)


PARAMS = {"conv": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "blocks": {0: {"bias": jnp.ones(2)}}}
STATISTICS = {"norm": {"mean": jnp.asarray([0.25, -1.0])}}


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", PARAMS, STATISTICS, DESCRIPTION)
    return tmp_path / "model"


def zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def test_model_round_trip(model):
    assert load_description(model) == DESCRIPTION
    found = load_model(model, zeros(PARAMS), zeros(STATISTICS))
    assert bits(found) == bits((PARAMS, STATISTICS))


def test_a_model_without_statistics(tmp_path):
    save_model(tmp_path / "model", PARAMS, {}, DESCRIPTION)
    assert bits(load_model(tmp_path / "model", zeros(PARAMS), {})) == bits((PARAMS, {}))


def test_what_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    for name in ("nothing", "empty", "file", "other"):
        with pytest.raises(UserError, match=rf"^victim\.checkpoint: found no model at .*{name}"):
            load_description(tmp_path / name)


def test_a_checkpoint_of_a_phase_is_no_model(tmp_path):
    save(tmp_path, [1])
    for path in (tmp_path, tmp_path / "1"):
        with pytest.raises(UserError):
            load_description(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    bad = {"norm": {"mean": jnp.asarray([1.0, value])}}
    save_model(tmp_path / "model", PARAMS, bad, DESCRIPTION)
    with pytest.raises(UserError, match=r"model: found weights that are not finite"):
        load_model(tmp_path / "model", PARAMS, STATISTICS)


def test_another_structure_is_refused(model):
    others = [
        {**PARAMS, "conv": {"kernel": jnp.zeros((3, 2))}},
        {**PARAMS, "more": jnp.zeros(1)},
        {"conv": PARAMS["conv"]},
    ]
    for params in others:
        with pytest.raises(UserError, match="/model: expected"):
            load_model(model, params, STATISTICS)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_model_is_never_read_as_something_else(tmp_path, kind):
    path, params = tmp_path / "model", {**PARAMS, **state_of(0, 60).params["layers"][0]}
    save_model(path, params, STATISTICS, DESCRIPTION)

    def read():
        if load_description(path) != DESCRIPTION:
            return False
        return bits(load_model(path, zeros(params), zeros(STATISTICS))) == bits((params, STATISTICS))

    assert read()
    assert read_wrongly(path, kind, read) == []


def test_a_half_written_model_is_none_and_in_nobody_s_way(model):
    half = model.with_name("model.orbax-checkpoint-tmp")
    model.rename(half)
    with pytest.raises(UserError, match="found no model"):
        load_description(model)
    save_model(model, PARAMS, STATISTICS, {"seed": 4})
    assert load_description(model) == {"seed": 4}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(command, capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def large(seed):
    """Two megabytes that cannot be compressed."""
    return {"t": jnp.asarray(np.random.default_rng(seed).normal(size=(512, 1024)), jnp.float32)}


def error_of(act):
    """(type, errno) of what `act` raises."""
    try:
        act()
    except Exception as error:
        return type(error), getattr(error, "errno", None)
    return None


def test_a_full_disk(small_disk):
    full = (OSError, errno.ENOSPC)
    assert error_of(lambda: save_model(small_disk / "model", large(0), {}, DESCRIPTION)) == full
    # Whole or not at all.
    assert not (small_disk / "model").exists()
    for folder in small_disk.iterdir():
        shutil.rmtree(folder)

    few = {"t": jnp.arange(4.0)}
    save(small_disk / "run", [1], few)
    checkpoints = Checkpoints(small_disk / "run")
    assert error_of(lambda: checkpoints.save(2, large(1), NOTES)) == full
    # Closing, which comes after, must not put another error in its place.
    assert error_of(checkpoints.close) in (None, full)
    assert bits(restore(small_disk / "run", few)[0]) == bits(few)


FULL_DISK = """
import sys
from pathlib import Path
from fip_jax import main
main.quieten()
import jax.numpy as jnp, numpy as np
from fip_jax.checkpoint import Checkpoints, save_model
large = {"t": jnp.asarray(np.random.default_rng(0).normal(size=(512, 1024)), jnp.float32)}
folder = Path(sys.argv[1])
checkpoints = Checkpoints(folder / "run")
save, model = lambda: checkpoints.save(1, large, {}), lambda: save_model(folder / "m", large, {}, {})
for write in (save, checkpoints.close, model):
    try:
        write()
    except OSError as error:
        print(error.errno)
"""


def test_a_full_disk_is_told_once(small_disk):
    """Nothing of Orbax's threads and coroutines comes beside the sentence that the command line says."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(small_disk)], cwd=ROOT, capture_output=True, text=True
    )
    assert (set(done.stdout.split()), done.stderr) == ({"28"}, "")
