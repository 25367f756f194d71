"""Checkpoints on disk; the only file that imports Orbax."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from fip_jax import orbax_folder, plain
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree
from fip_jax.progress import console

_DESCRIPTION = "description.json"
_NETWORK = "network"


@contextlib.contextmanager
def _readable(path: Path, advice: str) -> Iterator[None]:
    """Turns whatever Orbax raises over a damaged folder into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many types over damaged files
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"{path}: expected a complete checkpoint, found a damaged one ({reason}); {advice}"
        ) from error


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Turns a full disk, however Orbax reports it, into the OSError that it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error


def _checksum(tree: PyTree) -> int:
    """CRC-32 over all leaves: Orbax itself checks its index, but not the arrays."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        total = zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).tobytes(), total)
    return total


def _check(tree: PyTree, like: PyTree, checksum: int) -> None:
    """Raises ValueError unless `tree` has the types of `like` and this checksum."""
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if a.dtype != b.dtype or a.shape != b.shape:
            raise ValueError("leaves of another type")
    if _checksum(tree) != checksum:
        raise ValueError("checksum does not match")


def _abstract(tree: PyTree) -> PyTree:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


class Checkpoints:
    """The checkpoints of one phase of a run: the last two are kept, a half-written one never counts."""

    def __init__(self, path: Path):
        self.path = path
        policy = ocp.training.preservation_policies.LatestN(2)
        self._checkpointer = ocp.training.Checkpointer(path, preservation_policy=policy)

    def save(self, step: int, state: PyTree, notes: dict[str, Any]) -> None:
        """Writes `state` and JSON-like `notes`; returns when they are on disk."""
        with _writable(self.path):
            self._checkpointer.save_checkpointables(
                step, {"state": state, "notes": {**notes, "checksum": _checksum(state)}}
            )

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """(state, notes) of the last checkpoint, shaped as `like`, or None where there is none.

        Raises:
          UserError: the checkpoint is damaged.
        """
        if self._checkpointer.latest is None:
            return None
        step = self._checkpointer.latest.step
        with _readable(self.path / str(step), "delete this folder to go on from the checkpoint before it"):
            saved = self._checkpointer.load_checkpointables(step, {"state": _abstract(like), "notes": None})
            notes = dict(saved["notes"])
            _check(saved["state"], like, notes.pop("checksum"))
            return saved["state"], notes

    def close(self) -> None:
        """Ends the background threads."""
        with _writable(self.path):
            self._checkpointer.close()


def save_model(path: Path, params: PyTree, model_state: PyTree, description: dict[str, Any]) -> None:
    """Writes a network to a folder of its own, whole or not at all, on the disk when this returns.

    Args:
      path: the folder; must not exist.
      params: nested dict of arrays.
      model_state: nested dict of arrays.
      description: JSON-like; what is needed to build the network again.
    """
    network = {"params": params, "model_state": model_state}
    # Orbax closes its files without waiting for the disk: a power cut would leave a folder of empty ones.
    draft = path.with_name(f".{path.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    with _writable(path), _uncompressed():
        ocp.save_checkpointables(draft, {_NETWORK: network})
    told = {"description": description, "weights": _sha256(_named(network))}
    (draft / _DESCRIPTION).write_text(json.dumps(told | {"sha256": _sha256_of_text(told)}, indent=2) + "\n")
    for folder, _, files in os.walk(draft, topdown=False):
        for name in (*files, "."):
            _to_disk(Path(folder, name))
    draft.rename(path)
    _to_disk(path.parent)


def _uncompressed() -> Any:
    """Orbax's context in which arrays are written as `orbax_folder` reads them."""
    context = ocp.Context()
    if not hasattr(context, "array"):  # before 0.12
        saving = ocp.options.ArrayOptions.Saving(use_ocdbt=False, use_compression=False)
        return ocp.Context(array_options=ocp.options.ArrayOptions(saving=saving))
    context.array.saving.use_ocdbt = False
    context.array.saving.use_compression = False
    return context


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves of nested dicts by the names that Orbax gives them."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(str(entry.key) for entry in path): leaf for path, leaf in leaves}


def _sha256(arrays: dict[str, Any]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(np.asarray(arrays[name]))
        found.update(repr((name, array.shape, str(array.dtype))).encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _sha256_of_text(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def load_description(path: Path, key: str = "victim.checkpoint") -> dict[str, Any]:
    """The description given to `save_model`; `key` is the setting that named the folder.

    Raises:
      UserError: the folder does not exist or is not a model of ours.
    """
    return _load_whole_description(path, key)["description"]


def digest(path: Path, key: str = "victim.checkpoint") -> str:
    """SHA-256 in hexadecimal digits of a folder's description and its checksum of the weights.

    Raises:
      UserError: as `load_description`.
    """
    return _load_whole_description(path, key)["sha256"]


def _load_whole_description(path: Path, key: str) -> dict[str, Any]:
    """{"description", "weights", "sha256"} of a folder in which everything is a plain file."""
    if (path / "description").is_dir() and not (path / _DESCRIPTION).exists():
        raise UserError(
            f"{key}: {path} was written by an earlier fip_jax, expected a folder that this one wrote, or a file of "
            "weights such as the purified.safetensors of that run"
        )
    if not (path / _DESCRIPTION).is_file() or not (path / _NETWORK).is_dir():
        raise UserError(f"{key}: found no model at {path}, expected a folder written by fip_jax")
    with _readable(path, "expected a folder written by fip_jax"):
        plain.check_tree(path)
        told = plain.read_json(path / _DESCRIPTION)
        if not isinstance(told, dict) or told.keys() != {"description", "weights", "sha256"}:
            raise ValueError("a description of another kind")
        if told["sha256"] != _sha256_of_text({name: told[name] for name in ("description", "weights")}):
            raise ValueError("a description whose checksum does not match")
        if not isinstance(told["description"], dict):
            raise ValueError("a description of another kind")
        return told


def drop_damaged(path: Path) -> None:
    """Removes a model of a run's own that a power cut has damaged; the run's checkpoints make it again."""
    if not path.exists():
        return
    try:
        _load(path, None, "it is made again", limit=1 << 33)
    except UserError as error:
        console.print(f"{error}: it is made again", markup=False)
        shutil.rmtree(path)


def load_model(path: Path, params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """(params, model_state) saved by `save_model`, in the structure of the given ones.

    Raises:
      UserError: damaged, or not of this structure.
    """
    like = {"params": params, "model_state": model_state}
    arrays = _load(path, _named(like), "expected the weights of the network that its description names")
    leaves = [jax.numpy.asarray(arrays[name]) for name in _named(like)]
    network = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return network["params"], network["model_state"]


def load_arrays(path: Path) -> dict[str, PyTree]:
    """{"params": ..., "model_state": ...} saved by `save_model`, of whatever structure.

    Raises:
      UserError: damaged.
    """
    arrays = _load(path, None, "expected a folder written by fip_jax")
    with _readable(path, "expected a folder written by fip_jax"):
        return _nested(arrays)


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, PyTree]:
    network: dict[str, PyTree] = {}
    for name, array in arrays.items():
        *parents, last = name.split(".")
        place = network
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name!r} is inside of an array")
        if last in place:
            raise ValueError(f"{name!r} has arrays inside")
        place[last] = array
    return {"params": {}, "model_state": {}} | network


def _load(
    path: Path, expected: dict[str, Any] | None, advice: str, limit: int = 1 << 28
) -> dict[str, np.ndarray]:
    told = _load_whole_description(path, "victim.checkpoint")
    with _readable(path, advice):
        arrays = orbax_folder.read_arrays(path / _NETWORK, expected, limit)
        if _sha256(arrays) != told["weights"]:
            raise ValueError("checksum does not match")
    for array in arrays.values():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: found weights that are not finite, expected numbers")
    return arrays
