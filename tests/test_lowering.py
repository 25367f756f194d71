"""A step is lowered for a platform that is not here: that platform's variant, on one device and on several."""

import jax
import numpy as np
import pytest
from oracles import conv_net

from fip_jax import defend, parallel
from fip_jax.config import check_config, default_config
from fip_jax.data.split import Split

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.fixture(scope="module")
def case():
    network, params, model_state, batch = conv_net(16, np.float32)
    return (
        network,
        params,
        model_state,
        Split(np.asarray(255 * batch["image"], np.uint8), np.asarray(batch["label"])),
    )


def lowered(case, platform, mode="none", num_probes=0, eta_f=1e-3, **options):
    config = default_config()
    config.parallel.mode = mode
    config.defense.name = "fip"
    config.defense.batch_size = 16
    config.defense.fip.update(
        {"num_probes": num_probes, "trace_batch_size": 8, "radius": 0.0, "eta_f": eta_f}
    )
    check_config(config)
    start = defend.begin(config, *case, platform=platform)
    others = start.state, start.anchor, start.data
    return start.step_fn.lower(jax.devices(), *others, platform=platform, **options).as_text()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_platform_has_its_own_convolutions(case, platform):
    found = {probes: lowered(case, platform, num_probes=probes) for probes in (0, 1)}
    # What is grouped or batched is the weight gradient of an example, which a CPU takes as a product of patches.
    grouped = found[0].count("batch_group_count = 8") + found[0].count("feature_group_count = 8")
    assert (grouped > 0) == (platform != "cpu")
    # The gradient towards the kernel of a batch: a CPU's is a loop over products.
    assert ("stablehlo.while" in found[1]) == (platform == "cpu")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_several_steps_are_one_loop_and_several_devices_meet_in_sums_alone(case, platform):
    text = lowered(case, platform, "pmap", num_probes=1, count=3)
    assert "stablehlo.while" in text
    assert "stablehlo.all_reduce" in text
    for other in (
        "all_gather",
        "all_to_all",
        "collective_permute",
        "reduce_scatter",
        "custom_call @xla_python",
    ):
        assert other not in text
    assert "f64" not in text
    assert f"mhlo.num_partitions = {jax.device_count()}" in text


def test_the_trace_asks_for_two_sums_of_the_size_of_the_network(case):
    with_trace, without = (
        lowered(case, "tpu", "pmap", num_probes=1, eta_f=eta_f).count("stablehlo.all_reduce")
        for eta_f in (1e-3, 0.0)
    )
    # The probe's gradient and that of the trace; and the trace itself.
    assert with_trace - without == 2 * len(jax.tree.leaves(case[1])) + 1


def test_the_state_is_given_away(case):
    text = lowered(case, "tpu")
    donated = text.count("tf.aliasing_output") + text.count("jax.buffer_donor")
    _, params, model_state, _ = case
    # Parameters, their momentum and the statistics, key, step and skipped.
    assert donated == 2 * len(jax.tree.leaves(params)) + len(jax.tree.leaves(model_state)) + 4


def test_the_default_is_the_platform_of_the_devices_used(monkeypatch):
    class Chip:
        platform = "tpu"

    known = jax.devices
    monkeypatch.setattr(jax, "devices", lambda name=None: [Chip()] if name is None else known(name))
    assert parallel.platform_of(None) == parallel.platform_of(parallel.AXIS) == "tpu"
    for chosen in ("cpu", known()[1]):  # for what has no devices of its own
        with jax.default_device(chosen):
            assert parallel.platform_of(None) == "cpu"
            assert parallel.platform_of(parallel.AXIS) == "tpu"
