"""Whether two sides compute the same, before they are timed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import pytorch_baseline as baseline
from benchmarks.speed import pytorch
from benchmarks.speed.workload import Workload, configure, draw_images
from fip_jax.config import defense_settings
from fip_jax.data.batches import to_unit
from fip_jax.interop.state_dict import to_torch
from fip_jax.models import create_model
from fip_jax.network import make_objective, split_module
from fip_jax.objective import trace_of_fisher

TOLERANCE = 5e-3  # float32 through some twenty layers, of which the trace's gradient passes each four times
_EXAMPLES = 32


def check(work: Workload) -> dict[str, float]:
    """How far PyTorch's loss, trace and gradients are from ours, relative to the norms of ours.

    Args:
      work: a workload, of which the network counts.

    Raises:
      ValueError: one is further than `TOLERANCE`; times of two different computations would mean nothing.
    """
    some = draw_images(work, _EXAMPLES)
    settings = defense_settings(configure(work._replace(row="fip")))
    theirs = baseline.Purification(pytorch.build(work), settings)
    key = jax.random.key(1)
    expected = _ours(work, settings, some.images, some.labels, key)
    signs = np.asarray(jax.random.rademacher(key, (_EXAMPLES,), jnp.float32))
    found = _theirs(theirs, some.images, some.labels, signs)
    differences = {
        name: float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
        for name, value in expected.items()
    }
    if not max(differences.values()) <= TOLERANCE:
        raise ValueError(
            f"{work.network}: PyTorch's results differ from ours by {differences}, expected at most {TOLERANCE}"
        )
    return differences


def _flat(named: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.asarray(named[name]).ravel() for name in sorted(named)])


def _ours(work: Workload, settings: Any, images: Any, labels: Any, key: jax.Array) -> dict[str, Any]:
    network, params, model_state = split_module(
        create_model(work.network, work.num_classes, work.image_size, 0, width=work.width)
    )
    objective = make_objective(network, batch_statistics=True, dropout=False)
    batch = {"image": to_unit(jnp.asarray(images)), "label": jnp.asarray(labels)}
    loss, gradient = jax.jit(jax.value_and_grad(lambda p: objective.loss_fn(p, model_state, batch, key)[0]))(
        params
    )
    trace, smoothing = jax.jit(
        jax.value_and_grad(lambda p: trace_of_fisher(objective, settings, p, model_state, batch, key))
    )(params)
    return {
        "loss": np.asarray(loss),
        "gradient of the loss": _flat(to_torch(gradient, {})),
        "trace": np.asarray(trace),
        "gradient of the trace": _flat(to_torch(smoothing, {})),
    }


def _theirs(purification: baseline.Purification, images: Any, labels: Any, signs: Any) -> dict[str, Any]:
    device = pytorch.device()
    batch = (
        torch.tensor(images).permute(0, 3, 1, 2).float().to(device) / 255,
        torch.tensor(labels, dtype=torch.long, device=device),
    )
    # Before the loss, which moves the running statistics.
    smoothing, trace = purification.gradient_of_trace(batch, torch.tensor(signs, device=device))
    gradient, loss = purification.gradient_of_loss(batch, None, 0.0)
    named = dict(zip(purification.params, gradient, strict=True))
    return {
        "loss": loss.cpu().numpy(),
        "gradient of the loss": _flat({name: t.cpu() for name, t in named.items()}),
        "trace": trace.cpu().numpy(),
        "gradient of the trace": _flat({name: t.cpu() for name, t in smoothing.items()}),
    }
