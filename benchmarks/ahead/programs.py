"""The programs that are compiled ahead of time, and what is kept of each."""

import contextlib
import functools
import math
import resource
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks.ahead.chips import CHIPS, NAMES, Chip, devices_of
from benchmarks.ahead.hlo import Kernel, Program
from benchmarks.speed.workload import Workload, configure, draw_images
from fip_jax import defend, parallel
from fip_jax.evaluate import BATCH_SIZE, make_predict_batch
from fip_jax.models import abstract_model
from fip_jax.network import split_module

AT_ONCE = 20  # steps of a loop, as between two measurements of a run (`report.eval_every`)


class Kind(NamedTuple):
    """What a program does: a row of `benchmarks.speed.workload`, so many steps of it, on so many devices."""

    title: str
    row: str
    steps: int = 1
    devices: int = 1


KINDS = {
    "ft": Kind("FT step", "ft"),
    "fip": Kind("FIP step, estimated trace", "fip"),
    "evaluation": Kind(f"evaluation of {BATCH_SIZE} images", "evaluation"),
    "pmap4": Kind("FIP step over 4 devices", "fip", devices=4),
    "fast_fip": Kind("Fast FIP step", "fast_fip"),
    "ft_sam": Kind("FT-SAM step", "ft_sam"),
    "loop": Kind(f"{AT_ONCE} FIP steps in a loop", "fip", steps=AT_ONCE),
    "fip_exact": Kind("FIP step, exact trace", "fip_exact"),
    "pmap8": Kind("FIP step over 8 devices", "fip", devices=8),
}


class Wanted(NamedTuple):
    """A program for a chip.

    Attributes:
      chip: a key of `CHIPS`.
      kind: a key of `KINDS`.
      network: `small_vgg` or `preact_resnet18`.
      width: of the network.
      effort: of the compiler, "O0" (little) to "O3", or "UNKNOWN" for its own choice.
    """

    chip: str
    kind: str
    network: str
    width: int
    effort: str


def lower(wanted: Wanted) -> jax.stages.Lowered:
    """The program, ready to be compiled. Its weights are zeros, on which no count depends."""
    kind = KINDS[wanted.kind]
    devices = devices_of(wanted.chip, kind.devices)
    mode = "pmap" if kind.devices > 1 else "none"
    work = Workload(kind.row, wanted.network, wanted.width, mode=mode)
    network, params, model_state = _weights(wanted.network, wanted.width)
    if kind.row == "evaluation":
        images = jax.ShapeDtypeStruct((BATCH_SIZE, work.image_size, work.image_size, 3), jnp.uint8)
        arguments = parallel.abstract((params, model_state, images), SingleDeviceSharding(devices[0]))
        return make_predict_batch(network).lower(*arguments)
    start = _begun(work, CHIPS[wanted.chip].platform)
    return start.step_fn.lower(devices, start.state, start.anchor, start.data, count=kind.steps)


@functools.cache
def _weights(name: str, width: int) -> tuple[Any, Any, Any]:
    work = Workload("ft", name, width)
    network, *shapes = split_module(abstract_model(name, work.num_classes, work.image_size, width=work.width))
    params, model_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return network, params, model_state


@functools.lru_cache(maxsize=4)
def _begun(work: Workload, platform: str) -> defend.Start:
    network = _weights(work.network, work.width)
    return defend.begin(configure(work), *network, draw_images(work), platform=platform)


def compiled(wanted: Wanted) -> dict[str, Any]:
    """Compiles a program; returns what `hlo.Program` and the compiler say of it, or the compiler's error."""
    row: dict[str, Any] = wanted._asdict()
    started, before = time.perf_counter(), _processor_seconds()
    try:
        lowered = lower(wanted)
        row["lower_seconds"] = round(_processor_seconds() - before, 1)
        started, before = time.perf_counter(), _processor_seconds()
        with _effort(wanted.effort):
            done = lowered.compile()
    except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError, ValueError) as error:
        return row | {"error": f"{type(error).__name__}: {error}"[:2000], **_spent(started, before)}
    row |= _spent(started, before)
    text = done.as_text()
    assert text is not None
    return row | _memory(done.memory_analysis()) | described(Program(text), wanted)


@contextlib.contextmanager
def _effort(name: str) -> Iterator[None]:
    """The compiler's effort; as an option of `compile` it is a number for jax 0.10 and a name for later ones."""
    option = "jax_optimization_level"
    before = getattr(jax.config, option)
    jax.config.update(option, name)
    try:
        yield
    finally:
        jax.config.update(option, before)


def _processor_seconds() -> float:
    """Of this process and of the compilers that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(found.ru_utime + found.ru_stime for found in used)


def _spent(started: float, before: float) -> dict[str, float]:
    return {
        "compile_seconds": round(time.perf_counter() - started, 1),
        "compile_processor_seconds": round(_processor_seconds() - before, 1),
    }


def _memory(found: Any) -> dict[str, int]:
    """Bytes on one device, by the compiler's count."""
    arguments, results, temporary, shared = (
        int(getattr(found, f"{part}_size_in_bytes")) for part in ("argument", "output", "temp", "alias")
    )
    peak = int(getattr(found, "peak_memory_in_bytes", 0)) or arguments + results + temporary - shared
    return {"argument_bytes": arguments, "temporary_bytes": temporary, "peak_bytes": peak}


def described(program: Program, wanted: Wanted) -> dict[str, Any]:
    """The counts of one step of a compiled program (of a loop's steps the mean), and its floor on the chip."""
    chip, kind = CHIPS[wanted.chip], KINDS[wanted.kind]
    kernels = program.kernels()
    operations: dict[str, float] = {}
    for kernel in kernels:
        for label, count in kernel.operations.items():
            name = NAMES[chip.platform][label]
            operations[name] = operations.get(name, 0.0) + count * kernel.times / kind.steps
    # With little effort nothing is made fast, and the compiler's estimate is of nothing that anybody would run.
    estimated = wanted.effort != "O0" and any(kernel.cycles for kernel in kernels)
    return {
        "operations": operations,
        "bytes": sum(kernel.bytes * kernel.times for kernel in kernels) // kind.steps,
        "kernels": sum(kernel.times for kernel in kernels) // kind.steps,
        "cycles": sum(kernel.cycles * kernel.times for kernel in kernels) // kind.steps
        if estimated
        else None,
        "floor_seconds": floor(kernels, chip) / kind.steps,
        "donated_bytes": sum(program.donated()),
        "donated": len(program.donated()),
        "collectives": program.collectives(),
        "loops": sorted(program.loops().values()),
        "callbacks": program.callbacks(),
        "doubles": program.doubles(),
    }


def floor(kernels: list[Kernel], chip: Chip) -> float:
    """Seconds that the kernels take at least, one after the other: each its products or its bytes, what is longer."""
    names = NAMES[chip.platform]
    return math.fsum(
        kernel.times
        * max(
            sum(count / chip.rates[names[name]] for name, count in kernel.operations.items()),
            kernel.bytes / chip.bandwidth,
        )
        for kernel in kernels
    )
