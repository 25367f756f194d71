"""MobileNetV3, large and small, with torchvision's layers and names, of any width."""

from collections.abc import Sequence

from flax import nnx

from fip_jax.models.layers import chained, conv_norm, global_pool
from fip_jax.models.mbconv import MBConv, Sizes, columns, sizes_of
from fip_jax.models.naming import Options, Shapes

# By the number of blocks: their strides, and how many of them have ReLU, the others hard swish.
_PLANS = {
    15: ((1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1), 6),
    11: ((2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1), 3),
}
_EPSILON = 1e-3


class MobileNetV3(nnx.Module):
    """A 3x3 stem of stride 2, inverted residuals, a 1x1 convolution, global average pooling, two linear layers.

    Source: Howard et al. (2019), https://arxiv.org/abs/1905.02244, with torchvision's names of layers.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the stem.
      wide: of each block (15 in the large network, 11 in the small one) the channels between its 1x1 convolutions.
      out: channels that come out of each block.
      kernels: side of the kernel of each block.
      squeezed: channels in the squeeze-and-excitation of each block, 0 for none.
      last: channels before the pooling.
      hidden: units of the first linear layer.
      channels: of the images.
      rngs: source of the initial weights.

    Raises:
      ValueError: another number of blocks.
    """

    HEAD = "classifier.3"

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        width: int = 16,
        wide: Sequence[int] = (),
        out: Sequence[int] = (),
        kernels: Sequence[int] = (),
        squeezed: Sequence[int] = (),
        last: int = 960,
        hidden: int = 1280,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        if len(wide) not in _PLANS:
            raise ValueError(f"{len(wide)} blocks")
        strides, with_relu = _PLANS[len(wide)]
        squeeze = (nnx.relu, nnx.hard_sigmoid)
        layers: dict[str, nnx.Module] = {"0": conv_norm(channels, width, 3, 2, epsilon=_EPSILON, rngs=rngs)}
        a = width
        for index, block in enumerate(zip(wide, out, kernels, squeezed, strict=True)):
            activation = nnx.relu if index < with_relu else nnx.hard_swish
            sizes = Sizes(*block)
            layers[str(index + 1)] = MBConv(
                a, sizes, strides[index], activation, squeeze, _EPSILON, rngs=rngs
            )
            a = sizes.out
        layers[str(len(wide) + 1)] = conv_norm(a, last, 1, epsilon=_EPSILON, rngs=rngs)
        self.features, self.blocks = nnx.Dict(layers), len(wide)
        self.classifier = nnx.Dict(
            {
                "0": nnx.Linear(last, hidden, rngs=rngs),
                "2": nnx.Dropout(0.2),
                "3": nnx.Linear(hidden, num_classes, rngs=rngs),
            }
        )

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, channels]`."""
        x = nnx.hard_swish(chained(self.features["0"], x))
        for index in range(self.blocks):
            x = self.features[str(index + 1)](x)
        x = global_pool(nnx.hard_swish(chained(self.features[str(self.blocks + 1)], x)))
        head = self.classifier
        return head["3"](head["2"](nnx.hard_swish(head["0"](x)), rngs=rngs))

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        width, channels = shapes["features.0.0.weight"][:2]
        count = max(int(name.split(".")[1]) for name in shapes if name.startswith("features.")) - 1
        if count not in _PLANS:
            raise ValueError(f"{count} blocks")
        hidden, last = shapes["classifier.0.weight"]
        return {
            "num_classes": shapes["classifier.3.weight"][0],
            "width": width,
            **columns([sizes_of(shapes, f"features.{index + 1}.block") for index in range(count)]),
            "last": last,
            "hidden": hidden,
            "channels": channels,
        }
