"""Layers one after the other in words: answers against PyTorch's, suggestions, and refusals."""

import numpy as np
import pytest

import fip_jax
from fip_jax.errors import UserError
from fip_jax.interop import chain, torch_writer

NAMES = {
    "c1.weight": (4, 3, 3, 3),
    "c1.bias": (4,),
    "bn.weight": (4,),
    "bn.bias": (4,),
    "bn.running_mean": (4,),
    "bn.running_var": (4,),
    "c2.weight": (4, 1, 3, 3),
    "fc.weight": (5, 36),
    "fc.bias": (5,),
}
WORDS = "c1:p1 bn leaky_relu max3s2p1, c2:s2 silu avg2s1 flatten fc softmax"


def arrays(names=None):
    rng = np.random.default_rng(0)
    return {
        name: (rng.uniform(0.5, 1.5, shape) if "var" in name else rng.standard_normal(shape)).astype(
            np.float32
        )
        for name, shape in (names or NAMES).items()
    }


def load(tmp_path, names=None, **options):
    torch_writer.write(tmp_path / "x.pth", arrays(names))
    return fip_jax.load(tmp_path / "x.pth", **options)


def test_logits_are_those_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    from torch.nn import functional as f

    network = load(tmp_path, layers=WORDS, image_size=17)
    t = {name: torch.from_numpy(array) for name, array in arrays().items()}
    images = np.random.default_rng(1).random((3, 17, 17, 3)).astype(np.float32)
    x = f.conv2d(
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), t["c1.weight"], t["c1.bias"], padding=1
    )
    x = f.batch_norm(x, t["bn.running_mean"], t["bn.running_var"], t["bn.weight"], t["bn.bias"])
    x = f.max_pool2d(f.leaky_relu(x), 3, 2, 1)
    x = f.avg_pool2d(f.silu(f.conv2d(x, t["c2.weight"], stride=2, groups=4)), 2, 1)
    expected = f.linear(x.flatten(1), t["fc.weight"], t["fc.bias"]).numpy()
    found, _ = network.network(network.params, network.model_state, images)
    assert network.num_classes == 5
    np.testing.assert_allclose(found, expected, atol=1e-4)


MNIST = {"conv1": (10, 1, 5, 5), "conv2": (20, 10, 5, 5), "fc1": (50, 320), "fc2": (10, 50)}


def both(layers):
    return {
        f"{name}.{leaf}": shape if leaf == "weight" else shape[:1]
        for name, shape in layers.items()
        for leaf in ("weight", "bias")
    }


def test_examples_of_pytorch_are_known(tmp_path, capsys):
    network = load(tmp_path, both(MNIST), image_size=28)
    assert network.num_classes == 10
    assert network.network.grey
    assert "conv1 max2 relu conv2 max2 relu flatten fc1 relu fc2" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("layers", "size", "words"),
    [
        (
            {"a": (8, 3, 3, 3), "b": (16, 8, 3, 3), "c": (9, 1024), "d": (4, 9)},
            32,
            "a:p1 relu max2 b:p1 relu max2 flatten c relu d",
        ),
        ({"a": (8, 3, 5, 5), "b": (16, 8, 5, 5), "c": (4, 400)}, 32, "a relu max2 b relu max2 flatten c"),
        ({"a": (8, 3, 3, 3), "b": (8, 8, 3, 3), "c": (4, 2048)}, 32, "a:p1 relu b:p1 relu max2 flatten c"),
        ({"a": (8, 3, 3, 3), "b": (4, 8)}, 32, "a:p1 relu max2 mean flatten b"),
        ({"a": (8, 3, 3, 3), "b": (4, 77)}, 32, ""),
        ({"a": (8, 3, 3), "b": (4, 77)}, 32, ""),
    ],
)
def test_words_that_fit_are_suggested(layers, size, words):
    assert chain.suggestion(both(layers), size) == words


def test_a_network_that_is_not_known_is_refused_with_a_suggestion(tmp_path):
    layers = {"a": (8, 3, 5, 5), "b": (16, 8, 5, 5), "c": (4, 400)}
    with pytest.raises(
        UserError, match=r'say it with model\.layers, perhaps "a relu max2 b relu max2 flatten c"'
    ):
        load(tmp_path, both(layers))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("c1 bn rlu", r"found 'rlu', expected a layer of the file \(bn, c1, c2, fc\)"),
        ("c1 bn relu c2 flatten", r"found nothing of fc\.weight, fc\.bias"),
        ("c1:p1 bn max2 c2 flatten fc", "cannot be run on images of 17 pixels"),
        ("relu", "found nothing of c1.weight"),
    ],
)
def test_words_that_mean_nothing(words, part, tmp_path):
    with pytest.raises(UserError, match=part):
        load(tmp_path, layers=words, image_size=17)
