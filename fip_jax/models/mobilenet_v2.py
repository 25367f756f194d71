"""MobileNetV2 with torchvision's layers and names, of any width."""

from collections.abc import Sequence

from flax import nnx

from fip_jax.models.layers import chained, conv, conv_norm, global_pool, norm
from fip_jax.models.naming import Naming, Options, Shapes

# Of each of the seventeen blocks.
_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


class InvertedResidual(nnx.Module):
    """1x1 convolution to more channels, 3x3 convolution of each channel, 1x1 convolution without activation."""

    def __init__(self, a: int, middle: int, b: int, stride: int, expands: bool, *, rngs: nnx.Rngs):
        parts: list[nnx.Module] = []
        if expands:
            parts.append(conv_norm(a, middle, 1, rngs=rngs))
        parts.append(conv_norm(middle, middle, 3, stride, groups=middle, rngs=rngs))
        parts += [conv(middle, b, 1, rngs=rngs), norm(b, rngs=rngs)]
        self.conv = nnx.List(parts)
        self.adds = stride == 1 and a == b

    def __call__(self, x):
        y = x
        for part in self.conv:
            y = nnx.relu6(chained(part, y)) if isinstance(part, nnx.Dict) else part(y)
        return x + y if self.adds else y


class MobileNetV2(nnx.Module):
    """A 3x3 stem of stride 2, seventeen inverted residuals, a 1x1 convolution, global average pooling.

    Source: Sandler et al. (2018), https://arxiv.org/abs/1801.04381, with torchvision's names of layers.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the stem.
      wide: channels of each block between its 1x1 convolutions.
      out: channels that come out of each block.
      last: channels before the pooling.
      channels: of the images.
      rngs: source of the initial weights.
    """

    HEAD = "classifier.1"
    NAMINGS = (
        # timm's names; its first block has no 1x1 convolution before the other.
        Naming(
            (r"^conv_stem\.", "features.0.0."),
            (r"^bn1\.", "features.0.1."),
            (r"^blocks\.0\.0\.conv_dw\.", "features.1.conv.0.0."),
            (r"^blocks\.0\.0\.bn1\.", "features.1.conv.0.1."),
            (r"^blocks\.0\.0\.conv_pw\.", "features.1.conv.1."),
            (r"^blocks\.0\.0\.bn2\.", "features.1.conv.2."),
            (r"^blocks\.(\d)\.(\d)\.", lambda m: f"features.{_FIRST[int(m[1])] + int(m[2])}."),
            (r"\.conv_pw\.", ".conv.0.0."),
            (r"(features\.\d+)\.bn1\.", r"\1.conv.0.1."),
            (r"\.conv_dw\.", ".conv.1.0."),
            (r"(features\.\d+)\.bn2\.", r"\1.conv.1.1."),
            (r"\.conv_pwl\.", ".conv.2."),
            (r"(features\.\d+)\.bn3\.", r"\1.conv.3."),
            (r"^conv_head\.", "features.18.0."),
            (r"^bn2\.", "features.18.1."),
        ),
    )

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        width: int = 32,
        wide: Sequence[int] = (),
        out: Sequence[int] = (),
        last: int = 1280,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        layers: dict[str, nnx.Module] = {"0": conv_norm(channels, width, 3, 2, rngs=rngs)}
        a = width
        for index, (middle, b, stride) in enumerate(zip(wide, out, _STRIDES, strict=True), 1):
            layers[str(index)] = InvertedResidual(a, middle, b, stride, index > 1, rngs=rngs)
            a = b
        layers["18"] = conv_norm(a, last, 1, rngs=rngs)
        self.features = nnx.Dict(layers)
        self.classifier = nnx.Dict({"0": nnx.Dropout(0.2), "1": nnx.Linear(last, num_classes, rngs=rngs)})

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, channels]`."""
        for index in range(len(_STRIDES) + 2):
            part = self.features[str(index)]
            x = nnx.relu6(chained(part, x)) if isinstance(part, nnx.Dict) else part(x)
        return self.classifier["1"](self.classifier["0"](global_pool(x), rngs=rngs))

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        width, channels = shapes["features.0.0.weight"][:2]
        blocks = range(2, len(_STRIDES) + 1)
        return {
            "num_classes": shapes["classifier.1.weight"][0],
            "width": width,
            "wide": (width, *(shapes[f"features.{i}.conv.1.0.weight"][0] for i in blocks)),
            "out": (
                shapes["features.1.conv.1.weight"][0],
                *(shapes[f"features.{i}.conv.2.weight"][0] for i in blocks),
            ),
            "last": shapes["features.18.0.weight"][0],
            "channels": channels,
        }


# Of timm's seven stages the first block's index here.
_FIRST = (1, 2, 4, 7, 11, 14, 17)
