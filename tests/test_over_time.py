"""The curves of sharpness against dense matrices in float64, and what is left out where it is not wanted."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import cast, conv_net, dense_fisher, make_log_prob_fn

from fip_jax.config import default_config
from fip_jax.data.split import Split, spread
from fip_jax.over_time import OverTime, account, at_most, seconds
from fip_jax.suspect import Suspect
from fip_jax.workdir import MetricsLog, Workdir


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(network, test images, workdir): seven images, of which the curves see the first, the fourth and the last."""
    network, params, model_state, _ = conv_net(dtype=np.float32)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (7, 6, 6, 3), dtype=np.uint8)
    test = Split(images, rng.integers(0, 3, 7).astype(np.int32))
    return Suspect(network, params, model_state, {}), test, Workdir(tmp_path_factory.mktemp("run"), {})


def over_time(case, **options):
    config = default_config()
    config.smoothness.chunk_size = 1
    config.smoothness.over_time.update({"num_images": 3, "hessian_steps": 25, **options})
    return OverTime(config, *case)


@pytest.fixture(scope="module")
def converged(case):
    return over_time(case)


@pytest.fixture(scope="module")
def dense(case):
    """(eigenvalues of the Fisher matrix, of the Hessian), in float64 over the three images."""
    suspect, test, _ = case
    with jax.enable_x64(True):
        params, model_state = cast((suspect.params, suspect.model_state), np.float64)
        images = jnp.asarray(test.images[[0, 3, 6]], np.float64) / 255
        batch = {"image": images, "label": jnp.asarray(test.labels[[0, 3, 6]])}
        one = make_log_prob_fn(suspect.network)
        flat, unravel = ravel_pytree(params)

        def loss(theta):
            return -jax.vmap(lambda example: one(unravel(theta), model_state, example))(batch).mean()

        hessian = np.linalg.eigvalsh(jax.jit(jax.hessian(loss))(flat))
        fisher = dense_fisher(lambda p, example: one(p, model_state, example), params, batch)
        return np.linalg.eigvalsh(fisher), hessian


def test_sharpness_is_that_of_the_dense_matrices(case, converged, dense):
    found, (fisher, hessian) = converged(case[0]), dense
    np.testing.assert_allclose(found["lambda_max_fisher"], fisher[-1], rtol=1e-4)
    np.testing.assert_allclose(found["trace_fisher"], fisher.sum(), rtol=1e-4)
    np.testing.assert_allclose(found["lambda_max_hessian"], hessian[-1], rtol=1e-4)
    assert found["lambda_max_hessian_converged"]


def test_what_has_not_converged_says_so_and_by_how_much(case, dense):
    found, (_, hessian) = over_time(case, hessian_steps=1)(case[0]), dense
    # One step is the quotient at the start, which is below the top but no further from an eigenvalue than its residual.
    assert found["lambda_max_hessian_converged"] is False
    assert found["lambda_max_hessian"] < 0.99 * hessian[-1]
    nearest = np.abs(hessian - found["lambda_max_hessian"]).min()
    assert nearest <= found["lambda_max_hessian_residual"] * (1 + 1e-3)


def test_what_is_not_finite_is_null(case, converged):
    spoilt = case[0]._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, case[0].params))
    found = converged(spoilt)
    assert found.pop("lambda_max_hessian_converged") is False
    assert set(found.values()) == {None}
    json.dumps(found, allow_nan=False)


def test_parts_that_are_not_wanted_are_left_out(case):
    assert set(over_time(case, hessian_steps=0)(case[0])) == {"lambda_max_fisher", "trace_fisher"}
    assert over_time(case, num_images=0)(case[0]) == {}


@pytest.mark.parametrize(
    "points, num_steps, every, expected",
    [
        (11, 200, 20, list(range(0, 201, 20))),  # there are eleven rows
        (3, 200, 20, [0, 100, 200]),
        (3, 190, 20, [0, 100, 190]),  # the last row is an odd one
        (4, 200, 20, [0, 80, 160, 200]),  # ten intervals in three are four each
        (2, 200, 20, [0, 200]),
        (9, 10, 20, [0, 10]),  # shorter than an interval
    ],
)
def test_few_of_many_rows(points, num_steps, every, expected):
    due = at_most(points, num_steps, every)
    rows = [*range(0, num_steps, every), num_steps]
    assert [step for step in rows if due(step)] == expected
    assert len(expected) <= points


@pytest.mark.parametrize("total, count, expected", [(7, 3, [0, 3, 6]), (3, 9, [0, 1, 2]), (9, 1, [0])])
def test_images_at_equal_distances(total, count, expected):
    assert spread(total, count).tolist() == expected


def test_the_account_counts_measurements_and_seconds_over_all_starts(tmp_path):
    workdir = Workdir(tmp_path, {})
    workdir.begin()
    assert account(workdir) == {}
    assert set(seconds(workdir)) == {"total", "compile"}
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append("victim", 0, trace_fisher=1.0, lambda_max_hessian_converged=False)
    log.append("victim", 5, acc=0.5)
    log.append("purify", 0, trace_fisher=None)
    log.append("clb", 0, acc=0.5)
    assert account(workdir) == {"points": 2, "not_converged": 1}
    workdir.spend("over_time", 0.5)
    workdir.save()
    workdir.close()
    again = Workdir(tmp_path, {})
    again.begin()
    again.spend("over_time", 0.25)
    found = seconds(again)
    again.close()
    assert found["over_time"] == 0.75
    assert found["over_time_share"] == 0.75 / found["total"]
