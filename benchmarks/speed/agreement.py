"""Whether two sides compute the same, before they are timed: one step of each, from the same weights and noise.

It is the very program that is timed which takes this step, and so no side needs the library of the other.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.purification import official
from benchmarks.speed.workload import Workload, configure
from fip_jax import defend
from fip_jax.config import defense_settings
from fip_jax.interop.state_dict import to_torch
from fip_jax.purify import Metrics, State

TOLERANCE = 5e-3  # float32 through some twenty layers, of which the trace's gradient passes each four times

Arrays = dict[str, np.ndarray]  # by PyTorch's names, in PyTorch's layout


class Step(NamedTuple):
    """A step of ours: what went into it and what came out.

    Attributes:
      images: float32 `[N, H, W, C]`.
      labels: int32 `[N]`.
      noise: signs of the examples `[n]`, for the official term Gaussian noise for every parameter, else None.
      learning_rate: of this step.
      loss: before the update.
      trace: before the update.
      update: what was added to each parameter.
      blur: how far `update` moves, relative to its norm, where the weights move by a few roundings. SAM on a deep
        network and noise for images makes much out of little.
    """

    images: np.ndarray
    labels: np.ndarray
    noise: np.ndarray | Arrays | None
    learning_rate: float
    loss: float
    trace: float
    update: Arrays
    blur: float


def take_step(work: Workload, start: defend.Start) -> Step:
    """The first step of our side."""
    config = configure(work)
    settings = defense_settings(config)
    first = start.state
    draw_key, step_key = jax.random.split(first.key)
    batch = defend.drawing(config)(draw_key, first.step, start.data)
    probe_key = jax.random.split(jax.random.fold_in(step_key, first.step))[1]
    noise: Any = None
    if work.row == "official":
        noise = _named(jax.jit(official.draw)(first.params, probe_key))
    elif settings.eta_f and settings.num_probes:
        count = min(settings.trace_batch_size or len(batch["label"]), len(batch["label"]))
        noise = np.asarray(jax.random.rademacher(probe_key, (count,), jnp.float32))
    _, blurred = _step(start, first._replace(params=_blurred(first.params)))
    metrics, update = _step(start, first)
    return Step(
        np.asarray(batch["image"]),
        np.asarray(batch["label"]),
        noise,
        settings.learning_rate,
        float(metrics.loss),
        float(metrics.trace),
        update,
        _distance(blurred, update),
    )


def _step(start: defend.Start, state: State) -> tuple[Metrics, Arrays]:
    before = _named(start.restore(state).params)
    after, metrics = start.step_fn(
        jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state), start.anchor, start.data
    )
    return metrics, {
        name: array - before[name] for name, array in _named(start.restore(after).params).items()
    }


def _blurred(params: Any) -> Any:
    """Every weight changed by about eight roundings."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(
        tree, [x * (1 + 1e-6 * jax.random.normal(key, x.shape)) for x, key in zip(leaves, keys, strict=True)]
    )


def _named(params: Any) -> Arrays:
    return {name: array.astype(np.float64) for name, array in to_torch(params, {}).items()}


def compare(work: Workload, expected: Step, purification: Any) -> dict[str, float]:
    """How far PyTorch's loss, trace and update are from ours, relative to the norms of ours.

    Args:
      work: the row.
      expected: from `take_step`.
      purification: a `pytorch_baseline.Purification` of the row, at its first step.

    Raises:
      ValueError: one is further than `TOLERANCE`, the update than three times the blur of ours as well; times of two
        different computations would mean nothing.
    """
    found = _theirs(expected, purification)
    names = ["loss", "update", *(["trace"] if expected.trace else [])]
    differences = {name: _distance(found[name], getattr(expected, name)) for name in names}
    allowed = dict.fromkeys(names, TOLERANCE) | {"update": max(TOLERANCE, 3 * expected.blur)}
    if not all(differences[name] <= allowed[name] for name in names):
        raise ValueError(
            f"{work.network}, {work.row}: PyTorch's results differ from ours by {differences}, expected at most "
            f"{allowed}"
        )
    return differences


def _distance(found: Any, expected: Any) -> float:
    if isinstance(expected, dict):
        names = sorted(expected)
        found, expected = (
            np.concatenate([tree[name].ravel() for name in names]) for tree in (found, expected)
        )
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _theirs(given: Step, purification: Any) -> dict[str, Any]:
    import torch

    from benchmarks.pytorch_networks import fold
    from benchmarks.speed import pytorch

    def put(array):
        return torch.tensor(array, dtype=torch.float32, device=pytorch.device())

    def weights():
        folded = fold(purification.params | purification.state)
        return {name: folded[name].cpu().numpy() for name in given.update}

    images = put(given.images).permute(0, 3, 1, 2)  # channels last in memory, as all batches here
    labels = torch.tensor(given.labels, dtype=torch.long, device=pytorch.device())
    noise: Any = given.noise
    if isinstance(noise, dict):
        noise = {name: put(array) for name, array in noise.items()}
    elif noise is not None:
        noise = put(noise)
    start = purification.snapshot()
    before = weights()
    metrics = purification.step((images, labels), noise, given.learning_rate)
    after = weights()
    purification.restore(start)
    return {
        "loss": float(metrics.loss),
        "trace": float(metrics.trace),
        "update": {name: after[name] - before[name] for name in before},
    }
