"""The loss along directions, against a loss that can be worked out by hand."""

import jax.numpy as jnp
import numpy as np

from fip_jax.landscape import along

# (3 x^2 + y^2) / 2 at (1, 2), a parameter in a leaf of its own.
PARAMS = {"x": jnp.asarray([1.0]), "y": jnp.asarray([2.0])}
X = {"x": jnp.asarray([1.0]), "y": jnp.asarray([0.0])}
BOTH = {"x": jnp.asarray([0.5]), "y": jnp.asarray([-1.0])}


def loss(params):
    return float((3 * params["x"] ** 2 + params["y"] ** 2)[0] / 2)


def test_a_line_by_hand():
    # x is 0, 1 and 3: (0 + 4) / 2, (3 + 4) / 2, (27 + 4) / 2.
    found = along(loss, PARAMS, [X], [-1.0, 0.0, 2.0])
    assert found.dtype == np.float64
    assert found.tolist() == [2.0, 3.5, 15.5]


def test_a_plane_by_hand_and_which_axis_is_which():
    # Rows move along x by 0 and 1, columns along (0.5, -1): the points (1, 2), (1.5, 1), (2, 2) and (2.5, 1).
    plane = along(loss, PARAMS, [X, BOTH], [0.0, 1.0])
    assert plane.tolist() == [[3.5, (3 * 1.5**2 + 1) / 2], [8.0, (3 * 2.5**2 + 1) / 2]]


def test_values_that_are_not_finite_are_kept_and_every_value_is_counted():
    counts = []
    found = along(
        lambda params: 1 / loss(params) if loss(params) > 3 else np.inf,
        PARAMS,
        [X],
        [-1.0, 0.0],
        counts.append,
    )
    assert found.tolist() == [np.inf, 1 / 3.5]
    assert counts == [1, 2]
