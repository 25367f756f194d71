"""The side of PyTorch in a benchmark: `benchmarks.pytorch_baseline`, eager or compiled."""

from typing import Any

import torch

from benchmarks import pytorch_baseline as baseline
from benchmarks.pytorch_networks import factorise
from benchmarks.speed import ours
from benchmarks.speed.workload import (
    EVALUATED,
    ITERATIONS,
    Task,
    Workload,
    configure,
    draw_images,
)
from fip_jax.config import defense_settings
from fip_jax.interop.state_dict import to_torch
from fip_jax.purify import schedule


def device() -> str:
    """Where PyTorch computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Returns when the device has done everything."""
    if device() == "cuda":
        torch.cuda.synchronize()


def build(work: Workload) -> torch.nn.Module:
    """The network with the weights that our side begins with."""
    return baseline.build(work.network, work.num_classes, work.width, to_torch(*ours.weights(work)[1:])).to(
        device()
    )


def prepare(work: Workload, compiled: bool) -> Task:
    """The task of a row."""
    purification = begin(work, compiled)
    if work.row == "lambda_max":
        return _lambda_max(work, purification)
    if work.row == "evaluation":
        return _evaluation(work, purification)
    return (_whole if "purification" in work.row else _steps)(work, purification)


def begin(work: Workload, compiled: bool, dtype: torch.dtype = torch.float32) -> baseline.Purification:
    """A row's method before its first step, with weights of a type."""
    config = configure(work)
    module = build(work).to(dtype)
    if "fast" in work.row:
        module = factorise(module, config.defense.fast_fip.whole_head)
    return baseline.Purification(
        module, defense_settings(config), compiled=compiled, official=work.row == "official"
    )


def _batches(work: Workload) -> Any:
    """A function that draws a batch, as `fip_jax.data.batches` does on the other side."""
    config, clean = configure(work), draw_images(work)
    images = torch.tensor(clean.images).permute(0, 3, 1, 2).contiguous().to(device())
    labels = torch.tensor(clean.labels, dtype=torch.long).to(device())
    generator = torch.Generator(device()).manual_seed(0)
    size = config.defense.batch_size
    erased = round(config.defense.corruption.patch.largest * clean.images.shape[1])

    def draw() -> baseline.Batch:
        order = torch.randperm(len(labels), generator=generator, device=device())[:size]
        return baseline.draw(images, labels, order, generator, config.dataset.crop_padding, erased)

    return draw


def _walk(work: Workload, purification: baseline.Purification) -> Any:
    """A function that takes the steps from one number to another, with the schedules of the method."""
    settings, draw = purification.settings, _batches(work)
    rates = [float(schedule(settings)(step)) for step in range(settings.num_steps + 1)]
    batch_size = min(configure(work).defense.batch_size, work.num_clean)
    traced = min(settings.trace_batch_size or batch_size, batch_size)

    def walk(first: int, last: int) -> None:
        for step in range(first, last):
            noise = purification.noise_for(traced) if settings.eta_f else None
            purification.step(draw(), noise, rates[min(step, settings.num_steps)])
        wait()

    return walk


def _steps(work: Workload, purification: baseline.Purification) -> Task:
    walk, taken, start = _walk(work, purification), [0], purification.snapshot()

    def run(count: int) -> int:
        walk(taken[0], taken[0] + count)
        taken[0] += count
        return count

    def warm_up() -> None:
        run(2)
        taken[0] = 0
        purification.restore(start)

    return Task(warm_up, run)


def _whole(work: Workload, purification: baseline.Purification) -> Task:
    walk, start = _walk(work, purification), purification.snapshot()

    def run(count: int) -> int:
        for _ in range(count):
            purification.restore(start)
            walk(0, purification.settings.num_steps)
        return count

    return Task(lambda: walk(0, 2), run)


def _lambda_max(work: Workload, purification: baseline.Purification) -> Task:
    clean, chunk = draw_images(work), configure(work).smoothness.chunk_size
    images = torch.tensor(clean.images).permute(0, 3, 1, 2).to(device()).float() / 255
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(clean.labels, dtype=torch.long).to(device())
    parts = list(zip(images.split(chunk), labels.split(chunk), strict=True))

    def product(vector: baseline.Tensors) -> baseline.Tensors:
        total = {name: torch.zeros_like(tensor) for name, tensor in vector.items()}
        for part in parts:
            found = purification.product(part, vector)
            for name, tensor in total.items():
                tensor.add_(found[name], alpha=len(part[1]) / len(labels))
        return total

    def power_iteration() -> float:
        vector = {name: torch.randn_like(tensor) for name, tensor in purification.params.items()}
        for _ in range(ITERATIONS):
            norm = torch.stack(torch._foreach_norm(list(vector.values()))).norm()
            vector = {name: (tensor / norm).detach() for name, tensor in vector.items()}
            image = product(vector)
            value = sum((image[name] * tensor).sum() for name, tensor in vector.items())
            vector = image
        return float(value)

    def run(count: int) -> int:
        for _ in range(count):
            power_iteration()
        return count

    return Task(lambda: product({k: p.detach() for k, p in purification.params.items()}), run)


def _evaluation(work: Workload, purification: baseline.Purification) -> Task:
    images = torch.tensor(draw_images(work, EVALUATED).images).permute(0, 3, 1, 2)

    def run(count: int) -> int:
        for _ in range(count):
            for part in images.split(256):
                purification.predict(part.to(device())).cpu()
        return count

    return Task(lambda: run(1), run)
