"""Per-example gradients against a loop of jax.grad, sums over chunks against whole sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_trees_close, mlp, take

from fip_jax.per_example import num_examples, per_example_gradients, sum_over_chunks

# A few hundred additions and products of order 1.
TOLERANCE = 100 * np.finfo(np.float64).eps


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 7, 20])
def test_gradients_equal_a_loop(x64, chunk_size):
    log_prob_fn, params, batch = mlp(num=7)
    found = per_example_gradients(log_prob_fn, params, batch, chunk_size)
    gradient = jax.jit(jax.grad(log_prob_fn))
    loop = [gradient(params, take(batch, n)) for n in range(7)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    assert_trees_close(found, expected, TOLERANCE, TOLERANCE)


def test_gradients_under_jit_keep_float32():
    log_prob_fn, params, batch = mlp(num=7, dtype=np.float32)
    found = jax.jit(lambda p, b: per_example_gradients(log_prob_fn, p, b, 3))(params, batch)
    expected = per_example_gradients(log_prob_fn, params, batch)
    eps = 100 * np.finfo(np.float32).eps
    assert_trees_close(found, expected, eps, eps)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 4, 7, 8])
def test_sum_over_chunks_of_known_sums(chunk_size):
    # 0 + ... + 6 = 21, 0 + 1 + 4 + ... + 36 = 91; the integer leaf stays an integer.
    batch = {"a": jnp.arange(7), "b": {"c": jnp.arange(14.0).reshape(7, 2)}}

    def fn(chunk):
        return {
            "sum": chunk["a"].sum(),
            "squares": (chunk["a"] ** 2).sum(),
            "columns": chunk["b"]["c"].sum(axis=0),
        }

    found = sum_over_chunks(fn, batch, chunk_size)
    assert found["sum"] == 21
    assert found["squares"] == 91
    assert found["sum"].dtype == jnp.int32
    # Columns of the even and the odd numbers below 14: 42 and 49.
    np.testing.assert_array_equal(found["columns"], [42.0, 49.0])
    assert found["columns"].dtype == jnp.float32
    jitted = jax.jit(lambda b: sum_over_chunks(fn, b, chunk_size))(batch)
    np.testing.assert_array_equal(jitted["columns"], [42.0, 49.0])


def test_sum_over_chunks_never_sees_more_than_a_chunk():
    sizes = []

    def fn(chunk):
        sizes.append(num_examples(chunk))
        return chunk.sum()

    assert sum_over_chunks(fn, jnp.arange(8.0), 3) == 28
    assert set(sizes) == {3, 2}


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_chunk_sizes_below_one_are_refused(chunk_size):
    with pytest.raises(ValueError, match="chunk_size"):
        sum_over_chunks(jnp.sum, jnp.arange(3.0), chunk_size)


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_gradients_refuse_chunk_sizes_below_one(chunk_size):
    log_prob_fn, params, batch = mlp(num=3, dtype=np.float32)
    with pytest.raises(ValueError, match="chunk_size"):
        per_example_gradients(log_prob_fn, params, batch, chunk_size)


@pytest.mark.parametrize(
    "batch",
    [{}, jnp.zeros((0, 3)), {"a": jnp.zeros(3), "b": jnp.zeros(4)}],
    ids=["no leaves", "no examples", "different lengths"],
)
def test_batches_without_one_common_length_are_refused(batch):
    with pytest.raises(ValueError, match="common length"):
        num_examples(batch)


def test_num_examples_is_the_leading_axis():
    assert num_examples({"a": jnp.zeros((4, 2)), "b": jnp.zeros(4, jnp.int32)}) == 4
