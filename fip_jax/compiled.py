"""How programs are compiled, and where they are kept from one run to the next."""

import os
from pathlib import Path

import jax
import jaxlib

# What XLA's CPU backend hands to YNNPACK: products and sums, not convolutions, of which YNNPACK cuts those of few
# channels into too few pieces for the cores. Eigen's take half the time on two.
YNNPACK = (
    "xla_cpu_experimental_ynn_fusion_type",
    "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
)
# An unknown flag ends the process, and this is an experimental one: only where it is known to be.
TRIED_WITH = ("0.10.",)


def set_up() -> None:
    """What a program asks of JAX, to be called before it computes anything: `keep` and `spread_convolutions`."""
    spread_convolutions()
    keep()


def with_little_effort() -> dict[str, bool | int] | None:
    """Options of `jax.jit` for a program that runs a few times: on a CPU it is compiled faster, and slower itself."""
    if jax.default_backend() != "cpu" or not jaxlib.__version__.startswith(TRIED_WITH):
        return None
    return {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


def keep() -> None:
    """Keeps compiled programs in `~/.cache/fip_jax/compiled`, or where JAX_COMPILATION_CACHE_DIR says."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "fip_jax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def spread_convolutions() -> None:
    """Has XLA's CPU backend spread convolutions over all cores, unless XLA_FLAGS says something about it already.

    XLA reads its flags once, when the first program is compiled.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith(TRIED_WITH) and YNNPACK[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{'='.join(YNNPACK)}".strip()
