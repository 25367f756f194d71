"""Published networks are named by their tensors, whatever the number of classes, also those that are not known here."""

import numpy as np
import pytest

import fip_jax
from fip_jax.errors import UserError
from fip_jax.interop import torch_writer
from fip_jax.interop.signatures import published_name, signature

# torchvision's AlexNet: the channels of its convolutions and the side of their kernels, then its linear layers.
CONVOLUTIONS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
LINEARS = {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)}


def alexnet(num_classes):
    shapes = {}
    for place, (b, a, side) in CONVOLUTIONS.items():
        shapes |= {f"features.{place}.weight": (b, a, side, side), f"features.{place}.bias": (b,)}
    for place, (b, a) in LINEARS.items():
        b = num_classes if place == 6 else b
        shapes |= {f"classifier.{place}.weight": (b, a), f"classifier.{place}.bias": (b,)}
    return shapes


@pytest.mark.parametrize("num_classes", [1000, 10])
def test_alexnet_is_named(num_classes):
    assert published_name(alexnet(num_classes)) == "torchvision's alexnet"
    counted = alexnet(num_classes) | {"features.0.num_batches_tracked": ()}
    assert published_name(counted) == "torchvision's alexnet"


def test_another_network_has_another_signature():
    shapes = alexnet(1000)
    assert signature(shapes) != signature(shapes | {"features.0.bias": (63,)})
    assert published_name(shapes | {"features.0.bias": (63,)}) == ""
    assert published_name({}) == ""


def test_a_refusal_says_which_network_it_is(tmp_path, monkeypatch):
    small = {key: tuple(min(n, 2) for n in shape) for key, shape in alexnet(2).items()}
    monkeypatch.setattr("fip_jax.interop.signatures._index", lambda: {signature(small): "timm's thing"})
    torch_writer.write(tmp_path / "x.pth", {key: np.zeros(s, np.float32) for key, s in small.items()})
    with pytest.raises(UserError, match="this is timm's thing: export it to ONNX"):
        fip_jax.load(tmp_path / "x.pth")
