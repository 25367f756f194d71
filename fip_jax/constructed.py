"""The triggers that a defender constructs: searched for with progress, once a run, and told in words."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from fip_jax import convolution, inversion, parallel, plain
from fip_jax.data.batches import to_device, to_unit
from fip_jax.data.held_out import keep_back
from fip_jax.data.split import Split
from fip_jax.inversion import Triggers
from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import PyTree
from fip_jax.progress import Task
from fip_jax.timing import Lap
from fip_jax.workdir import Workdir, write_whole

Found = tuple[Triggers, Triggers | None]  # as of `inversion.search`
FILE = "triggers.safetensors"
LARGEST = 1 << 30  # bytes of the file


def construct(
    config: ConfigDict, network: Network | FunctionNetwork, params: PyTree, model_state: PyTree, clean: Split
) -> Found | None:
    """Triggers of every class and of those that stand out (`inversion.search`).

    None if none are asked for, or of fewer than `inversion.FEWEST` classes, where none could stand out.

    Args:
      config: of which `defense.inversion` and `seed` count.
      network: the suspicious network.
      params: its parameters.
      model_state: its BatchNorm statistics.
      clean: the defender's images.
    """
    options = config.defense.inversion
    if not options.rate:
        return None
    if config.defense.hold_back:
        clean, _ = keep_back(clean, config.defense.hold_back, config.seed, "defense.hold_back")
    network = network.with_convolution(convolution.for_batches(parallel.platform_of(None)))
    data = to_device(clean.images, clean.labels)
    images = to_unit(data["image"])
    logits, _ = jax.eval_shape(lambda *x: network(*x), params, model_state, images[:1])
    if logits.shape[-1] < inversion.FEWEST:
        return None
    key = jax.random.fold_in(jax.random.key(config.seed), 24)
    total = 2 * options.steps
    with Task("construct a trigger for each class", total) as task:
        found = inversion.search(
            options, network, params, model_state, images, data["label"], logits.shape[-1], key, task.update
        )
        task.update(total)
    return found


def once(
    config: ConfigDict,
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    clean: Split,
    workdir: Workdir,
) -> tuple[Found, dict[str, Any]] | None:
    """(what `construct` finds, {"classes": what `described` says, "seconds"}), kept in the workdir; None as there."""
    path = workdir.path / FILE

    def made() -> dict[str, Any]:
        lap = Lap()
        found = construct(config, network, params, model_state, clean)
        if found is None:
            return {}
        content = to_bytes(found)
        workdir.check_held()
        write_whole(path, content)
        spent = lap.read()
        return {
            "sha256": hashlib.sha256(content).hexdigest(),
            "classes": described(found),
            "seconds": spent["total"] - spent["compile"],
        }

    told = workdir.once("triggers", made)
    if not told:
        return None
    found = from_bytes(path, told["sha256"])
    if found is None:  # lost or damaged since
        found = construct(config, network, params, model_state, clean)
        assert found is not None
        write_whole(path, to_bytes(found))
    return found, {key: told[key] for key in ("classes", "seconds")}


def to_bytes(found: Found) -> bytes:
    """What `search` found as a safetensors file."""
    parts = zip(("all", "chosen"), found, strict=True)
    return safetensors.numpy.save(
        {
            f"{part}.{name}": np.asarray(value)
            for part, triggers in parts
            if triggers is not None
            for name, value in triggers._asdict().items()
        }
    )


def from_bytes(path: Path, sha256: str) -> Found | None:
    """What `to_bytes` made of `Found`; None if the file is not there or not the one with this checksum."""
    try:
        content = plain.read(path, LARGEST)
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        arrays = safetensors.numpy.load(content)
        parts = [
            Triggers(**{name: jnp.asarray(arrays[f"{part}.{name}"]) for name in Triggers._fields})
            for part in ("all", "chosen")
            if f"{part}.mask" in arrays
        ]
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        return None
    return parts[0], parts[1] if len(parts) > 1 else None


def described(found: Found) -> list[dict[str, Any]]:
    """What was constructed of each class: size of the mask, success, anomaly index, whether it stands out."""
    first, chosen = found
    sizes = np.asarray(first.size, np.float64)
    index = inversion.anomaly_index(sizes)
    out = set() if chosen is None else {int(target) for target in chosen.target}
    return [
        {
            "class": k,
            "size": round(float(sizes[k]), 2),
            "success": round(float(first.success[k]), 3),
            "index": round(float(index[k]), 2),
            "stands_out": k in out,
        }
        for k in range(len(sizes))
    ]


def say(classes: list[dict[str, Any]], names: Sequence[str]) -> str:
    """One sentence about what `described` says, with the classes' names."""
    out = sorted((row for row in classes if row["stands_out"]), key=lambda row: row["size"])
    median = float(np.median([row["size"] for row in classes]))
    if not out:
        return (
            "constructed triggers: no class stands out (smallest mask "
            f"{min(row['size'] for row in classes):.1f} pixels, median {median:.1f}); sinusoids, warps and triggers "
            "that differ from image to image would not show here"
        )
    listed = ", ".join(f"{names[row['class']]} ({row['size']:.1f} pixels)" for row in out)
    return (
        f"constructed triggers: {listed} stand{'s' if len(out) == 1 else ''} out (median {median:.1f} pixels)"
    )
