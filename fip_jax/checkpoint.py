"""Checkpoints on disk; the only file that imports Orbax."""

import contextlib
import errno
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from fip_jax.errors import UserError
from fip_jax.per_example import PyTree


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
    """Writes a network to a folder of its own, whole or not at all.

    Args:
      path: the folder; must not exist.
      params: nested dict of arrays.
      model_state: nested dict of arrays.
      description: JSON-like; what is needed to build the network again.
    """
    network = {"params": params, "model_state": model_state}
    with _writable(path):
        ocp.save_checkpointables(
            path, {"network": network, "description": {**description, "checksum": _checksum(network)}}
        )


def load_description(path: Path, key: str = "victim.checkpoint") -> dict[str, Any]:
    """The description given to `save_model`; `key` is the setting that named the folder.

    Raises:
      UserError: the folder does not exist or is not a model of ours.
    """
    found = _load_whole_description(path, key)
    found.pop("checksum", None)
    return found


def digest(path: Path, key: str = "victim.checkpoint") -> str:
    """SHA-256 in hexadecimal digits of a folder's description and its checksum of the weights.

    Raises:
      UserError: as `load_description`.
    """
    told = json.dumps(_load_whole_description(path, key), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _load_whole_description(path: Path, key: str) -> dict[str, Any]:
    if not (path / "description").is_dir() or not ocp.is_orbax_checkpoint(path):
        raise UserError(f"{key}: found no model at {path}, expected a folder written by fip_jax")
    with _readable(path, "expected a folder written by fip_jax"):
        return dict(ocp.load_checkpointables(path, {"description": None})["description"])


def load_model(path: Path, params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """(params, model_state) saved by `save_model`, in the structure of the given ones.

    Raises:
      UserError: damaged, or not of this structure.
    """
    like = {"params": params, "model_state": model_state}
    with _readable(path, "expected the weights of the network that its description names"):
        saved = ocp.load_checkpointables(path, {"network": _abstract(like), "description": None})
        network = saved["network"]
        _check(network, like, saved["description"]["checksum"])
    _check_finite(path, network)
    return network["params"], network["model_state"]


def load_arrays(path: Path) -> dict[str, PyTree]:
    """{"params": ..., "model_state": ...} saved by `save_model`, of whatever structure.

    Raises:
      UserError: damaged.
    """
    with _readable(path, "expected a folder written by fip_jax"):
        saved = ocp.load_checkpointables(path, {"network": None, "description": None})
        if _checksum(saved["network"]) != saved["description"]["checksum"]:
            raise ValueError("checksum does not match")
    _check_finite(path, saved["network"])
    return saved["network"]


def _check_finite(path: Path, tree: PyTree) -> None:
    for leaf in jax.tree.leaves(tree):
        if not np.isfinite(np.asarray(leaf)).all():
            raise UserError(f"{path}: found weights that are not finite, expected numbers")
