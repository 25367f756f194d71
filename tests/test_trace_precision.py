"""Emulated rounding of factors, and what is made of the errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import trace_precision as t


def test_factors_of_products_are_rounded_and_nothing_else():
    """1 + 2**-9 has nine bits of mantissa: ten bits hold it, seven do not."""
    x = jnp.full((1, 2), 1 + 2.0**-9)

    @jax.custom_jvp
    def inner(x):
        return jax.jit(lambda y: y @ y.T)(x)

    inner.defjvp(lambda x, dx: (inner(x[0]), inner(x[0])))
    exact = 2 * (1 + 2.0**-9) ** 2
    for bits, product in ((23, exact), (10, exact), (7, 2.0)):
        found, same = t.rounded(lambda x: (inner(x), x * 3), bits)(x)
        np.testing.assert_array_equal(found, [[product]])
        np.testing.assert_array_equal(same, x * 3)


def test_convolutions_and_gradients_are_rounded():
    x, kernel = jnp.full((1, 4, 4, 1), 1 + 2.0**-9), jnp.full((1, 1, 1, 1), 1 + 2.0**-9)

    def fn(k):
        return jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).sum()

    value, gradient = t.rounded(jax.value_and_grad(fn), 7)(kernel)
    assert (float(value), float(gradient[0, 0, 0, 0])) == (16.0, 16.0)


def test_errors_by_hand():
    exact = [(1.0, np.array([1.0, 0.0])), (3.0, np.array([1.0, 2.0]))]
    coarse = [(1.1, np.array([1.0, 0.1])), (3.0, np.array([1.0, 2.0]))]
    found = t.compare({"float32": exact, "tensorfloat32": coarse, "bfloat16": exact})
    # Mean 2, deviations of 1; mean gradient (1, 1), both 1 from it.
    assert found["noise"]["trace"] == pytest.approx(np.sqrt(2) / 2)
    assert found["noise"]["gradient"] == pytest.approx(np.sqrt(2) / np.sqrt(2))
    assert found["tensorfloat32"]["trace"] == pytest.approx(0.1 / np.sqrt(2))
    assert found["tensorfloat32"]["gradient"] == pytest.approx(0.1 / np.sqrt(2))
    assert found["tensorfloat32"]["bias"] == pytest.approx(0.05 / np.sqrt(2))
    assert found["bfloat16"] == {"trace": 0.0, "gradient": 0.0, "bias": 0.0}
    assert t.table([{"network": "a", **found}]).splitlines()[2].startswith("| `a` | 0.71 | 1 | 0.071 | 0.071")
