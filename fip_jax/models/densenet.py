"""DenseNets: torchvision's, those of the same names for small images, and kuangliu's for CIFAR-10."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from fip_jax.models.layers import conv, global_pool, max_pool_over, norm
from fip_jax.models.naming import Naming, Options, Shapes


class DenseLayer(nnx.Module):
    """BatchNorm, ReLU and a 1x1 convolution, then the same with a 3x3 one, whose channels are few."""

    def __init__(self, a: int, middle: int, growth: int, *, rngs: nnx.Rngs):
        self.norm1 = norm(a, rngs=rngs)
        self.conv1 = conv(a, middle, 1, rngs=rngs)
        self.norm2 = norm(middle, rngs=rngs)
        self.conv2 = conv(middle, growth, 3, rngs=rngs)

    def __call__(self, x):
        x = self.conv1(nnx.relu(self.norm1(x)))
        return self.conv2(nnx.relu(self.norm2(x)))


class DenseNet(nnx.Module):
    """Blocks of layers each of which sees what all before it in the block have found.

    Source: Huang et al. (2016), https://arxiv.org/abs/1608.06993, with torchvision's names of layers.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first convolution.
      blocks: number of layers in each block.
      growth: channels that a layer adds.
      middle: channels of a layer's 1x1 convolution.
      stem: side of the first kernel: 7 with a stride of 2, BatchNorm, ReLU and pooling behind it, or 3 without these.
      prepended: whether what a layer adds comes before what it was given (kuangliu's), or after (torchvision's).
      channels: of the images.
      rngs: source of the initial weights.
    """

    HEAD = "classifier"
    NAMINGS = (
        # What torchvision's published files are called, then kuangliu's.
        Naming((r"\.(norm|conv)\.([12])\.", r".\1\2.")),
        Naming(
            (r"^linear\.", "classifier."),
            (r"^bn\.", "features.norm5."),
            (r"^conv1\.", "kuangliu.conv0."),
            (r"^dense(\d)\.(\d+)\.bn([12])\.", lambda m: _layer(m[1], m[2], f"norm{m[3]}")),
            (r"^dense(\d)\.(\d+)\.conv([12])\.", lambda m: _layer(m[1], m[2], f"conv{m[3]}")),
            (r"^trans(\d)\.bn\.", r"features.transition\1.norm."),
            (r"^trans(\d)\.conv\.", r"features.transition\1.conv."),
        ),
    )

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        width: int = 64,
        blocks: Sequence[int] = (6, 12, 24, 16),
        growth: int = 32,
        middle: int = 128,
        stem: int = 7,
        prepended: int = 0,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        first = conv(channels, width, stem, 2 if stem == 7 else 1, rngs=rngs)
        layers: dict[str, nnx.Module] = {}
        if prepended:
            self.kuangliu = nnx.Dict(conv0=first)
        else:
            layers["conv0"] = first
        if stem == 7:
            layers["norm0"] = norm(width, rngs=rngs)
        a = width
        for index, count in enumerate(blocks, 1):
            if index > 1:
                layers[f"transition{index - 1}"] = nnx.Dict(
                    norm=norm(a, rngs=rngs), conv=conv(a, a // 2, 1, rngs=rngs)
                )
                a //= 2
            layers[f"denseblock{index}"] = nnx.Dict(
                {
                    f"denselayer{place}": DenseLayer(a + (place - 1) * growth, middle, growth, rngs=rngs)
                    for place in range(1, count + 1)
                }
            )
            a += count * growth
        layers[f"norm{len(blocks) + 1}"] = norm(a, rngs=rngs)
        self.features = nnx.Dict(layers)
        self.blocks, self.stem, self.prepended = tuple(blocks), stem, bool(prepended)
        self.classifier = nnx.Linear(a, num_classes, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, channels]`; `rngs` is not used, there is no dropout."""
        parts = self.features
        x = self.kuangliu["conv0"](x) if self.prepended else parts["conv0"](x)
        if self.stem == 7:
            x = max_pool_over(nnx.relu(parts["norm0"](x)), 3, 2, 1)
        for index, count in enumerate(self.blocks, 1):
            if index > 1:
                transition = parts[f"transition{index - 1}"]
                x = transition["conv"](nnx.relu(transition["norm"](x)))
                x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
            for place in range(1, count + 1):
                found = parts[f"denseblock{index}"][f"denselayer{place}"](x)
                x = jnp.concatenate([found, x] if self.prepended else [x, found], axis=-1)
        return self.classifier(global_pool(nnx.relu(parts[f"norm{len(self.blocks) + 1}"](x))))

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        prepended = "kuangliu.conv0.weight" in shapes
        first = shapes["kuangliu.conv0.weight" if prepended else "features.conv0.weight"]
        blocks = []
        while f"features.denseblock{len(blocks) + 1}.denselayer1.conv1.weight" in shapes:
            begin = f"features.denseblock{len(blocks) + 1}.denselayer"
            blocks.append(sum(n.startswith(begin) and n.endswith(".conv1.weight") for n in shapes))
        growth, middle = shapes["features.denseblock1.denselayer1.conv2.weight"][:2]
        return {
            "num_classes": shapes["classifier.weight"][0],
            "width": first[0],
            "blocks": tuple(blocks),
            "growth": growth,
            "middle": middle,
            "stem": first[2],
            "prepended": int(prepended),
            "channels": first[1],
        }


def _layer(block: str, place: str, name: str) -> str:
    return f"features.denseblock{block}.denselayer{int(place) + 1}.{name}."
