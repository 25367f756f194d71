"""Shapes, parameter counts and the options of the networks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fip_jax.errors import UserError
from fip_jax.models import MODELS, abstract_model, create_model
from fip_jax.models.layers import drop, elu, max_pool
from fip_jax.models.preact_resnet import PreActBlock
from fip_jax.network import split_module


def abstract(name, num_classes=10, image_size=32, **options):
    """The variables' shapes, without drawing them: (params, statistics)."""
    module = abstract_model(name, num_classes, image_size, **options)
    _, params, statistics, _ = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)


def size(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("num_classes, image_size", [(10, 32), (43, 64)])
def test_logits(name, num_classes, image_size):
    network, *trees = split_module(abstract_model(name, num_classes, image_size, width=6))
    logits, _ = jax.eval_shape(network, *trees, jnp.zeros((2, image_size, image_size, 3)))
    assert logits.shape == (2, num_classes)
    assert logits.dtype == jnp.float32


def test_preact_resnet18_has_the_published_size():
    params, statistics = abstract("preact_resnet18")
    # What PyTorch counts for BackdoorBench's PreActResNet18 with 10 classes.
    assert size(params) == 11_171_146
    # 102 tensors in its state dict: per BatchNorm also a counter that Flax does not keep.
    num_norms = len(jax.tree.leaves(statistics)) // 2
    assert num_norms == 16
    assert len(jax.tree.leaves((params, statistics))) + num_norms == 102


@pytest.mark.parametrize(
    "name, num_classes, image_size, options, count",
    [
        # As counted by PyTorch for the definitions in wide use, all but the first and those of 32 pixels torchvision's.
        ("resnet18", 10, 32, {"width": 64}, 11_173_962),
        ("vgg19_bn", 1000, 224, {"hidden": 4096}, 143_678_248),
        ("resnet", 1000, 224, {"blocks": (3, 4, 6, 3), "stem": 7, "pool": 1}, 21_797_672),
        ("resnet", 1000, 224, {"blocks": (3, 4, 6, 3), "bottleneck": 1, "stem": 7, "pool": 1}, 25_557_032),
        ("resnet", 10, 32, {"width": 16, "blocks": (3, 3, 3), "padded": 1}, 269_722),
        ("resnet", 10, 32, {"width": 16, "blocks": (18, 18, 18), "padded": 1}, 1_727_962),
        ("densenet", 1000, 224, {}, 7_978_856),
        ("convnext", 1000, 224, {}, 28_589_128),
        ("vit_small", 1000, 224, {"width": 768, "patch_size": 16, "depth": 12, "heads": 12}, 86_567_656),
    ],
)
def test_published_sizes(name, num_classes, image_size, options, count):
    assert size(abstract(name, num_classes, image_size, **options)[0]) == count


def test_wrn_16_1_by_hand():
    params, _ = abstract("wrn_16_1", width=32)

    def block(a, b):
        return 2 * a + 9 * a * b + 2 * b + 9 * b * b + (a * b if a != b else 0)

    stages = sum(block(a, b) + block(b, b) for a, b in [(16, 32), (32, 64), (64, 128)])
    assert size(params) == 9 * 3 * 16 + stages + 2 * 128 + 128 * 10 + 10
    # With 16 channels the first stage needs no shortcut of its own.
    assert abstract("wrn_16_1", width=16)[0]["block1"]["layer"][0].keys() == {"bn1", "bn2", "conv1", "conv2"}


@pytest.mark.parametrize("options", [{"patch_size": 5}, {"heads": 5}])
def test_vit_small_refuses_sizes_that_do_not_divide(options):
    with pytest.raises(UserError, match="expected patches to fill the image and heads the width"):
        abstract("vit_small", width=12, **options)


def test_preact_resnet18_by_hand():
    params, _ = abstract("preact_resnet18", num_classes=7, width=8)

    def block(a, b, shortcut):
        return 2 * a + 9 * a * b + 2 * b + 9 * b * b + (a * b if shortcut else 0)

    stages = sum(block(a, b, a != b) + block(b, b, False) for a, b in [(8, 8), (8, 16), (16, 32), (32, 64)])
    assert size(params) == 9 * 3 * 8 + stages + 64 * 7 + 7


def test_preact_resnet18_halves_the_image_three_times():
    module = abstract_model("preact_resnet18", 3, 32, width=2)

    def outputs(module, x):
        module.eval()
        x = module.conv1(x)
        stages = (module.layer1, module.layer2, module.layer3, module.layer4)
        return [x := block(x) for stage in stages for block in stage]

    sizes = [out.shape[1:] for out in nnx.eval_shape(outputs, module, jnp.zeros((1, 32, 32, 3)))]
    expected = [(32, 32, 2), (16, 16, 4), (8, 8, 8), (4, 4, 16)]
    assert sizes == [shape for shape in expected for _ in range(2)]


def test_preact_block_by_hand():
    # With both 3x3 convolutions zero only the shortcut is left. BatchNorm is almost the identity.
    def shortcut(a, b, x):
        block = PreActBlock(a, b, 1, rngs=nnx.Rngs(0))
        block.eval()
        for conv in (block.conv1, block.conv2):
            conv.kernel[...] = jnp.zeros_like(conv.kernel[...])
        if block.shortcut:
            block.shortcut[0].kernel[...] = jnp.array([[[[3.0, -5.0]]]])
        return block(jnp.full((1, 1, 1, 1), x)).ravel()

    # The input itself where the shapes agree, otherwise a convolution of its ReLU: 3 * 2 and -5 * 2.
    np.testing.assert_allclose(shortcut(1, 1, -2.0), [-2.0], rtol=1e-5)
    np.testing.assert_allclose(shortcut(1, 2, -2.0), [0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(shortcut(1, 2, 2.0), [6.0, -10.0], rtol=1e-5)


def test_the_gradients_of_elu_are_those_of_its_smooth_half():
    """exp(x) - 1 for x <= 0 has exp(x) for every derivative, at zero too, where a black border lies."""
    points = jnp.asarray([-1.0, 0.0, 2.0])
    slope, curvature = jax.grad(elu), jax.grad(jax.grad(elu))
    np.testing.assert_allclose(jax.vmap(slope)(points), [np.exp(-1), 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(curvature)(points), [np.exp(-1), 1.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("image_size, features", [(32, 128 * 16), (24, 128 * 9)])
def test_small_vgg_by_hand(image_size, features):
    params, statistics = abstract("small_vgg", num_classes=43, image_size=image_size)
    widths = [3, 32, 32, 64, 64, 128, 128]
    # Kernel and bias of each convolution, scale and bias of each BatchNorm.
    convolutions = sum(9 * a * b + b + 2 * b for a, b in itertools.pairwise(widths))
    assert size(params) == convolutions + features * 43 + 43
    assert size(statistics) == 2 * sum(widths[1:])


def test_of_equal_pixels_one_has_the_whole_gradient():
    image = jnp.asarray([[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 2.0, 2.0]])[None, :, :, None]
    np.testing.assert_array_equal(max_pool(image)[0, 0, :, 0], [0.0, 2.0])
    found = jax.jit(jax.grad(lambda x: (max_pool(x) * jnp.asarray([3.0, 5.0])[None, None, :, None]).sum()))(
        image
    )
    # Rows first: on the right the lower left 2 wins over the 1, then the two that are left are equal.
    np.testing.assert_array_equal(found[0, :, :, 0], [[3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0]])


def test_small_vgg_flattens_channels_first():
    # A 16 x 16 image gives features [4 channels, 2, 2], of which entry 1 is channel 0, row 0, column 1: the
    # top right quarter of the image. Channels last it would be channel 1 of the top left one.
    module = create_model("small_vgg", 1, 16, 0, width=1)
    module.eval()
    module.classifier.kernel[...] = jnp.zeros((16, 1)).at[1].set(1.0)
    # Kernels that see one pixel alone keep the quarters apart.
    for conv in (module.features[index] for index in ("0", "3", "8", "11", "16", "19")):
        conv.kernel[...] = jnp.zeros_like(conv.kernel[...]).at[1, 1].set(1.0)
    apply = nnx.jit(module)
    for rows in (slice(0, 8), slice(8, 16)):
        for columns in (slice(0, 8), slice(8, 16)):
            logit = apply(jnp.zeros((1, 16, 16, 3)).at[:, rows, columns].set(1.0))
            assert (logit.item() > 0.5) == (rows.start == 0 and columns.start == 8)


@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_is_that_of_pytorch(name):
    modules = nnx.iter_modules(abstract_model(name, 3, 32, width=3))
    norms = [part for _, part in modules if isinstance(part, nnx.BatchNorm)]
    counts = {
        "preact_resnet18": 16,
        "resnet18": 20,
        "small_vgg": 6,
        "vgg19_bn": 16,
        "vit_small": 0,
        "wrn_16_1": 13,
    }
    assert len(norms) == counts[name]
    # PyTorch's momentum of 0.1 is the new statistics' share, Flax's the old ones'.
    assert {(norm.momentum, norm.epsilon) for norm in norms} <= {(0.9, 1e-5)}


def test_weights_depend_on_the_seed_alone():
    first, again, other = (
        np.asarray(create_model("small_vgg", 3, 8, seed, width=1).classifier.kernel[...])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_weights_are_what_flax_draws_from_the_seed():
    expected = nnx.state(MODELS["small_vgg"](3, 8, width=2, rngs=nnx.Rngs(7)))
    found = nnx.state(create_model("small_vgg", 3, 8, 7, width=2))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jax.dtypes.issubdtype(theirs.dtype, jax.dtypes.prng_key):
            ours, theirs = map(jax.random.key_data, (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_unknown_networks_are_named():
    with pytest.raises(UserError, match=r"model\.name: found 'lenet', expected one of "):
        create_model("lenet", 10, 32, 0)


@pytest.mark.parametrize("option", ["depth", "rngs", "self"])
def test_unknown_options_are_named(option):
    # Those of the constructor that are not the user's are no options either.
    with pytest.raises(UserError, match=rf"model\.{option}: the network small_vgg has no such option"):
        create_model("small_vgg", 10, 32, 0, **{option: 1})


@pytest.mark.parametrize("width", [0, -1, 1.5, "8", None, True])
def test_bad_widths_are_named(width):
    with pytest.raises(UserError, match=r"model\.width: found .* expected a whole number"):
        create_model("small_vgg", 10, 32, 0, width=width)


def test_drop_draws_the_mask_of_nnx():
    layer, x = nnx.Dropout(0.4), jnp.ones((8, 4, 4, 3))
    dropped = drop(layer, x, nnx.Rngs(dropout=1))
    np.testing.assert_array_equal(dropped, layer(x, rngs=nnx.Rngs(dropout=1)))
    assert 0.5 < float((dropped > 0).mean()) < 0.7
