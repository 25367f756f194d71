"""What is measured of a network's smoothness: a little in every run, all that can be had in the mode "inspect"."""

import math
from functools import partial
from typing import Any, get_args

import jax
import numpy as np
from ml_collections import ConfigDict

from fip_jax import landscape
from fip_jax.data.batches import to_device, to_unit
from fip_jax.data.split import Split
from fip_jax.eigen import EigenPairs
from fip_jax.errors import UserError
from fip_jax.network import RelativeNetwork
from fip_jax.parallel import axis_of
from fip_jax.progress import Task, console
from fip_jax.purify import State
from fip_jax.smoothness import Matrix, Smoothness
from fip_jax.suspect import Suspect
from fip_jax.workdir import Workdir


class Analysis:
    """Measures networks of one kind over the same test images.

    Test images, because a network's gradients vanish on images that it was trained on: over the clean ones every
    quantity would fall in any fine-tuning.

    Args:
      config: the run's.
      network: gives the kind.
      test: test images, of which `smoothness.num_images` are used, spread evenly.
    """

    def __init__(self, config: ConfigDict, network: Suspect, test: Split):
        self._config = config.smoothness
        self._key = jax.random.fold_in(jax.random.key(config.seed), 30)
        some = test.spread(self._config.num_images)
        data = to_device(some.images, some.labels)
        batch = data | {"image": to_unit(data["image"])}
        self._smoothness, self._relative = (
            Smoothness(kind, batch, self._config.chunk_size, axis_of(config))
            for kind in (network.network, RelativeNetwork(network.network))
        )

    def brief(self, network: Suspect | State) -> dict[str, Any]:
        """Top eigenvalue and trace of the Fisher matrix, and the trace in relative changes of the weights.

        Null what is not finite.
        """
        found, _ = self._top(network, "fisher", 1)
        weights = network.params, network.model_state
        return found | {
            "trace_fisher": finite(self._smoothness.trace(*weights)),
            "trace_fisher_relative": finite(self._relative.trace(*RelativeNetwork.at(*weights))),
        }

    def whole(self, network: Suspect, workdir: Workdir) -> dict[str, Any]:
        """Fisher matrix and Hessian: `num_pairs` eigenvalues, traces, spectral densities, and slices of the loss.

        Each part is kept in the workdir as soon as it is there.
        """
        found = workdir.once("smoothness", lambda: self.brief(network))
        for matrix in get_args(Matrix):
            console.print(f"spectrum of the {matrix}" + (" matrix" if matrix == "fisher" else ""))
            found[matrix] = {
                **workdir.once(f"top_{matrix}", partial(self._pairs_and_slices, network, matrix)),
                "density": workdir.once(f"density_{matrix}", partial(self._density, network, matrix)),
            }
        return found

    def _top(
        self, network: Suspect | State, matrix: Matrix, num_pairs: int
    ) -> tuple[dict[str, Any], EigenPairs]:
        with Task(f"top eigenvalue, {matrix}", self._config.max_iterations, brief=True) as task:
            top = self._smoothness.top_eigenvalues(
                network.params,
                network.model_state,
                self._key,
                matrix,
                num_pairs=num_pairs,
                tolerance=self._config.tolerance,
                max_iterations=self._config.max_iterations,
                on_iteration=task.update,
            )
        return {
            f"lambda_max_{matrix}": finite(top.values[0]),
            "lambda_max_residual": finite(top.residuals[0]),
            "lambda_max_iterations": top.num_iterations,
            "lambda_max_converged": top.converged,
        }, top

    def _pairs_and_slices(self, network: Suspect, matrix: Matrix) -> dict[str, Any]:
        _, top = self._top(network, matrix, max(2, self._config.num_pairs))
        first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], top.vectors) for i in (0, 1))
        reach = self._config.slice_reach

        line = np.linspace(-reach, reach, 2 * self._config.slice_points + 1)
        square = np.linspace(-reach, reach, self._config.slice_points)

        def losses(directions, distances):
            count = len(distances) ** len(directions)
            with Task(f"loss along top eigenvectors, {matrix}", count, brief=True) as task:
                return _listed(
                    landscape.along(
                        lambda params: self._smoothness.loss(params, network.model_state),
                        network.params,
                        directions,
                        distances,
                        task.update,
                    )
                )

        return {
            "eigenvalues": list(map(finite, top.values)),
            "residuals": list(map(finite, top.residuals)),
            "iterations": top.num_iterations,
            "converged": top.converged,
            "line": {
                "distances": line.tolist(),
                "loss": losses([first], line),
            },
            "square": {
                "distances": square.tolist(),
                "loss": losses([first, second], square),
            },
        }

    def _density(self, network: Suspect, matrix: Matrix) -> dict[str, Any]:
        steps, probes = self._config.density_steps, self._config.density_probes
        with Task(f"spectral density, {matrix}", steps * probes, brief=True) as task:
            try:
                density = self._smoothness.density(
                    network.params,
                    network.model_state,
                    jax.random.fold_in(self._key, 1),
                    matrix,
                    num_steps=steps,
                    num_probes=probes,
                    on_step=task.update,
                )
            except FloatingPointError as error:
                raise UserError(
                    f"victim.checkpoint: found a network whose {matrix} matrix is not finite, expected weights of "
                    "usual size, or mode=purify"
                ) from error
        trace = density.trace()
        return {
            "nodes": density.nodes.tolist(),
            "weights": density.weights.tolist(),
            "size": density.size,
            "trace": finite(trace.value),
            "trace_standard_error": finite(trace.standard_error),
        }


def finite(value: Any) -> float | None:
    """A float for JSON, which has no infinities."""
    return float(value) if math.isfinite(value) else None


def _listed(values: np.ndarray) -> list[Any]:
    return [_listed(part) if part.ndim else finite(part) for part in values]
