"""What a GPU may round to TensorFloat-32, read from the programs: the loss and the estimated trace, nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from oracles import conv_net

from fip_jax import eigen, purify, spectral, spectrum
from fip_jax.config import check_config, default_config, defense_settings, victim_settings
from fip_jax.errors import UserError
from fip_jax.evaluate import make_predict_batch
from fip_jax.network import make_objective
from fip_jax.objective import Settings
from fip_jax.smoothness import Smoothness

TERMS = {"eta_f": 0.1, "radius": 0.1, "trace_batch_size": 4}


@pytest.fixture(scope="module")
def case():
    network, params, model_state, batch = conv_net(8, np.float32)
    return network, params, model_state, batch


def products(program):
    """How many products and convolutions a program has, by their precision."""
    found = {}

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                precision = equation.params["precision"]
                name = str(precision[0] if isinstance(precision, tuple) else precision)
                found[name] = found.get(name, 0) + 1
            for inner in core.jaxprs_in_params(equation.params):
                look(inner)

    look(program.jaxpr)
    return found


def of_a_step(case, **changes):
    network, params, model_state, batch = case
    settings = Settings(learning_rate=0.1, num_steps=2, **changes)
    objective = make_objective(network, batch_statistics=True, dropout=False)
    step = purify.make_step(objective, settings, lambda key, step, data: data)
    state = purify.init_state(settings, params, model_state, jax.random.key(0))
    program = jax.make_jaxpr(lambda *arguments: step(*arguments))(state, None, batch)
    return products(program)


@pytest.mark.parametrize("num_probes", [0, 1])
def test_estimated_trace_is_rounded_with_the_loss_and_an_exact_one_is_not(case, num_probes):
    without = of_a_step(case, **TERMS | {"eta_f": 0.0}, precision="tensorfloat32")
    found = of_a_step(case, **TERMS, num_probes=num_probes, precision="tensorfloat32")
    assert set(without) == {"HIGH"}
    if num_probes:
        assert set(found) == {"HIGH"} and found["HIGH"] > without["HIGH"]
    else:
        assert set(found) == {"HIGH", "HIGHEST"} and found["HIGH"] == without["HIGH"]
    assert set(of_a_step(case, **TERMS, num_probes=num_probes, precision="float32")) == {"HIGHEST"}


@pytest.mark.parametrize("name", ["trace", "diagonal", "product", "loss"])
def test_what_is_measured_is_float32(case, name, monkeypatch):
    network, params, model_state, batch = case
    seen = []

    def keep(fn, axis, options=None):
        return lambda *arguments: seen.append(jax.make_jaxpr(fn)(*arguments)) or jax.jit(fn)(*arguments)

    monkeypatch.setattr("fip_jax.smoothness.parallel.map_shares", keep)
    measured = getattr(Smoothness(network, batch, 8), name)
    measured(params, model_state, *([params] if name == "product" else []))
    assert set(products(seen[0])) == {"HIGHEST"}


def test_what_is_written_and_orthogonalised_is_float32(case):
    network, params, model_state, _ = case
    plain = params, model_state
    _, *factored = spectral.factorise(network, *plain)
    matrix, vector = jnp.ones((6, 2)), jnp.ones(6)
    for program in (
        jax.make_jaxpr(lambda *trees: spectral.fold(*trees, plain))(*factored),
        jax.make_jaxpr(eigen._rayleigh_ritz)(matrix, matrix),
        jax.make_jaxpr(spectrum._orthogonalise)(matrix.T, vector, vector),
    ):
        assert set(products(program)) == {"HIGHEST"}


@pytest.mark.parametrize("asked, expected", [((), "HIGHEST"), (("tensorfloat32",), "HIGH")])
def test_rates_are_taken_in_float32_unless_asked_otherwise(case, asked, expected):
    network, params, model_state, _ = case
    images = jnp.zeros((2, 6, 6, 3), jnp.uint8)
    program = jax.make_jaxpr(make_predict_batch(network, *asked))(params, model_state, images)
    assert set(products(program)) == {expected}


def test_config_sets_it():
    config = default_config()
    for name in ("float32", "tensorfloat32"):
        config.precision = name
        check_config(config)
        assert defense_settings(config).precision == victim_settings(config, 256).precision == name
    assert config.report.eval_precision == "float32"
    for part, key in ((config.report, "eval_precision"), (config, "precision")):
        part[key] = "float16"
        with pytest.raises(
            UserError, match=f"{key}: found 'float16', expected one of float32, tensorfloat32"
        ):
            check_config(config)
        part[key] = "float32"
