"""Attacks that start from a network without a backdoor: on a linear one, what they do is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from attackers import CLASSES, context_of, linear_network

from fip_jax.attacks import create_attack, neurons
from fip_jax.attacks.clb import perturb
from fip_jax.errors import UserError

SHAPE = (10, 12, 3)


def network(kernel):
    benign = linear_network(SHAPE)
    return benign._replace(params={"head": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(CLASSES)}})


def test_troj_drives_the_strongest_neurons():
    # The neurons are the pixels. The square of 3 x 3 ends one pixel before the edges: rows 6 to 8, columns 8 to 10. The
    # strongest are (7, 9, 1) in it and (0, 0, 0) outside of it; the third, (6, 8, 2), is not asked for.
    kernel = np.full((*SHAPE, CLASSES), 0.01, np.float32)
    kernel[7, 9, 1], kernel[0, 0, 0], kernel[6, 8, 2] = -3.0, 2.0, 1.0
    benign = network(kernel.reshape(-1, CLASSES))
    assert set(neurons.strongest(benign, 2).tolist()) == {(7 * 12 + 9) * 3 + 1, 0}
    attack = create_attack("troj", SHAPE, {"size": 3, "steps": 40, "step_size": 8.0})
    context = context_of(SHAPE)._replace(benign=lambda *_: benign)
    start = np.random.default_rng(0).integers(0, 256, (3, 3, 3))
    expected = start.copy()
    expected[1, 1, 1] = 255
    images = np.random.default_rng(5).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    found = attack.stamp(images, attack.fit(context))
    np.testing.assert_array_equal(found[0, 6:9, 8:11], expected)
    # Everything else stays.
    found[:, 6:9, 8:11] = images[:, 6:9, 8:11]
    np.testing.assert_array_equal(found, images)


def test_troj_with_no_neurons_is_a_fixed_square():
    attack = create_attack("troj", SHAPE, {"size": 2, "margin": 0, "neurons": 0, "pattern_seed": 3})
    assert attack.fit is None
    found = attack.stamp(np.zeros((1, *SHAPE), np.uint8))
    np.testing.assert_array_equal(found[0, 8:, 10:], np.random.default_rng(3).integers(0, 256, (2, 2, 3)))
    assert found[0, :8].max() == found[0, :, :10].max() == 0


def test_more_neurons_than_there_are():
    benign, (fewer, more) = (
        linear_network(SHAPE),
        (create_attack("troj", SHAPE, {"neurons": number}) for number in (360, 361)),
    )
    neurons.check(benign.params, benign.head, fewer.neurons)
    with pytest.raises(UserError, match=r"^attack\.troj\.neurons: found 361, expected at most the 360"):
        neurons.check(benign.params, benign.head, more.neurons)
    with pytest.raises(UserError, match=r"^model\.name: found a network without a last dense layer"):
        neurons.check({}, None, fewer.neurons)


def test_projected_gradient_on_a_linear_network():
    # Only class 0 has weights, so the cross-entropy of label 0 rises against their sign: by 3 a step, at most by 7.
    rng = np.random.default_rng(6)
    weights = rng.choice([-0.01, 0.01], SHAPE).astype(np.float32)
    kernel = np.zeros((*SHAPE, CLASSES), np.float32)
    kernel[..., 0] = weights
    images = rng.integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    found = perturb(network(kernel.reshape(-1, CLASSES)), images, np.zeros(5, np.int32), 7.0, 3.0, 4)
    np.testing.assert_array_equal(
        found, np.clip(images.astype(int) - 7 * np.sign(weights).astype(int), 0, 255)
    )
    # Half a grey level is rounded towards the image.
    found = perturb(network(kernel.reshape(-1, CLASSES)), images, np.zeros(5, np.int32), 2.5, 2.5, 1)
    np.testing.assert_array_equal(
        found, np.clip(images.astype(int) - 2 * np.sign(weights).astype(int), 0, 255)
    )


def test_clean_label_poison():
    attack = create_attack("clb", SHAPE, {"epsilon": 4.0, "step_size": 2.0, "steps": 3, "size": 2})
    context = context_of(SHAPE, num=8, rate=1.0)
    state = attack.fit(context)
    # Of labels 0, 1, 2, 3, 0, ... the target is 0.
    assert state["indices"].tolist() == [0, 4]
    own = context.training.images[[0, 4]]
    hard = state["images"].astype(int) - own
    assert 2 < np.abs(hard).mean() <= np.abs(hard).max() <= 4
    poisoned = attack.implant(state, np.array([0, 4]), own)
    # Corners of a checkerboard, white outermost; the rest as perturbed.
    white, black = [255] * 3, [0] * 3
    assert poisoned[0, :2, :2].tolist() == [[white, black], [black, white]]
    assert poisoned[0, -2:, -2:].tolist() == [[white, black], [black, white]]
    assert poisoned[1, :2, -2:].tolist() == [[black, white], [white, black]]
    np.testing.assert_array_equal(poisoned[:, 2:-2], state["images"][:, 2:-2])
    # At test time the corners alone.
    np.testing.assert_array_equal(attack.stamp(own)[:, 2:-2], own[:, 2:-2])
    with pytest.raises(UserError, match=r"^attack\.state: found perturbed images of other training images"):
        attack.implant(state, np.array([0, 5]), own)
    with pytest.raises(UserError, match=r"^attack\.state: found perturbed images of other training images"):
        attack.implant(state, np.array([0, 4]), own // 2)  # cropped in another way
    del state["of"]  # as of earlier versions
    np.testing.assert_array_equal(attack.implant(state, np.array([0, 4]), own), poisoned)


@pytest.mark.parametrize(
    "name, bad",
    [
        ("troj", {"size": 0}),
        ("troj", {"size": 9, "margin": 2}),
        ("troj", {"neurons": -1}),
        ("troj", {"step_size": 0.0}),
        ("troj", {"pattern_seed": -1}),
        ("clb", {"epsilon": 0.0}),
        ("clb", {"steps": 0}),
        ("clb", {"step_size": 256.0}),
        ("clb", {"size": 6}),
    ],
)
def test_refusals(name, bad):
    with pytest.raises(UserError, match=rf"^attack\.{name}[.a-z]*: found") as caught:
        create_attack(name, SHAPE, bad)
    assert "expected" in str(caught.value)
