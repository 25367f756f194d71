"""How precisely GPUs and TPUs multiply float32 matrices; CPUs always do it in float32.

JAX leaves it to the platform, and then a recent GPU rounds the factors of products and convolutions to TensorFloat-32,
10 bits of mantissa. For the gradient of a loss that is enough, as the noise of a batch is larger, and for that of the
estimated trace, whose probe is noisier still (measured: docs/benchmarks.md). It is not for what is squared,
orthogonalised or written to a file.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")

# JAX's names. The second is three bfloat16 products on a TPU.
NAMES = ("float32", "tensorfloat32")


def in_float32(fn: Callable[P, R]) -> Callable[P, R]:
    """The same function, whose matrix products and convolutions are float32 on every platform.

    Of derivatives it counts where they are taken: `in_float32` of a function that differentiates, not the reverse.
    """

    @functools.wraps(fn)
    def precise(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("float32"):
            return fn(*args, **kwargs)

    return precise
