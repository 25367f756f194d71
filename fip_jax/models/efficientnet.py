"""EfficientNet B0 to B7, with torchvision's layers and names, or timm's names for the same layers."""

from collections.abc import Sequence

import jax
from flax import nnx

from fip_jax.models.layers import chained, conv_norm, global_pool
from fip_jax.models.mbconv import MBConv, Sizes, columns, sizes_of
from fip_jax.models.naming import Naming, Options, Shapes

_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage
_LARGE = 48  # width from which on (B5) torchvision's BatchNorm has another epsilon


class EfficientNet(nnx.Module):
    """A 3x3 stem of stride 2, seven stages of inverted residuals, a 1x1 convolution, global average pooling.

    Source: Tan and Le (2019), https://arxiv.org/abs/1905.11946, with torchvision's names of layers. Its random depth in
    training is left out.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the stem.
      blocks: their number in each stage.
      wide: of each block the channels between its 1x1 convolutions.
      out: channels that come out of each block.
      kernels: side of the kernel of each block.
      squeezed: channels in the squeeze-and-excitation of each block.
      last: channels before the pooling.
      channels: of the images.
      rngs: source of the initial weights.
    """

    HEAD = "classifier.1"
    NAMINGS = (
        # timm's names; the blocks of its first stage have no 1x1 convolution before the other.
        Naming(
            (r"^conv_stem\.", "features.0.0."),
            (r"^bn1\.", "features.0.1."),
            (r"^conv_head\.", "features.8.0."),
            (r"^bn2\.", "features.8.1."),
            (r"^classifier\.(weight|bias)", r"classifier.1.\1"),
            (r"\.se\.conv_reduce\.", ".se.fc1."),
            (r"\.se\.conv_expand\.", ".se.fc2."),
            (r"^(blocks\.0\.\d+)\.conv_dw\.", r"\1.block.0.0."),
            (r"^(blocks\.0\.\d+)\.bn1\.", r"\1.block.0.1."),
            (r"^(blocks\.0\.\d+)\.se\.", r"\1.block.1."),
            (r"^(blocks\.0\.\d+)\.conv_pw\.", r"\1.block.2.0."),
            (r"^(blocks\.0\.\d+)\.bn2\.", r"\1.block.2.1."),
            (r"\.conv_pw\.", ".block.0.0."),
            (r"(blocks\.\d+\.\d+)\.bn1\.", r"\1.block.0.1."),
            (r"\.conv_dw\.", ".block.1.0."),
            (r"(blocks\.\d+\.\d+)\.bn2\.", r"\1.block.1.1."),
            (r"(blocks\.\d+\.\d+)\.se\.", r"\1.block.2."),
            (r"\.conv_pwl\.", ".block.3.0."),
            (r"(blocks\.\d+\.\d+)\.bn3\.", r"\1.block.3.1."),
            (r"^blocks\.(\d)\.", lambda m: f"features.{int(m[1]) + 1}."),
        ),
    )

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        width: int = 32,
        blocks: Sequence[int] = (),
        wide: Sequence[int] = (),
        out: Sequence[int] = (),
        kernels: Sequence[int] = (),
        squeezed: Sequence[int] = (),
        last: int = 1280,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        epsilon = 1e-3 if width >= _LARGE else 1e-5
        layers: dict[str, nnx.Module] = {"0": conv_norm(channels, width, 3, 2, epsilon=epsilon, rngs=rngs)}
        sizes = iter([Sizes(*block) for block in zip(wide, out, kernels, squeezed, strict=True)])
        a = width
        for stage, count in enumerate(blocks):
            found = []
            for place in range(count):
                size, stride = next(sizes), 1 if place else _STRIDES[stage]
                squeeze = (jax.nn.silu, jax.nn.sigmoid)
                found.append(MBConv(a, size, stride, jax.nn.silu, squeeze, epsilon, rngs=rngs))
                a = size.out
            layers[str(stage + 1)] = nnx.List(found)
        layers[str(len(blocks) + 1)] = conv_norm(a, last, 1, epsilon=epsilon, rngs=rngs)
        self.features, self.stages = nnx.Dict(layers), len(blocks)
        self.classifier = nnx.Dict({"0": nnx.Dropout(0.2), "1": nnx.Linear(last, num_classes, rngs=rngs)})

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, channels]`."""
        x = jax.nn.silu(chained(self.features["0"], x))
        for stage in range(self.stages):
            for block in self.features[str(stage + 1)]:
                x = block(x)
        x = global_pool(jax.nn.silu(chained(self.features[str(self.stages + 1)], x)))
        return self.classifier["1"](self.classifier["0"](x, rngs=rngs))

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        width, channels = shapes["features.0.0.weight"][:2]
        blocks, sizes = [], []
        for stage in range(1, len(_STRIDES) + 1):
            places = {int(n.split(".")[2]) for n in shapes if n.startswith(f"features.{stage}.")}
            blocks.append(len(places))
            sizes += [sizes_of(shapes, f"features.{stage}.{place}.block") for place in sorted(places)]
        return {
            "num_classes": shapes["classifier.1.weight"][0],
            "width": width,
            "blocks": tuple(blocks),
            **columns(sizes),
            "last": shapes["classifier.1.weight"][1],
            "channels": channels,
        }
