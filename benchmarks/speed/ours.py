"""The side of fip_jax in a benchmark: the code that users run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.purification import official
from benchmarks.speed.workload import (
    EVALUATED,
    ITERATIONS,
    Task,
    Workload,
    configure,
    draw_images,
)
from fip_jax import defend, parallel, purify
from fip_jax.data.batches import to_device, to_unit
from fip_jax.evaluate import make_predict
from fip_jax.models import create_model
from fip_jax.network import Network, split_module
from fip_jax.objective import trace_of_fisher
from fip_jax.smoothness import Smoothness


def prepare(work: Workload) -> Task:
    """The task of a row."""
    network = weights(work)
    if work.row == "lambda_max":
        return _lambda_max(work, *network)
    if work.row == "evaluation":
        return _evaluation(work, *network)
    start = begin(work)
    at_once = purify.steps_at_once(configure(work).report.eval_every, start.step_fn.platform)
    return (_whole if "purification" in work.row else _steps)(start, at_once)


def begin(work: Workload, dtype: Any = jnp.float32) -> defend.Start:
    """A row's method before its first step, with weights of a type."""
    network, *trees = weights(work)
    params, model_state = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), trees)
    penalty = official.noise if work.row == "official" else trace_of_fisher
    return defend.begin(configure(work), network, params, model_state, draw_images(work), penalty)


def weights(work: Workload) -> tuple[Network, Any, Any]:
    """(network, params, model_state) that all sides begin with."""
    return _weights(work.network, work.num_classes, work.image_size, work.width)


@functools.cache
def _weights(name: str, num_classes: int, image_size: int, width: int) -> tuple[Network, Any, Any]:
    network, params, model_state = split_module(create_model(name, num_classes, image_size, 0, width=width))
    # With biases of zero a black border meets the activations exactly where they have two derivatives.
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda leaf: leaf + 0.01 * rng.standard_normal(leaf.shape, np.float32), params)
    return network, moved, model_state


def _copied(state: purify.State) -> purify.State:
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def _steps(start: defend.Start, at_once: int) -> Task:
    state = [_copied(start.state)]

    def run(count: int) -> int:
        dispatches = -(-count // at_once)
        step_fn = start.step_fn if at_once == 1 else start.step_fn.several(at_once)
        for _ in range(dispatches):
            state[0], _ = step_fn(state[0], start.anchor, start.data)
        jax.block_until_ready(state[0])
        return dispatches * at_once

    return Task(lambda: run(1), run)


def _whole(start: defend.Start, at_once: int) -> Task:
    def run(count: int, num_steps: int | None = None) -> int:
        for _ in range(count):
            begun = start._replace(state=_copied(start.state), num_steps=num_steps or start.num_steps)
            jax.block_until_ready(begun.run(at_once=at_once))
        return count

    return Task(lambda: run(1, at_once), run)


def _lambda_max(work: Workload, network: Any, params: Any, model_state: Any) -> Task:
    clean = draw_images(work)
    data = to_device(clean.images, clean.labels)
    config = configure(work)
    batch = data | {"image": to_unit(data["image"])}
    smoothness = Smoothness(network, batch, config.smoothness.chunk_size, parallel.axis_of(config))

    def run(count: int) -> int:
        for _ in range(count):
            smoothness.top_eigenvalues(
                params, model_state, jax.random.key(0), num_guards=0, tolerance=0.0, max_iterations=ITERATIONS
            )
        return count

    return Task(lambda: smoothness.product(params, model_state, params), run)


def _evaluation(work: Workload, network: Any, params: Any, model_state: Any) -> Task:
    predict, images = make_predict(network, work.precision), draw_images(work, EVALUATED).images

    def run(count: int) -> int:
        for _ in range(count):
            predict(params, model_state, images)
        return count

    return Task(lambda: run(1), run)
