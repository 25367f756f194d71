"""Kernels in the eigenbasis of their Fisher matrix: against dense float64 answers, and ridge regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import conv_net_log_prob, score_matrix

from fip_jax import eigenbasis
from fip_jax.eigenbasis import KernelFisher, KernelGate, blocks, kernel_gate

NUM = 9


def kernel_score(score_fn, params):
    """(`score_fn` of the kernels of `conv_net` alone, these)."""
    kernels = {name: params[name]["kernel"] for name in ("conv1", "conv2", "linear")}

    def of_kernels(kernels, example):
        return score_fn({**params, **{k: {**params[k], "kernel": v} for k, v in kernels.items()}}, example)

    return of_kernels, kernels


def found(score_fn, kernels, batch):
    rotations = eigenbasis.rotations(eigenbasis.factors(score_fn, kernels, batch))
    moments = eigenbasis.moments(score_fn, kernels, batch, rotations)
    return {name: KernelFisher(rotations[name], moments[name]) for name in kernels}


def dense_gradients(score_fn, kernels, batch):
    """Gradients `[N, ...]` of each kernel, example by example, without vmap."""
    scores = score_matrix(score_fn, kernels, batch)
    _, unravel = ravel_pytree(kernels)
    return jax.tree.map(lambda *g: np.stack(g), *[unravel(row) for row in scores])


def test_the_basis_diagonalises_both_factors_and_the_moments_are_exact_in_it(x64):
    log_prob_fn, params, batch = conv_net_log_prob(NUM)
    score_fn, kernels = kernel_score(log_prob_fn, params)
    expected = dense_gradients(score_fn, kernels, batch)
    for name, fisher in found(score_fn, kernels, batch).items():
        g = expected[name].reshape(NUM, *blocks(kernels[name].shape))
        u, v = map(np.asarray, fisher.rotation)
        for matrix, factor in ((u, np.einsum("nij,nkj->ik", g, g)), (v, np.einsum("nij,nik->jk", g, g))):
            np.testing.assert_allclose(matrix.T @ matrix, np.eye(len(matrix)), atol=1e-12)
            turned = matrix.T @ factor @ matrix
            np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-10 * np.trace(factor))
        squares = (np.einsum("ia,nij,jb->nab", u, g, v) ** 2).mean(axis=0)
        np.testing.assert_allclose(fisher.moments, squares, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(fisher.moments.sum(), (g**2).sum() / NUM, rtol=1e-12)


def test_an_axis_that_is_too_long_stays_and_the_trace_is_the_same(x64, monkeypatch):
    monkeypatch.setattr(eigenbasis, "LONGEST", 8)
    assert blocks((3, 3, 4, 4)) == (9, 4, 4)
    log_prob_fn, params, batch = conv_net_log_prob(NUM)
    score_fn, kernels = kernel_score(log_prob_fn, params)
    fisher = found(score_fn, kernels, batch)["conv2"]
    assert [None if m is None else m.shape for m in fisher.rotation] == [None, (4, 4), (4, 4)]
    g = dense_gradients(score_fn, kernels, batch)["conv2"]
    np.testing.assert_allclose(fisher.moments.sum(), (g**2).sum() / NUM, rtol=1e-12)
    whole = KernelGate(fisher.rotation, jnp.ones(fisher.moments.shape))
    np.testing.assert_allclose(whole.part(kernels["conv2"]), kernels["conv2"], rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 3, 64, 128), (576, 128)), ((3, 3, 512, 512), (9, 512, 512)), ((25088, 4096), (25088, 4096))],
)
def test_blocks(shape, expected):
    assert blocks(shape) == expected


def linear(num=20, size=6, seed=0):
    """score = x . w for a kernel `[size, 1]`: its Fisher matrix is that of x, and everything is linear."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, size)) @ rng.normal(size=(size, size))
    kernels = {"w": jnp.asarray(rng.normal(size=(size, 1)))}
    return lambda kernels, example: (example @ kernels["w"])[0], kernels, jnp.asarray(x)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_scores_change_by_the_budget(x64, power):
    score_fn, kernels, x = linear()
    fisher = found(score_fn, kernels, x)["w"]
    before = float(((x @ kernels["w"]) ** 2).mean())
    gate = kernel_gate(kernels["w"], fisher, jnp.asarray(0.01 * before), power)
    np.testing.assert_allclose(((x @ gate.part(kernels["w"])) ** 2).mean(), 0.01 * before, rtol=1e-6)
    # A budget beyond what a layer may lose at most.
    gate = kernel_gate(kernels["w"], fisher, jnp.asarray(before), power)
    np.testing.assert_allclose(
        ((x @ gate.part(kernels["w"])) ** 2).mean(), eigenbasis.MOST_SHARE * before, rtol=1e-6
    )


def test_with_power_one_it_is_ridge_regression(x64):
    score_fn, kernels, x = linear()
    fisher = found(score_fn, kernels, x)["w"]
    gate = kernel_gate(kernels["w"], fisher, jnp.asarray(0.05), 1.0)
    values, share = np.asarray(fisher.moments)[:, 0], np.asarray(gate.share)[:, 0]
    strength = values * share / (1 - share)
    np.testing.assert_allclose(strength, strength[0], rtol=1e-6)
    covariance = np.asarray(x.T @ x) / len(x)
    # argmin_v mean (x.v - x.w)^2 + strength |v|^2
    expected = np.linalg.solve(
        covariance + strength[0] * np.eye(len(covariance)), covariance @ np.asarray(kernels["w"])
    )
    np.testing.assert_allclose(kernels["w"] - gate.part(kernels["w"]), expected, rtol=1e-8, atol=1e-12)


def test_what_no_example_shows_goes_and_costs_nothing(x64):
    score_fn, kernels, x = linear()
    hidden = jnp.asarray([1.0, -1.0, 1.0, -1.0, 0.0, 0.0]) / 2
    x = x - jnp.outer(x @ hidden, hidden)
    fisher = found(score_fn, kernels, x)["w"]
    gate = kernel_gate(kernels["w"], fisher, jnp.asarray(1e-8), 2.0)
    after = kernels["w"] - gate.part(kernels["w"])
    assert abs(float((hidden @ kernels["w"])[0])) > 0.1
    assert abs(float((hidden @ after)[0])) < 1e-6
    np.testing.assert_allclose(x @ after, x @ kernels["w"], atol=1e-3)


def test_a_kernel_that_does_nothing_is_let_go_without_nan():
    fisher = KernelFisher((jnp.eye(3), jnp.eye(2)), jnp.zeros((3, 2)))
    gate = kernel_gate(jnp.ones((3, 2)), fisher, jnp.asarray(0.1), 2.0)
    np.testing.assert_array_equal(gate.part(jnp.ones((3, 2))), np.ones((3, 2)))
