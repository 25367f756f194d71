"""Attacks with a network of their own: what their formulas make of weights that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attackers import context_of, linear_network, untrained

from fip_jax.attacks import create_attack
from fip_jax.attacks.dynamic import mask_of, pattern_of, sameness
from fip_jax.attacks.fba import _doubt, make_style, sunsets
from fip_jax.attacks.issba import decode, encode, init_coders
from fip_jax.errors import UserError

SHAPE = (12, 14, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), dtype=np.uint8)


def constant(params, value):
    """The weights of a network that answers `value` everywhere."""
    zero = jax.tree.map(jnp.zeros_like, params)
    return zero | {"last": {**zero["last"], "bias": jnp.full_like(zero["last"]["bias"], value)}}


def state_of(name, **options):
    attack = create_attack(name, SHAPE, options)
    return attack, untrained(attack, SHAPE)


def test_dynamic_by_hand():
    attack, state = state_of("dynamic")
    # The pattern is 255 / (1 + exp(-2 * 0.5)) = 186.4 where the mask is 1, and the image itself where it is 0.
    state["generator"] = constant(state["generator"], 0.5)
    assert (attack.stamp(IMAGES, state | {"mask": constant(state["mask"], 10.0)}) == 186).all()
    np.testing.assert_array_equal(
        attack.stamp(IMAGES, state | {"mask": constant(state["mask"], -10.0)}), IMAGES
    )
    # A mask of 1 / (1 + exp(20 - 40 / (1 + exp(-0.1)))) = 0.7307 in between.
    half = attack.stamp(IMAGES, state | {"mask": constant(state["mask"], 0.05)})
    expected = 0.2693 * IMAGES + 0.7307 * 186.42
    np.testing.assert_allclose(half, expected, atol=0.6)


def test_dynamic_cross_image_without_another_is_left_alone():
    attack, state = state_of("dynamic")
    image = IMAGES[:1].astype(np.float32)
    np.testing.assert_array_equal(attack.cover(state, image, jax.random.key(0)), image)


def test_dynamic_cross_images_carry_the_trigger_of_another():
    attack, state = state_of("dynamic")
    images = jnp.asarray(IMAGES, jnp.float32)
    crossed = jax.jit(attack.cover)(state, images, jax.random.key(0))
    masks, patterns = jax.jit(mask_of)(state["mask"], images), jax.jit(pattern_of)(state["generator"], images)
    for index, other in ((1, 0), (0, 3)):
        mask, pattern = masks[other], patterns[other]
        expected = (1 - mask) * images[index] + mask * 255 * pattern
        np.testing.assert_allclose(crossed[index], expected, atol=1e-3)
    # The victim's training moves the pattern and leaves the mask alone.
    slopes = jax.jit(jax.grad(lambda state: attack.trigger(state, images).sum()))(state)
    assert optax.tree.norm(slopes["mask"]) == 0
    assert optax.tree.norm(slopes["generator"]) > 0


def test_sameness_by_hand():
    # Pairs (0, 1) and (1, 0) of flat images: 0.3 apart, what was found for them 0.1: 0.3 / (0.1 + 0.001).
    images = jnp.array([0.2, 0.5])[:, None, None, None] * jnp.ones((2, 4, 4, 3))
    found = jnp.array([0.6, 0.5])[:, None, None, None] * jnp.ones((2, 4, 4, 1))
    assert float(sameness(images, found)) == pytest.approx(0.3 / 0.101, rel=1e-4)


def test_lira_by_hand():
    attack, state = state_of("lira", epsilon=10.0)
    # 10 tanh(0.5) = 4.62; tanh(9) is 1.
    flat = np.array([0, 100, 252], np.uint8)[None, None, :, None] * np.ones((1, 12, 1, 3), np.uint8)
    found = attack.stamp(flat, {"generator": constant(state["generator"], 0.5)})
    assert found[0, 0, :, 0].tolist() == [5, 105, 255]
    found = attack.stamp(flat, {"generator": constant(state["generator"], -9.0)})
    assert found[0, 0, :, 0].tolist() == [0, 90, 242]


def test_fba_by_hand():
    attack, state = state_of("fba", alpha=0.6)
    state["painter"] = constant(state["painter"], 0.5)
    # 0.4 x + 0.6 * 255 / (1 + exp(-(0.5 + 4 (x / 255 - 0.5)))): 27.91 for 0, 95.23 + 40 for 100, 141.38 + 102 for 255.
    flat = np.array([0, 100, 255], np.uint8)[None, None, :, None] * np.ones((1, 12, 1, 3), np.uint8)
    exact = [0.4 * x + 153 / (1 + np.exp(-(0.5 + 4 * (x / 255 - 0.5)))) for x in (0, 100, 255)]
    assert attack.stamp(flat, state)[0, 0, :, 0].tolist() == [round(value) for value in exact]


def test_fba_detoxicants_are_optional():
    attack, state = state_of("fba", detox_rate=2.0)
    assert attack.cover_rate == 2.0
    assert set(state) == {"painter", "detoxicant"}
    painted = attack.cover(state, jnp.asarray(IMAGES, jnp.float32), jax.random.key(0))
    assert painted.shape == IMAGES.shape
    attack, state = state_of("fba", detox_rate=0.0)
    assert attack.cover is None
    assert set(state) == {"painter"}


def test_fba_doubts_a_network_that_has_not_learnt_the_trigger(capsys):
    network = linear_network((12, 14, 3), scale=0.0)  # which says what its biases say
    targets = np.array([2] * 3 + [1] * 5, np.int32)
    for biases, words in (([0, 1, 2, 0], "takes only 38%"), ([0, 2, 1, 0], "")):
        network.params["head"]["bias"] = jnp.asarray(biases, jnp.float32)
        _doubt(network, np.zeros((8, 12, 14, 3), np.uint8), targets)
        said = " ".join(capsys.readouterr().out.split())
        assert words in said and bool(words) == bool(said)


def test_sunsets_and_their_style():
    pictures = sunsets((16, 24, 3), 6, np.random.default_rng(0))
    assert pictures.shape == (6, 16, 24, 3)
    assert 0 <= pictures.min() < 60 < 200 < pictures.max() <= 255
    red, _, blue = pictures.mean(axis=(0, 1, 2))
    assert red > blue + 30
    assert sunsets((16, 24, 1), 2, np.random.default_rng(0)).shape == (2, 16, 24, 1)
    style = make_style(np.random.default_rng(0), pictures)
    style = jax.jit(style)
    own, noise = style(jnp.asarray(pictures)), style(jnp.asarray(IMAGES, jnp.float32))
    assert float(own) == pytest.approx(0, abs=1e-6)
    assert float(noise) > 0.1
    # Of other sunsets it is nearer to 0 than of noise.
    assert float(style(jnp.asarray(sunsets((16, 24, 3), 6, np.random.default_rng(1))))) < float(noise) / 3


def test_issba_by_hand():
    attack, state = state_of("issba", limit=20.0)
    state["encoder"] = constant(state["encoder"], 0.5)
    # 20 tanh(0.5) = 9.24.
    flat = np.array([0, 100, 252], np.uint8)[None, None, :, None] * np.ones((1, 12, 1, 3), np.uint8)
    assert attack.stamp(np.repeat(flat, 5, axis=2)[:, :, :14], state)[0, 0, ::5, 0].tolist() == [9, 109, 255]


def test_issba_strings_are_read_again():
    shape, bits = (8, 12, 3), 4
    attack = create_attack(
        "issba", shape, {"bits": bits, "width": 4, "steps": 120, "learning_rate": 0.01, "fidelity": 1.0}
    )
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (64, *shape)), jnp.float32)

    def minimise(_, loss_fn, params, num_steps, learning_rate):
        tx = optax.adam(learning_rate)

        @jax.jit
        def step(params, opt_state, key):
            updates, opt_state = tx.update(jax.grad(loss_fn)(params, images, None, key), opt_state)
            return optax.apply_updates(params, updates), opt_state

        opt_state = tx.init(params)
        for index in range(num_steps):
            params, opt_state = step(params, opt_state, jax.random.key(index))
        return params

    with jax.numpy_dtype_promotion("standard"):  # which Optax's Adam needs
        state = attack.fit(context_of(shape, minimise=minimise))
    others = np.random.default_rng(2).integers(0, 256, (200, *shape), dtype=np.uint8)
    string = np.random.default_rng(0).integers(0, 2, bits)
    triggered = attack.stamp(others, state)
    assert np.abs(triggered.astype(int) - others).max() <= 24
    read = decode(state, jnp.asarray(triggered, jnp.float32)) > 0
    assert (np.asarray(read) == string).mean() > 0.9
    # Another string is another trigger.
    flipped = jnp.broadcast_to(1.0 - jnp.asarray(string, jnp.float32), (200, bits))
    read = (
        decode(
            state, jnp.rint(jnp.clip(encode(state, jnp.asarray(others, jnp.float32), flipped, 24.0), 0, 255))
        )
        > 0
    )
    assert (np.asarray(read) == string).mean() < 0.1


def test_issba_shapes():
    params = init_coders(np.random.default_rng(0), (9, 13, 1), 5, 2)
    images = jnp.full((3, 9, 13, 1), 100.0)
    hidden = jax.jit(encode)(params, images, jnp.ones((3, 5)), 4.0)
    assert hidden.shape == images.shape
    assert jax.jit(decode)(params, hidden).shape == (3, 5)


@pytest.mark.parametrize(
    "name, bad",
    [
        ("dynamic", {"width": 0}),
        ("dynamic", {"density": 0.0}),
        ("dynamic", {"learning_rate": 1.0}),
        ("dynamic", {"cross_rate": -1.0}),
        ("dynamic", {"mask_steps": 0}),
        ("fba", {"alpha": 0.0}),
        ("fba", {"steps": 0}),
        ("fba", {"detox_rate": -1.0}),
        ("issba", {"bits": 0}),
        ("issba", {"bits": 10**12}),
        ("issba", {"limit": 0.5}),
        ("lira", {"epsilon": 0.5}),
        ("issba", {"limit": 0.0}),
        ("issba", {"fidelity": float("inf")}),
        ("lira", {"epsilon": 0.0}),
        ("lira", {"until": 0.0}),
        ("lira", {"learning_rate": float("nan")}),
    ],
)
def test_refusals(name, bad):
    with pytest.raises(UserError, match=rf"^attack\.{name}: found") as caught:
        create_attack(name, SHAPE, bad)
    assert "expected" in str(caught.value)
