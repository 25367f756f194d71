"""Times the Hessian's top eigenvalue and its spectral density beside PyTorch, on small_vgg with 392 images.

    python -m pip install ".[bench]" && python -m benchmarks.smoothness --out=benchmarks/results/smoothness

Both sides do the same: power iteration of one vector, and Lanczos with full reorthogonalisation, from the same start,
over the same images in the same parts, with Hessian-vector products by two reverse passes. Before anything is timed,
their numbers have to agree; else the program ends with status 2. They take turns in every round, so that a machine that
slows down slows both. Compiling is reported apart. Writes OUT.json and OUT.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from jax.flatten_util import ravel_pytree
from scipy.linalg import eigh_tridiagonal
from torch.nn import functional

from benchmarks import pytorch_baseline
from benchmarks.speed import ours
from benchmarks.speed.workload import Workload, configure, draw_images
from fip_jax import compiled
from fip_jax.data.batches import to_device, to_unit
from fip_jax.errors import UserError
from fip_jax.experiment import environment
from fip_jax.interop.state_dict import to_torch
from fip_jax.network import Network
from fip_jax.pages import ask_for_large_pages
from fip_jax.per_example import PyTree
from fip_jax.progress import console
from fip_jax.smoothness import Smoothness
from fip_jax.spectrum import probes
from fip_jax.workdir import write_json, write_whole

SEED = 0
AGREEMENT = 5e-3  # relative, between values in float32 after tens of products
Numbers = dict[str, float]


class Preset(NamedTuple):
    """How much is measured: width of `small_vgg`, images, iterations, steps of Lanczos, and turns of each side."""

    width: int
    num_images: int
    iterations: int
    steps: int
    rounds: int


PRESETS = {"full": Preset(16, 392, 10, 50, 3), "smoke": Preset(2, 12, 4, 5, 1)}


class Problem(NamedTuple):
    """A network, images, and start vectors: of the eigenvalue, of the density."""

    network: Network
    params: PyTree
    model_state: PyTree
    work: Workload
    key: jax.Array

    def starts(self) -> tuple[PyTree, PyTree]:
        """The vectors that `eigen.power_iteration` and `spectrum.density` begin with."""
        flat, unravel = ravel_pytree(self.params)
        normal = jax.random.normal(self.key, (flat.size, 1), flat.dtype)[:, 0]
        return unravel(normal), probes(self.params, self.key, 1)[0]


def make_problem(preset: Preset) -> Problem:
    """The same network and images whenever it is called."""
    work = Workload("lambda_max", "small_vgg", preset.width, preset.num_images)
    return Problem(*ours.weights(work), work, jax.random.key(SEED))


def in_jax(problem: Problem, preset: Preset) -> dict[str, Callable[[], Numbers]]:
    """Our side: what users run."""
    clean = draw_images(problem.work)
    data = to_device(clean.images, clean.labels)
    smoothness = Smoothness(
        problem.network,
        data | {"image": to_unit(data["image"])},
        configure(problem.work).smoothness.chunk_size,
    )
    trees = problem.params, problem.model_state, problem.key

    def lambda_max() -> Numbers:
        found = smoothness.top_eigenvalues(
            *trees, "hessian", num_guards=0, tolerance=0.0, max_iterations=preset.iterations
        )
        return {"lambda_max": float(found.values[0])}

    def density() -> Numbers:
        found = smoothness.density(*trees, num_steps=preset.steps, num_probes=1)
        return _numbers_of_density(found.nodes[0], found.weights[0])

    return {"lambda_max": lambda_max, "density": density}


def in_pytorch(problem: Problem, preset: Preset) -> dict[str, Callable[[], Numbers]]:
    """PyTorch's side, with the weights, images and start vectors of ours."""
    module = pytorch_baseline.build(
        "small_vgg", problem.work.num_classes, preset.width, to_torch(problem.params, problem.model_state)
    ).eval()
    params = list(module.parameters())
    parts = list(_parts(problem))

    def vector(tree: PyTree) -> torch.Tensor:
        arrays = to_torch(tree, problem.model_state)
        return torch.cat([torch.tensor(arrays[name]).flatten() for name, _ in module.named_parameters()])

    def product(flat: torch.Tensor) -> torch.Tensor:
        pieces = [
            piece.view_as(p) for piece, p in zip(flat.split([p.numel() for p in params]), params, strict=True)
        ]
        total = torch.zeros_like(flat)
        for images, labels, share in parts:
            gradient = torch.autograd.grad(
                functional.cross_entropy(module(images), labels), params, create_graph=True
            )
            along = sum((g * piece).sum() for g, piece in zip(gradient, pieces, strict=True))
            found = torch.autograd.grad(along, params)
            total.add_(torch.cat([f.flatten() for f in found]), alpha=share)
        return total

    starts = [vector(tree) for tree in problem.starts()]

    def lambda_max() -> Numbers:
        direction, value = starts[0], 0.0
        for _ in range(preset.iterations):
            direction = direction / direction.norm()
            image = product(direction)
            value, direction = float(direction @ image), image
        return {"lambda_max": value}

    return {"lambda_max": lambda_max, "density": lambda: _density(product, starts[1], preset.steps)}


def _parts(problem: Problem) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    """(images, labels, share of all) of parts of about the size that ours are of."""
    clean = draw_images(problem.work)
    images = torch.tensor(clean.images).permute(0, 3, 1, 2).float() / 255
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(clean.labels, dtype=torch.long)
    count = -(-len(labels) // configure(problem.work).smoothness.chunk_size)
    for part, answers in zip(images.tensor_split(count), labels.tensor_split(count), strict=True):
        yield part, answers, len(answers) / len(labels)


def _density(product: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int) -> Numbers:
    basis = torch.zeros(steps, len(start))
    vector, diagonal, off_diagonal = start / start.norm(), [], []
    for step in range(steps):
        basis[step] = vector
        image = product(vector)
        diagonal.append(float(vector @ image))
        for _ in range(2):
            image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
        off_diagonal.append(float(image.norm()))
        vector = image / off_diagonal[-1]
    nodes, vectors = eigh_tridiagonal(diagonal, off_diagonal[:-1])
    return _numbers_of_density(nodes, vectors[0] ** 2)


def _numbers_of_density(nodes: Any, weights: Any) -> Numbers:
    nodes, weights = np.asarray(nodes, np.float64), np.asarray(weights, np.float64)
    second = float((nodes**2 * weights).sum())
    return {"lowest": float(nodes.min()), "highest": float(nodes.max()), "second_moment": second}


def check_agreement(ours: Numbers, theirs: Numbers) -> None:
    """Refuses two sides that compute different things.

    Raises:
      UserError: names the number that differs by more than `AGREEMENT` of the largest.
    """
    scale = max(map(abs, ours.values()))
    for name, value in ours.items():
        if not abs(value - theirs[name]) <= AGREEMENT * scale:
            raise UserError(
                f"{name}: found {theirs[name]:.6g} by PyTorch, expected {value:.6g} as by fip_jax, within {AGREEMENT}"
            )


def compare(preset: Preset) -> dict[str, dict[str, Any]]:
    """Quantity -> values and seconds of both sides, which agree."""
    problem = make_problem(preset)
    sides = {"fip_jax": in_jax(problem, preset), "PyTorch": in_pytorch(problem, preset)}
    result: dict[str, dict[str, Any]] = {}
    for quantity in sides["fip_jax"]:
        values, first = {}, {}
        for side, quantities in sides.items():
            values[side], first[side] = _timed(quantities[quantity])
        check_agreement(values["fip_jax"], values["PyTorch"])
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(preset.rounds):
            for side, quantities in sides.items():
                seconds[side].append(_timed(quantities[quantity])[1])
        result[quantity] = {"values": values, "first_seconds": first, "seconds": seconds}
        console.print(f"{quantity}: {values}", markup=False)
    return result


def _timed(run: Callable[[], Numbers]) -> tuple[Numbers, float]:
    begun = time.perf_counter()
    found = run()
    return found, time.perf_counter() - begun


def table(result: dict[str, dict[str, Any]], preset: Preset) -> str:
    """The medians as Markdown."""
    names = {
        "lambda_max": f"λmax, {preset.iterations} iterations of one vector",
        "density": f"density, {preset.steps} steps of Lanczos, one probe",
    }
    lines = [
        f"Hessian of `small_vgg` of width {preset.width} over {preset.num_images} images, medians of {preset.rounds} "
        "turns in seconds.\n",
        "| | fip_jax | PyTorch | PyTorch / fip_jax | first call, fip_jax |",
        "|---|---|---|---|---|",
    ]
    for quantity, found in result.items():
        mine, theirs = (statistics.median(found["seconds"][side]) for side in ("fip_jax", "PyTorch"))
        first = found["first_seconds"]["fip_jax"]
        lines.append(f"| {names[quantity]} | {mine:.3g} | {theirs:.3g} | {theirs / mine:.2f} | {first:.3g} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Checks, measures, and writes numbers and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--out", type=Path, required=True, help="files to write, without an ending")
    arguments = parser.parse_args()
    compiled.spread_convolutions()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    preset = PRESETS[arguments.preset]
    try:
        result = compare(preset)
    except UserError as error:
        parser.error(str(error))
    about = {"preset": preset._asdict(), "seed": SEED, "torch": torch.__version__, **environment()}
    write_json(arguments.out.with_suffix(".json"), about | {"quantities": result})
    found = table(result, preset)
    write_whole(arguments.out.with_suffix(".md"), found.encode())
    console.print(found, markup=False)


if __name__ == "__main__":
    ask_for_large_pages()
    main()
