"""Sharpness on the way: what is measured of it while a victim is trained and while a network is purified.

For the curves alone: nothing that is measured here changes what the run computes. Every number is a function of the
network at that step, with no memory of the ones before, so that a run that was killed ends with the same curves.

Over a few images the whole spectrum of the Fisher matrix is exact and costs one gradient an image. Its top eigenvector
is where the Hessian's search begins: close to a minimum the large eigenvalues of the two lie in nearly the same
directions, and a few steps of Lanczos do for many of power iteration.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fip_jax import spectrum
from fip_jax.analysis import finite
from fip_jax.data.batches import to_device, to_unit
from fip_jax.data.split import Split
from fip_jax.phase import Row
from fip_jax.purify import State
from fip_jax.smoothness import FisherSpectrum, Smoothness
from fip_jax.suspect import Suspect
from fip_jax.timing import Lap
from fip_jax.workdir import MetricsLog, Workdir

PHASES = ("victim", "purify")
_PART = "over_time"  # of the run's seconds


class OverTime:
    """Columns of sharpness for the rows of `metrics.jsonl`.

    Args:
      config: the run's.
      network: gives the kind.
      test: test images, of which `smoothness.over_time.num_images` are used.
      workdir: keeps the seconds that this takes.
    """

    def __init__(self, config: ConfigDict, network: Suspect, test: Split, workdir: Workdir):
        self._options, self._tolerance = config.smoothness.over_time, config.smoothness.tolerance
        self._key = jax.random.fold_in(jax.random.key(config.seed), 31)
        self._workdir = workdir
        if self._options.num_images:
            few = test.spread(self._options.num_images)
            data = to_device(few.images, few.labels)
            batch = data | {"image": to_unit(data["image"])}
            self._smoothness = Smoothness(network.network, batch, config.smoothness.chunk_size)

    def __call__(self, state: State | Suspect) -> Row:
        """Top eigenvalue and trace of the Fisher matrix, top eigenvalue of the Hessian with residual and convergence.

        None for what is not finite; nothing at all where `num_images` is 0.
        """
        if not self._options.num_images:
            return {}
        lap = Lap()
        row = self._measure(state)
        self._workdir.spend(_PART, lap.read()["total"])
        return row

    def _measure(self, state: State | Suspect) -> Row:
        found: FisherSpectrum | None
        try:
            found = self._smoothness.fisher_spectrum(state.params, state.model_state)
        except FloatingPointError:
            found = None
        row: Row = {
            "lambda_max_fisher": found and finite(found.values[-1]),
            "trace_fisher": found and finite(found.values.sum()),
        }
        return row | self._hessian(state, found) if self._options.hessian_steps else row

    def _hessian(self, state: State | Suspect, found: FisherSpectrum | None) -> Row:
        value, residual, converged = None, None, False
        if found is not None:
            known = found.values[-1] > 0
            start = found.vector if known else spectrum.probes(state.params, self._key, 1)[0]

            def product(vector: Any) -> Any:
                return self._smoothness.product(state.params, state.model_state, vector, "hessian")

            tridiagonal = spectrum.lanczos(product, start, self._options.hessian_steps)
            if np.isfinite(tridiagonal).all():
                nodes, _, residuals = tridiagonal.quadrature()
                value, residual = float(nodes[-1]), float(residuals[-1])
                converged = residual <= self._tolerance * float(np.abs(nodes).max())
        return {
            "lambda_max_hessian": value,
            "lambda_max_hessian_residual": residual,
            "lambda_max_hessian_converged": converged,
        }


def at_most(points: int, num_steps: int, every: int) -> Callable[[int], bool]:
    """Which of the rows at 0, `every`, ... and `num_steps` are among `points` at equal distances, first and last too.

    Returns:
      A function of the number of steps taken.
    """
    stride = every * math.ceil(math.ceil(num_steps / every) / (points - 1))
    return lambda step: step % stride == 0 or step == num_steps


def account(workdir: Workdir) -> dict[str, Any]:
    """`{"points": measurements, "not_converged": those without convergence}`; empty where nothing was measured."""
    log = MetricsLog(workdir.path / "metrics.jsonl")
    rows = [row for phase in PHASES for row in log.rows(phase) if "trace_fisher" in row]
    if not rows:
        return {}
    return {
        "points": len(rows),
        "not_converged": sum(row.get("lambda_max_hessian_converged") is False for row in rows),
    }


def seconds(workdir: Workdir) -> dict[str, float]:
    """The run's seconds so far, with those of these measurements (with compiling) and their share of it.

    Only the run's, where nothing was measured.
    """
    run = workdir.seconds()
    spent = workdir.spent(_PART)
    return run | ({"over_time": spent, "over_time_share": spent / run["total"]} if spent else {})
