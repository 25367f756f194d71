"""The accelerators that programs are compiled for, none of which has to be here.

Peak rates are the makers' own, for dense products: https://docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e: bfloat16
and memory bandwidth per chip), the data sheets of NVIDIA's A100 80GB SXM and H100 SXM (TF32 without sparsity, FP32,
memory bandwidth).
"""

import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from fip_jax.errors import UserError

# Names of a float32 product by what XLA calls its precision. A TPU has bfloat16 units alone: it takes a product of
# more bits as a sum of 3 or 6 of theirs. A GPU rounds to TensorFloat-32 unless it must not.
NAMES = {
    "tpu": {"default": "bf16", "high": "bf16 x 3", "highest": "bf16 x 6"},
    "cuda": {"default": "tf32", "high": "tf32", "highest": "f32"},
}
PASSES = {"bf16": 1, "bf16 x 3": 3, "bf16 x 6": 6}


class Chip(NamedTuple):
    """An accelerator.

    Attributes:
      platform: "tpu" or "cuda".
      topologies: the smallest one of at least so many devices, as the compiler calls it; one device is the first of
        the smallest.
      rates: products' operations a second by precision, as of `NAMES`.
      bandwidth: of the memory, bytes a second.
      config: of a GPU, what the compiler has to know (`target_config`).
    """

    platform: str
    topologies: dict[int, str]
    rates: dict[str, float]
    bandwidth: float
    config: str = ""


def _tpu(bf16: float, gigabytes: float, *topologies: str) -> Chip:
    rates = {name: bf16 * 1e12 / passes for name, passes in PASSES.items()}
    return Chip("tpu", dict(zip((4, 8), topologies, strict=True)), rates, gigabytes * 1e9)


def _gpu(tf32: float, f32: float, terabytes: float, name: str, **facts: Any) -> Chip:
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "shared_memory_per_block": 48 << 10,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "memory_bandwidth": round(terabytes * 1e12),
        "device_memory_size": 79 << 30,
        "dnn_version": "9.10.0",
        "runtime_version": "12.8.0",
        "driver_version": "12.8.0",
        "compile_time_toolkit_version": "12.8.0",
        "name": name,
    } | facts
    config = {
        "gpu_device_info": device,
        "platform_name": "CUDA",
        "dnn_version_info": {"major": 9, "minor": 10, "patch": 0},
        "device_description_str": name,
    }
    rates = {"tf32": tf32 * 1e12, "f32": f32 * 1e12}
    return Chip("cuda", {1: "1x1x1", 4: "1x1x4", 8: "1x1x8"}, rates, terabytes * 1e12, _as_text(config))


def _as_text(message: dict[str, Any]) -> str:
    """A protocol buffer as text; of a name written in capitals alone, a value of an enumeration."""
    lines = []
    for key, value in message.items():
        if isinstance(value, dict):
            lines.append(f"{key} {{ {_as_text(value)} }}")
        else:
            quoted = isinstance(value, str) and key != "feature_extension"
            lines.append(f'{key}: "{value}"' if quoted else f"{key}: {value}")
    return " ".join(lines)


CHIPS = {
    "H100": _gpu(
        494.7,
        66.9,
        3.35,
        "NVIDIA H100 80GB HBM3",
        cuda_compute_capability={"major": 9, "minor": 0, "feature_extension": "ACCELERATED_FEATURES"},
        core_count=132,
        fpus_per_core=128,
        clock_rate_ghz=1.98,
        l2_cache_size=50 << 20,
        shared_memory_per_core=228 << 10,
        shared_memory_per_block_optin=227 << 10,
    ),
    "v5e": _tpu(197, 819, "v5e:2x2", "v5e:2x4"),
    "A100": _gpu(
        156,
        19.5,
        2.039,
        "NVIDIA A100-SXM4-80GB",
        cuda_compute_capability={"major": 8, "minor": 0},
        core_count=108,
        fpus_per_core=64,
        clock_rate_ghz=1.41,
        l2_cache_size=40 << 20,
        shared_memory_per_core=164 << 10,
        shared_memory_per_block_optin=163 << 10,
    ),
    "v6e": _tpu(918, 1640, "v6e:2x2", "v6e:2x4"),
    "v5p": _tpu(459, 2765, "v5p:2x2x1", "v5p:2x2x2"),
    "v4": _tpu(275, 1200, "v4:2x2x1", "v4:2x2x2"),
}


def devices_of(name: str, count: int) -> list[jax.Device]:
    """That many devices of a chip, for `parallel.Step.lower`.

    Raises:
      UserError: the compiler for it is not installed.
    """
    # Otherwise libtpu asks a server of Google's what machine this is.
    for variable, value in {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}.items():
        os.environ.setdefault(variable, value)
    chip = CHIPS[name]
    topology = chip.topologies[min(size for size in chip.topologies if size >= count)]
    try:
        if chip.platform == "tpu":
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        else:
            found = topologies.get_topology_desc(
                platform="cuda", target_config=chip.config, topology=topology
            )
    except (RuntimeError, ImportError, NotImplementedError, ValueError) as error:
        raise UserError(
            f'{name}: no compiler for it ({error}), expected the extra aot: pip install ".[aot]"'
        ) from error
    return list(found.devices)[:count]
