"""Every test runs on eight virtual CPU devices, with strict dtype and rank promotion."""

import gc
import os
import tempfile

# Workers and programs that tests start inherit all of this.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_PLATFORMS"] = "cpu"
    # What one test has compiled, no other compiles again.
    COMPILED = tempfile.TemporaryDirectory(prefix="fip_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

    from fip_jax.compiled import is_flag

    faster = "--xla_cpu_use_fusion_emitters=false"
    flags = (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # most of the time goes into compiling
        *([faster] if is_flag(faster) else []),
    )
    os.environ["XLA_FLAGS"] = " ".join(flags)

import jax
import pytest
from small_runs import prepare_small_signs

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with `rendered_signs` of 516 + 86 images, for runs and not to be written to."""
    path = tmp_path_factory.mktemp("data")
    prepare_small_signs(path)
    return path


@pytest.fixture
def x64():
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def kept():
    """What jax keeps of traces is no garbage; to look through it again and again takes a tenth of the time."""
    yield
    gc.collect()
    gc.freeze()
