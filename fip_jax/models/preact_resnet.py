"""ResNets with the activation before the convolution: the network of most published results, in BackdoorBench's variant."""

from collections.abc import Sequence

from flax import nnx

from fip_jax.models.layers import conv, global_pool, norm
from fip_jax.models.naming import Options, Shapes
from fip_jax.models.resnet import NAMINGS, Trunk, blocks_in, sizes_in


class PreActBlock(nnx.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice; the shortcut starts after the first ReLU."""

    def __init__(self, a: int, b: int, stride: int, *, rngs: nnx.Rngs):
        self.bn1 = norm(a, rngs=rngs)
        self.conv1 = conv(a, b, 3, stride, rngs=rngs)
        self.bn2 = norm(b, rngs=rngs)
        self.conv2 = conv(b, b, 3, rngs=rngs)
        needed = stride != 1 or a != b
        self.shortcut = nnx.List([conv(a, b, 1, stride, rngs=rngs)] if needed else [])
        self.channels = b

    def __call__(self, x):
        out = nnx.relu(self.bn1(x))
        shortcut = self.shortcut[0](out) if self.shortcut else x
        return self.conv2(nnx.relu(self.bn2(self.conv1(out)))) + shortcut


class PreActBottleneck(nnx.Module):
    """BatchNorm, ReLU and a convolution, three times: 1x1, 3x3 with the stride, 1x1 to four times the width."""

    def __init__(self, a: int, b: int, stride: int, *, rngs: nnx.Rngs):
        self.bn1 = norm(a, rngs=rngs)
        self.conv1 = conv(a, b, 1, rngs=rngs)
        self.bn2 = norm(b, rngs=rngs)
        self.conv2 = conv(b, b, 3, stride, rngs=rngs)
        self.bn3 = norm(b, rngs=rngs)
        self.conv3 = conv(b, 4 * b, 1, rngs=rngs)
        needed = stride != 1 or a != 4 * b
        self.shortcut = nnx.List([conv(a, 4 * b, 1, stride, rngs=rngs)] if needed else [])
        self.channels = 4 * b

    def __call__(self, x):
        out = nnx.relu(self.bn1(x))
        shortcut = self.shortcut[0](out) if self.shortcut else x
        out = self.conv2(nnx.relu(self.bn2(self.conv1(out))))
        return self.conv3(nnx.relu(self.bn3(out))) + shortcut


class PreActResNet(Trunk):
    """Pre-activation ResNet of any depth for small images.

    Source: He et al. (2016), https://arxiv.org/abs/1603.05027, as varied by BackdoorBench: without a BatchNorm and ReLU before
    the pooling, unless `last_norm`.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first stage's blocks.
      blocks: their number in each stage.
      bottleneck: whether blocks have three convolutions.
      last_norm: whether BatchNorm and ReLU come before the pooling.
      channels: of the images.
      rngs: source of the initial weights.
    """

    NAMINGS, HEAD = NAMINGS, "linear"

    def __init__(
        self,
        num_classes: int,
        image_size: int = 32,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        bottleneck: int = 0,
        last_norm: int = 0,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        block = PreActBottleneck if bottleneck else PreActBlock
        super().__init__(block, num_classes, width, blocks, 3, channels, rngs)
        self.bn = norm(self.linear.in_features, rngs=rngs) if last_norm else None

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, channels]`; `rngs` is not used, there is no dropout."""
        x = self.stage_outputs(self.conv1(x))
        return self.linear(global_pool(x if self.bn is None else nnx.relu(self.bn(x))))

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        sizes = sizes_in(shapes)
        del sizes["stem"]
        return {
            **sizes,
            "blocks": blocks_in(shapes),
            "bottleneck": int("layer1.0.conv3.weight" in shapes),
            "last_norm": int("bn.weight" in shapes),
        }


class PreActResNet18(PreActResNet):
    """Pre-activation ResNet-18 for small images, without a last BatchNorm or ReLU before the pooling.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first stage (64 in the literature); the last has eight times as many.
      channels: of the images.
      rngs: source of the initial weights.
    """

    def __init__(
        self, num_classes: int, image_size: int = 32, width: int = 64, channels: int = 3, *, rngs: nnx.Rngs
    ):
        super().__init__(num_classes, image_size, width, channels=channels, rngs=rngs)

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        sizes = sizes_in(shapes)
        del sizes["stem"]
        return dict(sizes)
