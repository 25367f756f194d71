"""The convolution by patches against XLA's own."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_trees_close

from fip_jax.convolution import (
    convolve_by_patches,
    convolve_in_three_ways,
    for_batches,
    for_per_example_gradients,
)

OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
PADDINGS = ["SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0))]
CASES = [
    *itertools.product([(3, 3)], [(1, 1), (2, 2)], PADDINGS),
    ((1, 1), (1, 1), "SAME"),
    ((1, 1), (2, 2), ((0, 0), (0, 0))),
    ((2, 3), (2, 1), "SAME"),
    ((3, 2), (1, 3), ((2, 1), (0, 3))),
]


def arrays(height, width, kernel):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(2, height, width, 3))),
        jnp.asarray(rng.normal(size=(*kernel, 3, 4))),
    )


def test_one_patch_by_hand():
    # [[1, 2], [3, 4]] under [[1, 10], [100, 1000]]: 1 + 20 + 300 + 4000.
    image = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    kernel = jnp.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1)
    assert convolve_by_patches(image, kernel, (1, 1), "VALID", **OPTIONS).item() == 4321


@pytest.mark.parametrize("kernel, strides, padding", CASES)
def test_values_and_gradients_equal_xla(x64, kernel, strides, padding):
    inputs, weights = arrays(7, 6, kernel)

    def both(convolve):
        def weighted(inputs, weights):
            out = convolve(inputs, weights, strides, padding, **OPTIONS)
            return (jnp.sin(out) * jnp.arange(out.size).reshape(out.shape).astype(out.dtype)).sum(), out

        gradients, out = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(inputs, weights)
        return out, gradients

    # 27 products each; the weights of the gradients reach 300.
    assert_trees_close(both(convolve_by_patches), both(jax.lax.conv_general_dilated), 1e-12, 1e-11)


@pytest.mark.parametrize("kernel, strides, padding", CASES)
def test_gradients_of_gradients_equal_xla(x64, kernel, strides, padding):
    inputs, weights = arrays(7, 6, kernel)

    def twice(convolve):
        def weighted(inputs, weights):
            out = convolve(inputs, weights, strides, padding, **OPTIONS)
            return jnp.sin(out / 10).sum()

        def size_of_gradients(inputs, weights):
            return sum((g**2).sum() for g in jax.grad(weighted, argnums=(0, 1))(inputs, weights))

        return jax.jit(jax.value_and_grad(size_of_gradients, argnums=(0, 1)))(inputs, weights)

    assert_trees_close(twice(convolve_in_three_ways), twice(jax.lax.conv_general_dilated), 1e-10, 1e-10)


@pytest.mark.parametrize("rows, steps", [(1, 6), (60, 3), (110, 2), (10_000, 1)])
def test_kernel_gradients_by_parts_of_the_batch(x64, monkeypatch, rows, steps):
    # 6 images of 6 x 5 places each: 1, 2, 3 or all at once.
    rng = np.random.default_rng(0)
    inputs, weights = jnp.asarray(rng.normal(size=(6, 6, 5, 3))), jnp.asarray(rng.normal(size=(3, 3, 3, 4)))
    monkeypatch.setattr("fip_jax.convolution.ROWS_AT_ONCE", rows)

    def gradient(convolve):
        return jax.grad(lambda w: jnp.sin(convolve(inputs, w, (1, 1), "SAME", **OPTIONS)).sum())

    assert_trees_close(
        gradient(convolve_in_three_ways)(weights),
        gradient(jax.lax.conv_general_dilated)(weights),
        1e-12,
        1e-12,
    )
    assert f"length={steps}" in str(jax.make_jaxpr(gradient(convolve_in_three_ways))(weights))


def test_all_derivatives_are_kernels_in_three_layouts():
    inputs, weights = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5))

    def layouts(convolve):
        def loss(inputs, weights):
            return (convolve(inputs, weights, (1, 1), "SAME", **OPTIONS) ** 2).sum()

        def size_of_gradient(inputs, weights):
            return (jax.grad(loss, argnums=1)(inputs, weights) ** 2).sum()

        text = str(jax.make_jaxpr(jax.grad(size_of_gradient, argnums=(0, 1)))(inputs, weights))
        return set(re.findall(r"lhs_spec=.*?out_spec=.*?\)", text))

    assert len(layouts(convolve_in_three_ways)) == 3
    assert len(layouts(jax.lax.conv_general_dilated)) > 3  # the layouts that are slow


@pytest.mark.parametrize("size", [1, 2, 5])
def test_sizes_below_and_above_the_stride(x64, size):
    inputs, weights = arrays(size, size, (3, 3))
    for padding in ("SAME", ((1, 1), (1, 1))):
        found = convolve_by_patches(inputs, weights, (2, 2), padding, **OPTIONS)
        expected = jax.lax.conv_general_dilated(inputs, weights, (2, 2), padding, **OPTIONS)
        assert_trees_close(found, expected, 1e-12, 1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 3},
        {"rhs_dilation": (2, 2)},
        {"lhs_dilation": (2, 1)},
        {"lhs_dilation": (1, 1), "rhs_dilation": None},
    ],
    ids=["grouped", "dilated", "transposed", "neither"],
)
def test_grouped_and_dilated_convolutions(x64, options):
    inputs, _ = arrays(7, 7, (3, 3))
    channels = 1 if "feature_group_count" in options else 3
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, channels, 6)))
    found = convolve_by_patches(inputs, weights, (1, 1), ((1, 1), (1, 1)), **OPTIONS, **options)
    expected = jax.lax.conv_general_dilated(inputs, weights, (1, 1), ((1, 1), (1, 1)), **OPTIONS, **options)
    assert_trees_close(found, expected, 1e-12, 1e-12)


def test_plain_convolutions_are_matrix_products():
    inputs, weights = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 2))
    convolve = functools.partial(convolve_by_patches, strides=(1, 1), padding="SAME", **OPTIONS)
    text = str(jax.make_jaxpr(convolve)(inputs, weights))
    assert "dot_general" in text
    assert "conv_general" not in text


def test_choice_by_platform():
    assert for_per_example_gradients("cpu") is convolve_by_patches
    assert for_batches("cpu") is convolve_in_three_ways
    for platform in ("cuda", "gpu", "tpu"):
        assert for_per_example_gradients(platform) is for_batches(platform) is jax.lax.conv_general_dilated
