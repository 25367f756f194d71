"""Compiled programs, kept on the disk from one run to the next."""

import os
from pathlib import Path

import jax


def keep() -> None:
    """Keeps them in `~/.cache/fip_jax/compiled`, or where JAX_COMPILATION_CACHE_DIR says."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "fip_jax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
