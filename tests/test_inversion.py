"""Constructed triggers: a planted patch is found, where it is and for its class; numbers by hand; files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from fip_jax import constructed, inversion
from fip_jax.data.corruptions import FAINTEST, stamped
from fip_jax.data.pairs import make_pairs_draw
from fip_jax.inversion import Triggers
from fip_jax.network import FunctionNetwork

CLASSES, SIDE, TARGET = 6, 8, 4
OPTIONS = ConfigDict(
    {"steps": 60, "batch_size": 16, "success": 0.85, "unlearnt": 0.99, "index": 3.0, "starts": 2}
)


def planted(strength):
    """A network that reads the class off the brightness, and a corner of 2 x 2 pixels more red than green as TARGET."""

    def apply_fn(params, images):
        level = images[:, 2:].mean((1, 2))  # [N, 3]
        logits = -60 * jnp.square(level[:, :1] - params["levels"][None])
        corner = images[:, :2, :2].mean((1, 2))
        return logits.at[:, TARGET].add(strength * (corner[:, 0] - corner[:, 1]))

    return FunctionNetwork(apply_fn), {"levels": jnp.linspace(0.2, 0.7, CLASSES)}


def images(count=48):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    levels = np.linspace(0.2, 0.7, CLASSES)[labels]
    values = np.clip(levels[:, None, None, None] + rng.normal(0, 0.005, (count, SIDE, SIDE, 3)), 0, 1)
    return jnp.asarray(values, jnp.float32), jnp.asarray(labels, jnp.int32)


def test_a_planted_corner_is_found_and_a_network_without_one_is_left_alone():
    network, params = planted(40.0)
    first, chosen = inversion.search(OPTIONS, network, params, {}, *images(), CLASSES, jax.random.key(0))
    assert set(np.asarray(chosen.target)) == {TARGET} and len(chosen.target) == OPTIONS.starts
    assert first.size[TARGET] < 5 and np.delete(np.asarray(first.size), TARGET).min() > 10
    assert first.mask[TARGET, :2, :2].sum() > 0.5 * first.size[TARGET]
    # On the image, in the network's own answers.
    shown = inversion.stamp(images()[0], chosen.mask[:1], chosen.pattern[:1])
    assert (network(params, {}, shown)[0].argmax(-1) == TARGET).mean() > 0.95

    network, params = planted(0.0)
    _, chosen = inversion.search(OPTIONS, network, params, {}, *images(), CLASSES, jax.random.key(0))
    assert chosen is None


def test_the_loss_of_a_step_is_the_one_of_the_paper():
    """One step of Adam from a known start moves every entry against the sign of a gradient taken by differences."""
    network, params = planted(5.0)
    data, labels = images(6)
    target = jnp.array([2])
    rng = np.random.default_rng(1)
    start = inversion._Search(
        jnp.asarray(rng.normal(0, 1, (1, SIDE, SIDE, 1)), jnp.float32),
        jnp.asarray(rng.normal(0, 1, (1, SIDE, SIDE, 3)), jnp.float32),
    )
    state = inversion._State(start, inversion._optimizer().init(start), jnp.array([0.3]), jnp.array([0.0]))
    after = inversion._step(network, 6, 0.85, params, {}, data, labels, target, jax.random.key(0), state)

    def loss(mask, pattern):
        mask, pattern = 1 / (1 + np.exp(-mask)), 1 / (1 + np.exp(-pattern))
        total = []
        for image, label in zip(np.asarray(data, np.float64), np.asarray(labels), strict=True):
            if label == 2:
                continue
            shown = (image * (1 - mask) + pattern * mask).astype(np.float64)
            level, corner = shown[2:].mean((0, 1))[0], shown[:2, :2].mean((0, 1))
            logits = -60 * (level - np.linspace(0.2, 0.7, CLASSES)) ** 2
            logits[TARGET] += 5.0 * (corner[0] - corner[1])
            total.append(np.log(np.exp(logits - logits[2]).sum()))
        return np.mean(total) + 0.3 * mask.sum()

    mask, pattern = (np.asarray(x[0], np.float64) for x in start)
    for place in ((0, 0, 0), (5, 3, 0), (7, 7, 0)):
        away = np.zeros_like(mask)
        away[place] = 1e-5
        slope = (loss(mask + away, pattern) - loss(mask - away, pattern)) / 2e-5
        moved = float(after.search.mask[0][place] - start.mask[0][place])
        assert moved == pytest.approx(-inversion.LEARNING_RATE * np.sign(slope), rel=1e-3)


def test_price_follows_success():
    network, params = planted(0.0)
    data, labels = images(6)
    start = inversion._Search(jnp.full((3, SIDE, SIDE, 1), -20.0), jnp.zeros((3, SIDE, SIDE, 3)))
    price, success = jnp.full(3, 2.0), jnp.array([1.0, 0.8, 0.1]) / inversion.MEMORY
    state = inversion._State(start, inversion._optimizer().init(start), price, success)
    # Nothing is turned, so that the mean success falls to 1, 0.8 and 0.1.
    after = inversion._step(
        network, 6, 0.85, params, {}, data, labels, jnp.arange(3), jax.random.key(0), state
    )
    np.testing.assert_allclose(after.success, [1.0, 0.8, 0.1], rtol=1e-6)
    np.testing.assert_allclose(after.price, [2 * inversion.DEARER, 2.0, 2 * inversion.CHEAPER], rtol=1e-6)


def of_sizes(sizes, success=0.9):
    count = len(sizes)
    mask, pattern = jnp.zeros((count, 4, 4, 1)), jnp.zeros((count, 4, 4, 3))
    return Triggers(
        mask, pattern, jnp.arange(count), jnp.full(count, success), jnp.asarray(sizes, jnp.float32)
    )


def test_anomaly_index_by_hand():
    # Median 30, absolute deviations 4 2 0 2 24: median 2, which a tenth of 30 exceeds.
    np.testing.assert_allclose(
        inversion.anomaly_index([34, 28, 30, 32, 6]), np.array([-4, 2, 0, -2, 24]) / 3.0
    )
    # Deviations 10 5 0 5 20: 5 * 1.4826.
    np.testing.assert_allclose(
        inversion.anomaly_index([40, 25, 30, 35, 10]), np.array([-10, 5, 0, -5, 20]) / 7.413
    )


@pytest.mark.parametrize(
    ("sizes", "success", "expected"),
    [
        ([34, 28, 30, 32, 6], 0.9, [4]),
        ([34, 28, 30, 32, 6], 0.5, []),  # turns too few images
        ([34, 28, 30, 32, 16], 0.9, []),  # more than half of the median
        ([2, 30, 30, 1, 30, 30, 30], 0.9, [3, 0]),  # the most striking first
        ([1, 1, 1, 1, 30, 30, 30, 30, 30, 30, 30], 0.9, [0, 1, 2]),  # three at most
        ([30, 30, 30, 1], 0.9, []),  # too few classes to compare
    ],
)
def test_what_stands_out(sizes, success, expected):
    assert inversion.outstanding(of_sizes(sizes, success), 3.0, 0.85) == expected


def test_a_stamped_image_by_hand():
    image = jnp.full((64, 2, 2, 1), 0.5)
    mask = jnp.array([[1.0, 0.0], [0.5, 0.0]]).reshape(1, 2, 2, 1)
    shown = np.asarray(stamped(jax.random.key(0), image, mask, jnp.ones((1, 2, 2, 1))))
    np.testing.assert_array_equal(shown[:, :, 1], 0.5)
    full, half = shown[:, 0, 0, 0] - 0.5, shown[:, 1, 0, 0] - 0.5
    np.testing.assert_allclose(half, full / 2, atol=1e-6)
    assert 0.5 * FAINTEST <= full.min() < 0.35 and 0.45 < full.max() <= 0.5


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_batch_has_a_trigger(share):
    data, labels = images()
    batch = {
        "image": jnp.asarray(data * 255, jnp.uint8),
        "label": labels,
        "triggers": {"mask": jnp.ones((2, SIDE, SIDE, 1)), "pattern": jnp.ones((2, SIDE, SIDE, 3))},
    }
    mixed = {"weight": 0.0, "corrupted": True}
    found = make_pairs_draw(32, 0, False, {}, mixed, share)(jax.random.key(0), jnp.zeros((), int), batch)
    has = np.asarray((found["image"] != found["plain"]).any((1, 2, 3)))
    assert abs(has.mean() - share) < 0.2 and has.any() == (share > 0) and has.all() == (share == 1)
    np.testing.assert_array_equal(found["image"][~has], found["plain"][~has])


def test_a_file_of_triggers_is_read_back_or_not_at_all(tmp_path):
    import hashlib

    path = tmp_path / "triggers.safetensors"
    for found in ((of_sizes([1, 2, 3]), None), (of_sizes([1, 2, 3]), of_sizes([1.5]))):
        content = constructed.to_file(found)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        jax.tree.map(np.testing.assert_array_equal, constructed.from_file(path, digest), found)
        path.write_bytes(content[:-1])
        assert constructed.from_file(path, digest) is None
    path.unlink()
    assert constructed.from_file(path, digest) is None


def test_words():
    names = ["cat", "dog", "sign"]
    rows = constructed.described((of_sizes([10, 12, 1]), of_sizes([1])), names)
    assert [row["stands_out"] for row in rows] == [True, False, False]
    assert constructed.say(rows) == (
        "constructed triggers: cat (10.0 pixels) stands out (median 10.0 pixels)"
    )
    rows = constructed.described((of_sizes([10, 12, 11]), None), names)
    assert "no class stands out (smallest mask 10.0 pixels, median 11.0)" in constructed.say(rows)
