"""What rounding the factors of products does to the estimated Tr F and its gradient.

    python -m benchmarks.trace_precision --ibau=FOLDER --gtsrb=FOLDER --data=FOLDER --victims=FOLDER \\
        --out=benchmarks/results/trace_precision

A GPU may round the factors of every product and convolution to TensorFloat-32 (10 bits of mantissa), a TPU to bfloat16
(7), and add up in float32. Here a CPU does the same: the program of trace and gradient is walked through, and the
inputs of every `dot_general` and `conv_general_dilated` in it are rounded. What comes out is held against the same in
float32, probe by probe; beside it stands how far the probes themselves lie apart, the noise that every step has anyhow.
Folders as for `benchmarks.purification.study`. Writes OUT.json.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from benchmarks.purification import models
from fip_jax import fisher, suspect
from fip_jax.data.batches import to_device, to_unit
from fip_jax.experiment import environment
from fip_jax.material import prepare
from fip_jax.network import make_log_probs_fn
from fip_jax.per_example import PyTree
from fip_jax.progress import console
from fip_jax.workdir import write_json

MANTISSA = {"float32": 23, "tensorfloat32": 10, "bfloat16": 7}  # bits kept of each factor
CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
PRODUCTS = ("dot_general", "conv_general_dilated")
NETWORKS = (
    "ibau/gtsrb_badnets",
    "ibau/cifar10_badnets",
    "gtsrb/badnets",
    "gtsrb/badnets_resnet",
    "medic/badnet",
    "signs/badnets_11",
)
EXAMPLES = 16  # as in a step


def rounded(fn: Callable[..., PyTree], bits: int) -> Callable[..., PyTree]:
    """`fn`, with the inputs of every product and convolution rounded to `bits` of mantissa."""

    def with_rounding(*arguments: PyTree) -> PyTree:
        program, shapes = jax.make_jaxpr(fn, return_shape=True)(*arguments)
        leaves = _evaluate(program, bits, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return with_rounding


def _evaluate(program: ClosedJaxpr, bits: int, arguments: list[Any]) -> list[Any]:
    jaxpr = program.jaxpr
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *arguments), strict=True))
    for equation in jaxpr.eqns:
        inputs = [v.val if isinstance(v, Literal) else known[v] for v in equation.invars]
        if equation.primitive.name in PRODUCTS:
            inputs = [jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits) for x in inputs]
        inner = next((p for p in equation.params.values() if isinstance(p, ClosedJaxpr)), None)
        if inner is None:
            results = equation.primitive.bind(*inputs, **equation.params)
        elif equation.primitive.name in CALLS:
            results = _evaluate(inner, bits, inputs)
        else:
            raise ValueError(f"{equation.primitive.name}: expected no loops and branches")
        if not isinstance(results, list | tuple):
            results = [results]
        known |= dict(zip(equation.outvars, results, strict=True))
    return [v.val if isinstance(v, Literal) else known[v] for v in jaxpr.outvars]


def measure(name: str, places: models.Places, probes: int) -> dict[str, Any]:
    """Errors and noise of a network, as `compare` has them."""
    config = models.config_of(name, places)
    found = suspect.load(config)
    material = prepare(config, found.num_classes)
    chosen = np.random.default_rng(0).choice(len(material.clean.labels), EXAMPLES, replace=False)
    batch = to_device(material.clean.images[chosen], material.clean.labels[chosen])
    batch = batch | {"image": to_unit(batch["image"])}
    log_probs = make_log_probs_fn(found.network)

    def trace(params, key):
        return fisher.estimate_trace(lambda p, b: log_probs(p, found.model_state, b), params, batch, key)

    keys = jax.random.split(jax.random.key(0), probes)
    estimates: dict[str, list[Any]] = {}
    for kind, bits in MANTISSA.items():
        estimate = jax.jit(rounded(jax.value_and_grad(trace), bits))
        estimates[kind] = [_flat(estimate(found.params, key)) for key in keys]
    return {"network": name, "probes": probes, "examples": EXAMPLES, **compare(estimates)}


def _flat(found: tuple[jax.Array, PyTree]) -> tuple[float, np.ndarray]:
    value, gradient = found
    return float(value), np.concatenate(
        [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(gradient)]
    )


def compare(estimates: dict[str, list[tuple[float, np.ndarray]]]) -> dict[str, Any]:
    """What rounding does to traces and gradients, and how far the probes lie apart.

    Args:
      estimates: for each of `MANTISSA` (trace, gradient `[parameters]`) of every probe.

    Returns:
      `noise`: standard deviation of the trace over its mean, and root of the mean square distance of the gradients
      from their mean, over its norm. For each rounding, root of the mean square relative error of `trace` and
      `gradient`, and `bias`, the distance between the means of the gradients, relative.
    """
    exact = estimates["float32"]
    traces, gradients = np.array([t for t, _ in exact]), np.stack([g for _, g in exact])
    mean = gradients.mean(0)
    spread = np.linalg.norm(gradients - mean, axis=1)
    freedom = len(exact) / (len(exact) - 1)
    result: dict[str, Any] = {
        "noise": {
            "trace": float(traces.std(ddof=1) / traces.mean()),
            "gradient": float(np.sqrt(freedom * np.square(spread).mean()) / np.linalg.norm(mean)),
        }
    }
    for kind in MANTISSA:
        if kind == "float32":
            continue
        found = estimates[kind]
        errors = np.array([t for t, _ in found]) / traces - 1
        others = np.stack([g for _, g in found])
        apart = np.linalg.norm(others - gradients, axis=1) / np.linalg.norm(gradients, axis=1)
        result[kind] = {
            "trace": float(np.sqrt(np.square(errors).mean())),
            "gradient": float(np.sqrt(np.square(apart).mean())),
            "bias": float(np.linalg.norm(others.mean(0) - mean) / np.linalg.norm(mean)),
        }
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a network."""
    kinds = [kind for kind in MANTISSA if kind != "float32"]
    columns = [("noise", "trace"), ("noise", "gradient")]
    columns += [(kind, what) for kind in kinds for what in ("trace", "gradient", "bias")]
    lines = ["| | " + " | ".join(f"{kind}: {what}" for kind, what in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for row in rows:
        cells = [f"{row[kind][what]:.2g}" for kind, what in columns]
        lines.append(f"| `{row['network']}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures all networks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    models.add_places(parser)
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, help="as in benchmarks.purification.models"
    )
    parser.add_argument("--probes", type=int, default=8, help="at least 2")
    parser.add_argument("--out", type=Path, required=True, help="file to write, without an ending")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"environment": environment(), "rows": []}
    for name in arguments.networks:
        content["rows"].append(measure(name, models.places(arguments), arguments.probes))
        write_json(arguments.out.with_suffix(".json"), content)
        console.print(table(content["rows"][-1:]), markup=False)
    print(table(content["rows"]))


if __name__ == "__main__":
    main()
