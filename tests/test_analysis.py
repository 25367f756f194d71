"""What is measured of a network, against dense matrices in float64; the mode "inspect" from its config to its files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import TinyNet, cast, conv_net, dense_fisher, make_log_prob_fn

from fip_jax import experiment
from fip_jax.analysis import Analysis, finite
from fip_jax.config import default_config
from fip_jax.data.split import Split
from fip_jax.errors import UserError
from fip_jax.models import MODELS
from fip_jax.report import html
from fip_jax.suspect import Suspect
from fip_jax.workdir import Workdir

NUM = 5


def config_for(**changes):
    config = default_config()
    config.smoothness.update(
        {"num_images": NUM, "chunk_size": NUM, "tolerance": 1e-4, "max_iterations": 200, "num_pairs": 2}
    )
    config.smoothness.update({"density_steps": 30, "density_probes": 2, "slice_points": 3, **changes})
    return config


@pytest.fixture(scope="module")
def case():
    """(network, test images): two more than are looked at, which must not count."""
    network, params, model_state, _ = conv_net(dtype=np.float32)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (NUM + 2, 6, 6, 3), dtype=np.uint8)
    return Suspect(network, params, model_state, {}), Split(
        images, rng.integers(0, 3, NUM + 2).astype(np.int32)
    )


@pytest.fixture(scope="module")
def dense(case):
    """(Fisher matrix, Hessian, mean loss) in float64."""
    suspect, test = case
    with jax.enable_x64(True):
        params, model_state = cast((suspect.params, suspect.model_state), np.float64)
        seen = np.array([0, 2, 3, 4, 6])  # 0, 1.5, 3, 4.5 and 6, rounded to even
        images = jnp.asarray(test.images[seen], np.float64) / 255
        batch = {"image": images, "label": jnp.asarray(test.labels[seen])}
        one = make_log_prob_fn(suspect.network)
        flat, unravel = ravel_pytree(params)

        def loss(theta):
            return -jax.vmap(lambda example: one(unravel(theta), model_state, example))(batch).mean()

        fisher = dense_fisher(lambda p, example: one(p, model_state, example), params, batch)
        return np.asarray(fisher), np.asarray(jax.jit(jax.hessian(loss))(flat)), float(loss(flat))


def largest(matrix, count):
    """The eigenvalues of largest magnitude."""
    values = np.linalg.eigvalsh(matrix)
    return values[np.argsort(-np.abs(values))][:count]


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    """(what was found, the workdir that it was kept in)."""
    workdir = Workdir(tmp_path_factory.mktemp("run"), {})
    workdir.begin()
    suspect, test = case
    yield Analysis(config_for(), suspect, test).whole(suspect, workdir), workdir
    workdir.close()


def test_numbers_are_those_of_the_dense_matrices(case, whole, dense):
    found, (fisher, hessian, loss) = whole[0], dense
    assert found["lambda_max_converged"]
    np.testing.assert_allclose(found["lambda_max_fisher"], largest(fisher, 1)[0], rtol=1e-3)
    np.testing.assert_allclose(found["trace_fisher"], np.trace(fisher), rtol=1e-4)
    weights = np.asarray(ravel_pytree(case[0].params)[0])
    np.testing.assert_allclose(found["trace_fisher_relative"], weights**2 @ np.diag(fisher), rtol=1e-4)
    for name, matrix in (("fisher", fisher), ("hessian", hessian)):
        part = found[name]
        assert part["converged"]
        np.testing.assert_allclose(part["eigenvalues"], largest(matrix, 2), rtol=1e-3)
        np.testing.assert_allclose(part["line"]["loss"][3], loss, rtol=1e-5)
        # In the middle of the square as well; its rows are the first eigenvector's, as is the line.
        np.testing.assert_allclose(part["square"]["loss"][1][1], loss, rtol=1e-5)
        np.testing.assert_allclose(
            np.array(part["square"]["loss"])[:, 1], np.array(part["line"]["loss"])[[0, 3, 6]], rtol=1e-5
        )
        values = np.linalg.eigvalsh(matrix)
        nodes = np.array(part["density"]["nodes"])
        np.testing.assert_allclose(nodes.max(), values[-1], rtol=1e-3)
        assert part["density"]["size"] == len(matrix)
        # Two probes: the mean of two numbers and half their distance.
        traces = len(matrix) * (nodes * np.array(part["density"]["weights"])).sum(axis=1)
        np.testing.assert_allclose(part["density"]["trace"], traces.mean())
        np.testing.assert_allclose(part["density"]["trace_standard_error"], abs(traces[0] - traces[1]) / 2)


def test_the_loss_along_the_top_eigenvector_bends_as_the_eigenvalue_says(case, dense):
    # Close by, the second difference of the loss is the eigenvalue.
    suspect, test = case
    analysis = Analysis(config_for(slice_reach=0.05, slice_points=1), suspect, test)
    part = analysis._pairs_and_slices(suspect, "hessian")
    low, here, high = part["line"]["loss"]
    np.testing.assert_allclose((low - 2 * here + high) / 0.05**2, largest(dense[1], 1)[0], rtol=0.05)


def test_what_was_found_before_is_not_found_again(case, whole):
    found, workdir = whole
    suspect, test = case
    spoilt = suspect._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, suspect.params))
    again = Workdir(workdir.path, {})
    workdir.close()
    again.begin()
    assert Analysis(config_for(), suspect, test).whole(spoilt, again) == json.loads(json.dumps(found))
    again.close()


def test_what_is_not_settled_says_so(case):
    suspect, test = case
    found = Analysis(config_for(max_iterations=1), suspect, test).brief(suspect)
    assert found["lambda_max_converged"] is False
    assert found["lambda_max_residual"] > 1e-4 * found["lambda_max_fisher"]


def test_json_has_no_infinities():
    assert [finite(value) for value in (np.float32(0.5), np.inf, -np.inf, np.nan)] == [0.5, None, None, None]


@pytest.fixture
def own_images(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 64), ("test", 16)):
        arrays |= {
            f"{split}_images": rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8),
            f"{split}_labels": np.arange(count) % 2,
        }
    np.savez(tmp_path / "own.npz", **arrays)
    return tmp_path / "own.npz"


def test_an_inspection_from_data_to_report(own_images, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX", reason="tensorboardX is optional")
    monkeypatch.setitem(MODELS, "small_vgg", TinyNet)
    config = config_for(num_images=4, chunk_size=4, max_iterations=2, density_steps=2, slice_points=2)
    config.smoothness.over_time.num_images, config.report.representations = 0, 0
    config.mode, config.dataset.name, config.dataset.image_size = "inspect", str(own_images), 8
    config.model.width, config.victim.epochs, config.clean.fraction = 2, 1, 0.1
    config.victim.batch_size, config.report.tensorboard = 16, True
    summary = experiment.run(config, tmp_path / "run")
    assert summary["mode"] == "inspect"
    assert "purified" not in summary
    assert not (tmp_path / "run" / "purified").exists()
    for matrix in ("fisher", "hessian"):
        assert len(summary["smoothness"]["before"][matrix]["eigenvalues"]) == 2
        assert np.shape(summary["smoothness"]["before"][matrix]["square"]["loss"]) == (2, 2)
    figures = {picture.title for picture in html.pictures(tmp_path / "run" / "figures")}
    assert figures == {"Spectra", "Loss along the top eigenvectors", "Examples", "Training of the victim"}
    assert (tmp_path / "run" / "tensorboard" / "victim").exists()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Inspection of a suspicious network" in page
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


def test_a_density_of_what_is_not_finite_is_refused(case):
    suspect, test = case
    broken = suspect._replace(params=jax.tree.map(lambda leaf: leaf * np.float32(np.nan), suspect.params))
    analysis = Analysis(config_for(density_steps=2), suspect, test)
    with pytest.raises(
        UserError, match=r"^victim\.checkpoint: found a network whose hessian matrix is not finite"
    ):
        analysis._density(broken, "hessian")
