"""The floor of a step: operations counted by hand, ceilings and fractions worked out."""

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from benchmarks import roofline
from benchmarks.roofline import Ceilings, Cost, Sizes
from benchmarks.speed.workload import Task, Workload


def test_floor_is_the_slower_of_the_two():
    ceilings = Ceilings(operations=100.0, bytes=10.0)
    assert roofline.floor_seconds(Cost(200.0, 10.0, 0), ceilings) == (2.0, "operations")
    assert roofline.floor_seconds(Cost(200.0, 30.0, 0), ceilings) == (3.0, "bytes")


def test_a_product_costs_what_it_costs():
    a, b = jnp.ones((8, 16)), jnp.ones((16, 32))
    cost = roofline.count(jax.jit(jnp.matmul).lower(a, b))
    assert cost.operations == 2 * 8 * 16 * 32
    assert cost.bytes == 4 * (8 * 16 + 16 * 32 + 8 * 32)


def test_a_step_of_fine_tuning_is_three_forward_passes():
    width, num = 4, 16
    forward, size, channels = 0, 32, 3
    for stage in range(3):
        for _ in range(2):
            features = width * 2**stage
            # Of the 3 x 3 positions those that a padded border leaves out are not counted.
            forward += 2 * (3 * size - 2) ** 2 * channels * features
            channels = features
        size //= 2
    forward += 2 * size**2 * channels * 5
    first = 2 * (3 * 32 - 2) ** 2 * 3 * width  # whose gradient towards the images nobody needs
    expected = num * (3 * forward - first)
    found = roofline.operations(roofline.lower(Workload("ft", "small_vgg", width, num, 5)))
    # XLA counts borders otherwise on the way back, and normalisation, activations and the update besides.
    assert found == pytest.approx(expected, rel=0.03)


def test_fractions_by_hand(monkeypatch, tmp_path):
    clock = iter(range(1000))
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(roofline, "lower", lambda work: None)
    monkeypatch.setattr(roofline, "count", lambda lowered: Cost(30.0, 2.0, 7))
    monkeypatch.setattr(roofline.ours, "prepare", lambda work: Task(lambda: 1, lambda times: times))
    monkeypatch.setattr(roofline, "best_rates", lambda sizes: Ceilings(60.0, 20.0))
    # The clock moves by a second between two looks at it: a measurement of two repetitions gives 0.5 s each.
    content = roofline.measure([Workload("fip", "small_vgg", 4)], 3, 2.0, Sizes(1, 1))
    [row] = content["rows"]
    assert row["median"] == 0.5
    assert row["floor"] == 0.5
    assert row["fraction"] == pytest.approx(1)
    assert row["bound"] == "operations"
    roofline.draw(content, tmp_path / "roofline.png")
    with Image.open(tmp_path / "roofline.png") as image:
        assert image.width > 300


def test_rates_are_those_of_the_machine():
    rates = roofline.best_rates(Sizes(128, 1), repetitions=2)
    assert rates.operations > 1e7
    assert rates.bytes > 1e7
