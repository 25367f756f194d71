"""How programs are compiled, and where they are kept from one run to the next."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax

# What XLA's CPU backend hands to YNNPACK: products and sums, not convolutions, of which YNNPACK cuts those of few
# channels into too few pieces for the cores. Eigen's take half the time on two.
YNNPACK = (
    "xla_cpu_experimental_ynn_fusion_type",
    "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
)
# What compiles faster on a CPU; XLA of jaxlib 0.11 and later has no other emitters.
LITTLE_EFFORT: dict[str, bool | int] = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_fusion_emitters": False,
}
READ_FLAGS = "from jaxlib import xla_client as x; x.CompileOptions().executable_build_options.debug_options"


def set_up() -> None:
    """What a program asks of JAX, to be called before it computes anything: `keep` and `spread_convolutions`."""
    spread_convolutions()
    keep()


def with_little_effort(platform: str) -> dict[str, bool | int] | None:
    """Options of `jax.jit` for a program that runs a few times: on a CPU it is compiled faster, and slower itself.

    `platform` is the one that it is compiled for, "cpu" or another.
    """
    if platform != "cpu":
        return None
    return {name: value for name, value in LITTLE_EFFORT.items() if is_option(name, value)}


@functools.cache
def is_option(name: str, value: bool | int) -> bool:
    """Whether the installed XLA compiles with an option of `jax.jit`; asked with a program of nothing, in 20 ms."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error):
            return False
        raise
    return True


@functools.cache
def is_flag(flag: str) -> bool:
    """Whether the installed XLA takes `--NAME=VALUE` in XLA_FLAGS.

    XLA ends the process for a flag that it does not know. So another process reads this one, in a quarter of a second:
    to look for its name in the library would be no faster, and finds names that XLA has given up.
    """
    command = [sys.executable, "-c", READ_FLAGS]
    return not subprocess.run(command, env=os.environ | {"XLA_FLAGS": flag}, capture_output=True).returncode


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
    flags, flag = os.environ.get("XLA_FLAGS", ""), f"--{'='.join(YNNPACK)}"
    if YNNPACK[0] not in flags and is_flag(flag):
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
