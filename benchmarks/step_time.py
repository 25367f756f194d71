"""Seconds a step takes, method by method, on whatever device JAX finds here.

    python -m benchmarks.step_time --out=steps.json

The methods take turns within each round, so that a machine that slows down slows all of them down. Compilation is
reported apart. Images are noise: the time of a step does not depend on what they show.
"""

import argparse
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fip_jax import convolution, purify
from fip_jax.config import METHODS, default_config, defense_settings
from fip_jax.data.batches import make_draw, to_device
from fip_jax.models import create_model
from fip_jax.network import make_objective, split_module
from fip_jax.objective import Anchor

NETWORKS = {"small_vgg": 32, "preact_resnet18": 64}


def prepare(model: str, width: int, method: str, batch_size: int) -> dict[str, Any]:
    """A compiled step with its state and data, and the seconds that compiling took."""
    config = default_config()
    config.defense.name = method
    settings = defense_settings(config)
    network, params, model_state = split_module(create_model(model, 43, 32, 0, width=width))
    network = network.with_convolution(convolution.for_batches())
    objective = make_objective(network, batch_statistics=True, dropout=False)
    step = purify.make_step(objective, settings, make_draw(batch_size, 2))
    state = purify.init_state(settings, params, model_state, jax.random.key(0))
    rng = np.random.default_rng(0)
    data = to_device(rng.integers(0, 256, (512, 32, 32, 3)), rng.integers(0, 43, 512))
    anchor = Anchor(params, jax.tree.map(jax.numpy.ones_like, params)) if settings.eta_r else None
    start = time.perf_counter()
    state, metrics = step(state, anchor, data)
    metrics.loss.block_until_ready()
    seconds = time.perf_counter() - start
    return {"step": step, "state": state, "anchor": anchor, "data": data, "first": seconds, "seconds": []}


def take(run: dict[str, Any], num_steps: int) -> None:
    """Takes steps and notes the mean seconds of one."""
    start = time.perf_counter()
    for _ in range(num_steps):
        run["state"], metrics = run["step"](run["state"], run["anchor"], run["data"])
    metrics.loss.block_until_ready()
    run["seconds"].append((time.perf_counter() - start) / num_steps)


def main() -> None:
    """Measures, prints a table, and writes JSON with hardware and versions."""
    parser = argparse.ArgumentParser(description="Seconds a purification step takes.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each method")
    parser.add_argument("--steps", type=int, default=5, help="steps a measurement")
    parser.add_argument("--batch_size", type=int, default=64)
    arguments = parser.parse_args()
    rows = []
    for model, width in NETWORKS.items():
        runs = {method: prepare(model, width, method, arguments.batch_size) for method in METHODS}
        for _ in range(arguments.rounds):
            for run in runs.values():
                take(run, arguments.steps)
        for method, run in runs.items():
            row = {
                "model": model,
                "width": width,
                "method": method,
                "batch_size": arguments.batch_size,
                "first_step_seconds": run["first"],
                "step_seconds_median": statistics.median(run["seconds"]),
                "step_seconds_min": min(run["seconds"]),
                "step_seconds_max": max(run["seconds"]),
                "num_runs": arguments.rounds,
            }
            rows.append(row)
            print(f"{model} {method}: {row['step_seconds_median'] * 1e3:.1f} ms a step", flush=True)
    device = jax.devices()[0]
    result = {
        "rows": rows,
        "device": device.device_kind,
        "platform": device.platform,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
