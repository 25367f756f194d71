"""PyTorch's names and layouts: the same logits, the same arrays back, and every difference named."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fip_jax.errors import UserError
from fip_jax.interop.recognise import recognise
from fip_jax.interop.state_dict import (
    check_shapes,
    expected_shapes,
    from_torch,
    to_torch,
)
from fip_jax.models import MODELS, abstract_model
from fip_jax.network import split_module

CASES = {
    "small_vgg": ("small_vgg", {"width": 4}),
    "preact_resnet18": ("preact_resnet18", {"width": 4}),
    "resnet18": ("resnet18", {"width": 4}),
    "vgg19_bn": ("vgg19_bn", {"width": 4, "hidden": 0}),
    "vgg19_bn torchvision": ("vgg19_bn", {"width": 4, "hidden": 16}),
    "wrn_16_1": ("wrn_16_1", {"width": 16}),
    "wrn_16_2": ("wrn_16_1", {"width": 32}),
    "vit_small": ("vit_small", {"width": 128, "patch_size": 8, "depth": 2, "heads": 2}),
}
NUM_CLASSES = 5


def test_every_network_is_compared():
    assert {name for name, _ in CASES.values()} == MODELS.keys()


def abstract(name, options):
    module = abstract_model(name, NUM_CLASSES, 32, **options)
    _, params, model_state, _ = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)


def random_arrays(name, options):
    rng = np.random.default_rng(0)
    shapes = expected_shapes(*abstract(name, options))
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_logits_are_those_of_pytorch(case, batch_statistics):
    torch = pytest.importorskip("torch")
    import torch_networks

    name, options = CASES[case]
    theirs = torch_networks.build(name, NUM_CLASSES, **options)
    arrays = {key: value.numpy() for key, value in theirs.state_dict().items()}
    network, params, model_state = split_module(abstract_model(name, NUM_CLASSES, 32, **options))
    params, model_state = from_torch(arrays, params, model_state)
    images = np.random.default_rng(1).random((8, 32, 32, 3), np.float32)
    theirs.train(batch_statistics)
    for part in theirs.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    apply = jax.jit(lambda *arguments: network(*arguments, batch_statistics=batch_statistics)[0])
    logits = apply(params, model_state, jnp.asarray(images))
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_pytorch_takes_our_names_and_shapes(case):
    torch = pytest.importorskip("torch")
    import torch_networks

    name, options = CASES[case]
    theirs = torch_networks.build(name, NUM_CLASSES, **options)
    arrays = random_arrays(name, options)
    # Without the version that PyTorch keeps in a state dict, BatchNorm's counters may be missing.
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()}, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_the_same_bit_for_bit(case):
    name, options = CASES[case]
    arrays = random_arrays(name, options)
    again = to_torch(*from_torch(arrays, *abstract(name, options)))
    assert again.keys() == arrays.keys()
    for key, array in arrays.items():
        assert again[key].dtype == np.float32
        assert again[key].flags.c_contiguous
        np.testing.assert_array_equal(again[key], array)


@pytest.mark.parametrize("case", CASES)
def test_networks_are_recognised_by_their_tensors(case):
    name, options = CASES[case]
    shapes = {key: array.shape for key, array in random_arrays(name, options).items()}
    counters = {
        key.replace("running_mean", "num_batches_tracked"): () for key in shapes if "running_mean" in key
    }
    found = recognise(shapes | counters, 32)
    assert found == (name, options | {"num_classes": NUM_CLASSES}, {key: key for key in shapes})


def test_layouts_by_hand():
    params = {"conv": {"kernel": jnp.arange(24.0).reshape(2, 1, 3, 4)}, "head": {"kernel": jnp.ones((2, 3))}}
    arrays = to_torch(params, {"bn": {"mean": jnp.zeros(2), "var": jnp.ones(2)}})
    assert {key: array.shape for key, array in arrays.items()} == {
        "conv.weight": (4, 3, 2, 1),
        "head.weight": (3, 2),
        "bn.running_mean": (2,),
        "bn.running_var": (2,),
    }
    # Row 1, column 0, channel 2 in, channel 3 out.
    assert arrays["conv.weight"][3, 2, 1, 0] == params["conv"]["kernel"][1, 0, 2, 3]


def torchvision(key):
    return key.replace("shortcut", "downsample").replace("linear", "fc")


def weiaicunzai(key):
    key = re.sub(r"^layer(\d)", lambda m: f"conv{int(m[1]) + 1}_x", key.replace("linear", "fc"))
    for index, part in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2")):
        key = re.sub(rf"(conv\d_x\.\d)\.{part}", rf"\1.residual_function.{index}", key)
    return re.sub("^bn1", "conv1.1", re.sub(r"^conv1\.weight", "conv1.0.weight", key))


@pytest.mark.parametrize(
    "other",
    [
        torchvision,
        weiaicunzai,
        lambda key: f"backbone.{torchvision(key)}".replace("backbone.fc.", "head."),
        lambda key: f"encoder.{key}".replace("encoder.linear.", "classifier.1."),
        lambda key: key.replace("linear.", "last_linear."),
    ],
)
def test_other_names_for_the_same_layers(other):
    name, options = CASES["resnet18"]
    arrays = random_arrays(name, options)
    renamed = {other(key): array for key, array in arrays.items()}
    assert renamed.keys() != arrays.keys()
    found = recognise({key: a.shape for key, a in renamed.items()}, 32)
    assert found[:2] == (name, options | {"num_classes": NUM_CLASSES})
    assert found.names == {key: other(key) for key in arrays}
    again = to_torch(*from_torch({n: renamed[k] for n, k in found.names.items()}, *abstract(name, options)))
    np.testing.assert_array_equal(again["linear.weight"], arrays["linear.weight"])


def test_two_names_for_one_tensor():
    arrays = random_arrays(*CASES["resnet18"])
    shapes = {key: a.shape for key, a in arrays.items()}
    with pytest.raises(UserError, match=r"unexpected: fc\.weight"):
        recognise(shapes | {"fc.weight": arrays["linear.weight"].shape}, 32)


@pytest.mark.parametrize(("name", "size"), [("vit_small", 64), ("small_vgg", 28), ("vgg19_bn", 128)])
def test_the_size_that_would_fit_is_said(name, size):
    shapes = {key: array.shape for key, array in random_arrays(*CASES[name]).items()}
    with pytest.raises(
        UserError, match=rf"another size than dataset.image_size = {size}, expected .*; 32 fits"
    ):
        recognise(shapes, size)


def test_every_difference_is_named():
    name, options = CASES["small_vgg"]
    arrays = random_arrays(name, options)
    del arrays["features.3.bias"], arrays["features.4.running_var"]
    arrays |= {"extra.weight": np.zeros(3), "features.0.weight": np.zeros((4, 3, 5, 5))}
    expected = re.escape(
        "missing: features.3.bias, features.4.running_var; unexpected: extra.weight; "
        "misshapen: features.0.weight [4, 3, 5, 5] instead of [4, 3, 3, 3]"
    )
    with pytest.raises(UserError, match=expected):
        from_torch(arrays, *abstract(name, options))
    with pytest.raises(UserError, match=f"nearest is small_vgg: .*{expected}"):
        recognise({key: array.shape for key, array in arrays.items()}, 32)


def test_names_come_as_text():
    with pytest.raises(UserError, match=r"unexpected: a\\x1b\[2J"):
        check_shapes({"a\x1b[2J": ()}, {})


def test_long_lists_are_cut():
    with pytest.raises(UserError, match=r"missing: .* and \d+ more") as caught:
        from_torch({}, *abstract(*CASES["preact_resnet18"]))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"features.0.weight": (10**12, 3, 3, 3)},
        {"features.0.weight": (-4, 3, 3, 3)},
        {"features.0.weight": ()},
        {"classifier.weight": (10**9, 64)},
        {"classifier.weight": (5,)},
        {"conv_proj.weight": (10**6, 3, 4, 4)},
    ],
)
def test_absurd_shapes_are_refused(changes):
    shapes = {key: array.shape for key, array in random_arrays(*CASES["small_vgg"]).items()} | changes
    with pytest.raises(UserError, match="unknown network"):
        recognise(shapes, 32)


def test_a_transformer_of_absurd_depth_is_refused():
    shapes = {key: array.shape for key, array in random_arrays(*CASES["vit_small"]).items()}
    shapes |= {f"encoder.layers.encoder_layer_{i}.ln_1.weight": (128,) for i in range(100_000)}
    with pytest.raises(UserError, match="unknown network"):
        recognise(shapes, 32)
