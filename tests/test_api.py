"""The way in from Python: files, modules and plain functions, purified like in a run."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_export import state_dict

import fip_jax
from fip_jax import convolution
from fip_jax.errors import UserError
from fip_jax.interop import torch_writer

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(24) % 3


def apply(params, images):
    return jnp.tanh(images.reshape(len(images), -1) @ params["w"]) @ params["v"]


def parameters():
    return {
        "w": jnp.asarray(RNG.standard_normal((192, 6)) / 8, jnp.float32),
        "v": jnp.asarray(RNG.standard_normal((6, 3)), jnp.float32),
    }


class Small(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.linear = nnx.Linear(192, 3, rngs=nnx.Rngs(0))

    def __call__(self, x, rngs=None):
        return self.linear(self.norm(x).reshape(len(x), -1))


def loss(params):
    logits = np.asarray(apply(params, jnp.asarray(IMAGES, jnp.float32) / 255))
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(24), LABELS])


@pytest.mark.parametrize("method", ["fip", "ft", "ft_sam"])
def test_a_plain_function(method):
    params = parameters()
    before = jax.tree.map(np.array, params)
    options = {"method": method, "steps": 40, "batch_size": 12, "learning_rate": 0.1, "crop_padding": 0}
    # Weights that nothing was learnt with teach nothing.
    options |= {"label_weight": 1.0, "teacher": {"weight": 0.0}, "mixed": {"weight": 0.0}}
    options |= {"corruption": {kind: {"rate": 0.0} for kind in ("patch", "wave", "overlay")}}
    purified = fip_jax.purify_function(apply, params, IMAGES, LABELS, **options)
    jax.tree.map(np.testing.assert_array_equal, params, before)  # the caller's stay as they are
    assert loss(purified) < 0.8 * loss(params)
    again = fip_jax.purify_function(apply, params, IMAGES, LABELS, **options)
    jax.tree.map(np.testing.assert_array_equal, purified, again)
    other = fip_jax.purify_function(apply, params, IMAGES, LABELS, seed=1, **options)
    assert (np.asarray(other["w"]) != np.asarray(purified["w"])).any()


@pytest.mark.parametrize("eta_f, num_probes", [(0.0, 1), (0.1, 0)])
def test_fast_fip_of_a_module(eta_f, num_probes):
    module = Small()
    options = {"method": "fast_fip", "whole_head": False, "steps": 30, "batch_size": 12}
    options |= {"learning_rate": 0.2, "crop_padding": 0}
    purified = fip_jax.purify_network(module, IMAGES, LABELS, eta_f=eta_f, num_probes=num_probes, **options)
    # Its kernel has the singular vectors that it had, and other values.
    before, after = (np.array(m.linear.kernel[...]) for m in (module, purified))
    u, values, vt = np.linalg.svd(before, full_matrices=False)
    core = u.T @ after @ vt.T
    np.testing.assert_allclose(core, np.diag(np.diag(core)), atol=1e-5)
    assert np.abs(np.diag(core) - values).max() > 0.01
    np.testing.assert_array_equal(purified.linear.bias[...], module.linear.bias[...])


@pytest.mark.parametrize(
    "method, num_probes, swapped", [("fip", 0, True), ("fip", 1, False), ("fast_fip", 0, False)]
)
def test_only_exact_traces_of_whole_kernels_need_another_convolution(
    method, num_probes, swapped, monkeypatch
):
    seen = []

    def spy(platform):
        assert platform == "cpu"
        seen.append(method)
        return jax.lax.conv_general_dilated

    monkeypatch.setattr(convolution, "for_per_example_gradients", spy)
    options = {"method": method, "steps": 1, "batch_size": 12, "eta_r": 0.0, "num_probes": num_probes}
    options |= {"gate": {"over": "none"}, "shrink": {"budget": 0.0}}
    fip_jax.purify_network(Small(), IMAGES, LABELS, **options)
    assert bool(seen) == swapped


def test_fast_fip_of_a_function_is_refused():
    with pytest.raises(UserError, match=r"^method: found fast_fip for a plain function, expected"):
        fip_jax.purify_function(apply, parameters(), IMAGES, LABELS, method="fast_fip")


def test_options_reach_the_step():
    params = parameters()
    options = {"steps": 3, "batch_size": 12}
    # An anchor this strong keeps every parameter that the Fisher matrix knows of where it was.
    kept = fip_jax.purify_function(apply, params, IMAGES, LABELS, eta_r=1e9, **options)
    moved = fip_jax.purify_function(apply, params, IMAGES, LABELS, eta_r=0.0, **options)
    distance = [np.abs(np.asarray(p["v"]) - np.asarray(params["v"])).max() for p in (kept, moved)]
    assert 10 * distance[0] < 1e-4 < distance[1]


def test_parts_of_the_recipe_are_options():
    params, options = parameters(), {"method": "ft", "steps": 2, "batch_size": 12}
    changes = (
        {},
        {"corruption": {"patch": {"rate": 0.0}}},
        {"corruption": {"patch": {"contents": ("noise",)}}},
        {"teacher": {"weight": 0.0}},
        {"mixed": {"weight": 0.0}},
        {"mixed": {"corrupted": False}},
        {"label_weight": 1.0},
        {"label_weight": 1.0, "label_smoothing": 0.1},
    )
    found = [
        np.asarray(fip_jax.purify_function(apply, params, IMAGES, LABELS, **options, **more)["v"])
        for more in changes
    ]
    for a, b in itertools.combinations(found, 2):
        assert np.abs(a - b).max() > 1e-6


def test_a_module():
    module = Small()
    weights = np.array(module.linear.kernel[...])
    purified = fip_jax.purify_network(module, IMAGES, LABELS, steps=2, batch_size=12, mean=(0.5, 0.5, 0.5))
    assert isinstance(purified, Small)
    np.testing.assert_array_equal(np.array(module.linear.kernel[...]), weights)
    assert (np.array(purified.linear.kernel[...]) != weights).any()


def test_a_file(tmp_path):
    torch_writer.write(tmp_path / "in.pth", {"net": state_dict(num_classes=3)})
    network = fip_jax.load(tmp_path / "in.pth")
    images = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    purified = fip_jax.purify_network(network, images, LABELS[:12], steps=2, batch_size=12)
    files = fip_jax.save(tmp_path / "out", purified)
    assert [file.name for file in files] == ["purified.pth", "purified.safetensors"]
    again = fip_jax.load(files[0])
    jax.tree.map(np.testing.assert_array_equal, again.params, purified.params)


@pytest.mark.parametrize(
    ("images", "labels", "options", "part"),
    [
        (
            IMAGES / 250,
            LABELS,
            {},
            "images is float64 [24, 8, 8, 3] from 0 to 1.02, expected uint8, or float in [0, 1]",
        ),
        (IMAGES[0], LABELS, {}, "images: found uint8 [8, 8, 3]"),
        (IMAGES, LABELS[:5], {}, "labels: found int64 [5]"),
        (IMAGES, LABELS / 1, {}, "labels: found float64"),
        (IMAGES, LABELS, {"method": "magic"}, "defense.name: found 'magic'"),
        (IMAGES, LABELS, {"learn_rate": 1}, "learn_rate: no option of fip"),
        (IMAGES, LABELS, {"method": "ft", "eta_f": 1.0}, "eta_f: no option of ft"),
        (IMAGES, LABELS, {"steps": 0}, "defense.steps: found 0"),
    ],
)
def test_what_does_not_fit_is_named(images, labels, options, part):
    with pytest.raises(fip_jax.UserError) as caught:
        fip_jax.purify_function(apply, parameters(), images, labels, **options)
    assert part in str(caught.value)


def test_unknown_names_are_no_part_of_it():
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        fip_jax.magic  # noqa: B018


@pytest.mark.parametrize(
    "images, labels, options, message",
    [
        (IMAGES, LABELS + 1, {}, "labels: found 1 to 3, expected classes from 0 to 2"),
        (IMAGES, LABELS - 1, {}, "labels: found -1 to 1, expected"),
        (IMAGES[:0], LABELS[:0], {}, "images: found none"),
        (IMAGES, LABELS * 0 + 1, {}, "labels: found clean images of the class 1 alone, expected some of all"),
        (IMAGES, LABELS, {"steps": "many"}, "steps: found 'many', expected a int"),
        (IMAGES, LABELS, {"seed": None}, "seed: found None, expected a int"),
        (IMAGES, LABELS, {"learning_rate": None}, "learning_rate: found None, expected a float"),
        (IMAGES, LABELS, {"method": 3}, "method: found 3, expected a str"),
        (IMAGES, LABELS, {"parallel": True}, "parallel: found True, expected a str"),
        (IMAGES, LABELS, {"teacher": 2.0}, r"teacher: found 2.0, expected a dict with temperature, weight"),
        (
            IMAGES,
            LABELS,
            {"teacher": {"heat": 2.0}},
            r"teacher.heat: no such option, expected temperature, weight",
        ),
        (
            IMAGES,
            LABELS,
            {"corruption": {"patch": {"rate": "all"}}},
            r"corruption.patch.rate: found 'all', expected",
        ),
        (IMAGES, LABELS, {"gate": {"over": "layer"}}, r"defense.fip.gate.over: found 'layer'"),
    ],
)
def test_what_cannot_be_used_is_refused(images, labels, options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        fip_jax.purify_function(apply, parameters(), images, labels, **options)


class Grey(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(64, 3, rngs=nnx.Rngs(0))

    def __call__(self, x, rngs=None):
        return self.linear(x.reshape(len(x), -1))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mean": (0.5, 0.5)}, r"mean: found \(0.5, 0.5\), expected 3 finite numbers, one a channel"),
        ({"mean": 0.5}, "mean: found 0.5, expected 3"),
        ({"std": (1.0, 0.0, 1.0)}, ".*expected 3 finite numbers above 0, one a channel"),
        ({"std": np.full(3, np.nan)}, "std: found"),
    ],
)
def test_what_images_cannot_be_normalised_with(options, message, tmp_path):
    with pytest.raises(UserError, match=f"^{message}"):
        fip_jax.purify_network(Grey(), IMAGES, LABELS, **options)
    with pytest.raises(UserError, match=f"^{message}"):
        fip_jax.load(tmp_path / "x.pth", **options)


def test_numbers_of_numpy_are_numbers():
    options = {
        "mean": np.full(1, 0.5),
        "std": np.ones(1),
        "seed": np.int64(1),
        "learning_rate": np.float32(0.25),
    }
    plain = {"mean": (0.5,), "std": (1.0,), "seed": 1, "learning_rate": 0.25}
    kernels = [
        fip_jax.purify_network(
            Grey(), IMAGES[..., :1], LABELS, method="ft", steps=2, batch_size=8, crop_padding=0, **given
        ).linear.kernel[...]
        for given in (options, plain)
    ]
    np.testing.assert_array_equal(*kernels)


def test_images_of_one_channel():
    found = fip_jax.purify_network(
        Grey(), IMAGES[..., :1], LABELS, method="ft", steps=2, batch_size=8, crop_padding=0
    )
    assert np.isfinite(found.linear.kernel[...]).all()
