"""The loss around a network, along given directions."""

import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from fip_jax.per_example import PyTree


def along(
    loss: Callable[[PyTree], float],
    params: PyTree,
    directions: Sequence[PyTree],
    distances: ArrayLike,
    on_value: Callable[[int], None] | None = None,
) -> np.ndarray:
    r"""Values of :math:`L(\theta + \sum_i a_i d_i)` for all combinations of distances.

    Args:
      loss: of parameters, scalar.
      params: theta.
      directions: one or more pytrees like `params`; unit vectors, if the distances are to be Euclidean ones.
      distances: `[m]`, values of every a_i.
      on_value: called with the number of values found.

    Returns:
      float64 `[m] * len(directions)`; not finite where the loss is not.
    """
    distances = np.asarray(distances)
    values = np.empty((len(distances),) * len(directions))
    places = itertools.product(range(len(distances)), repeat=len(directions))
    for count, place in enumerate(places, 1):
        moved = params
        for index, direction in zip(place, directions, strict=True):
            step = float(distances[index])
            moved = jax.tree.map(lambda p, d, step=step: p + step * d, moved, direction)
        values[place] = loss(moved)
        if on_value is not None:
            on_value(count)
    return values
