"""Whether two sides compute the same, before they are timed: one step of each, from the same weights and noise.

In float64, on both sides: rounding, which SAM on a deep network and noise for images make much of, lies there ten
orders of magnitude below what a difference of the mathematics makes. In float32 it depends on the processor how far two
right answers lie apart. Our side hands its step over as arrays, so that no side needs the library of the other.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.purification import official
from benchmarks.speed import ours
from benchmarks.speed.workload import Workload, configure
from fip_jax import defend
from fip_jax.config import defense_settings
from fip_jax.interop.state_dict import to_torch

TOLERANCE = 1e-6  # of the norm; found are some 1e-12

Arrays = dict[str, np.ndarray]  # by PyTorch's names, in PyTorch's layout


class Step(NamedTuple):
    """A step of ours: what went into it and what came out, in float64.

    Attributes:
      images: float32 `[N, H, W, C]`.
      labels: int32 `[N]`.
      noise: signs of the examples `[n]`, for the official term Gaussian noise for every parameter, else None.
      learning_rate: of this step.
      loss: before the update.
      trace: before the update.
      update: what was added to each parameter.
    """

    images: np.ndarray
    labels: np.ndarray
    noise: np.ndarray | Arrays | None
    learning_rate: float
    loss: float
    trace: float
    update: Arrays


def take_step(work: Workload) -> Step:
    """The first step of our side."""
    config = configure(work)
    settings = defense_settings(config)
    # Images stay float32, as the code that users run draws them.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        start = ours.begin(work, jnp.float64)
        first = start.state
        draw_key, step_key = jax.random.split(first.key)
        batch = defend.drawing(config)(draw_key, first.step, start.data)
        probe_key = jax.random.split(jax.random.fold_in(step_key, first.step))[1]
        noise: Any = None
        if work.row == "official":
            noise = _named(jax.jit(official.draw)(first.params, probe_key))
        elif settings.eta_f and settings.num_probes:
            count = min(settings.trace_batch_size or len(batch["label"]), len(batch["label"]))
            noise = np.asarray(jax.random.rademacher(probe_key, (count,)))
        before = _named(start.restore(first).params)
        after, metrics = start.step_fn(first, start.anchor, start.data)
        update = {name: a - before[name] for name, a in _named(start.restore(after).params).items()}
    return Step(
        np.asarray(batch["image"]),
        np.asarray(batch["label"]),
        noise,
        settings.learning_rate,
        float(metrics.loss),
        float(metrics.trace),
        update,
    )


def _named(params: Any) -> Arrays:
    return {name: array.astype(np.float64) for name, array in to_torch(params, {}).items()}


def compare(work: Workload, expected: Step, compiled: bool) -> dict[str, float]:
    """How far PyTorch's loss, trace and update are from ours, relative to the norms of ours.

    Args:
      work: the row.
      expected: from `take_step`.
      compiled: whether PyTorch compiles.
    """
    found = _theirs(work, expected, compiled)
    names = ["loss", "update", *(["trace"] if expected.trace else [])]
    return {name: _distance(found[name], getattr(expected, name)) for name in names}


def agree(differences: dict[str, float]) -> bool:
    """Whether `compare` found the same mathematics; times of two different computations would mean nothing."""
    return all(difference <= TOLERANCE for difference in differences.values())


def _distance(found: Any, expected: Any) -> float:
    if isinstance(expected, dict):
        names = sorted(expected)
        found, expected = (
            np.concatenate([tree[name].ravel() for name in names]) for tree in (found, expected)
        )
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _theirs(work: Workload, given: Step, compiled: bool) -> dict[str, Any]:
    import torch

    from benchmarks.pytorch_networks import fold
    from benchmarks.speed import pytorch

    def put(array):
        return torch.tensor(array, dtype=torch.float64, device=pytorch.device())

    def weights():
        folded = fold(purification.params | purification.state)
        return {name: folded[name].cpu().numpy().copy() for name in given.update}

    purification = pytorch.begin(work, compiled, torch.float64)
    images = put(given.images).permute(0, 3, 1, 2)  # channels last in memory, as all batches here
    labels = torch.tensor(given.labels, dtype=torch.long, device=pytorch.device())
    noise: Any = given.noise
    if isinstance(noise, dict):
        noise = {name: put(array) for name, array in noise.items()}
    elif noise is not None:
        noise = put(noise)
    before = weights()
    metrics = purification.step((images, labels), noise, given.learning_rate)
    after = weights()
    return {
        "loss": float(metrics.loss),
        "trace": float(metrics.trace),
        "update": {name: after[name] - before[name] for name in before},
    }
