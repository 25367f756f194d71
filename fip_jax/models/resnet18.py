"""`resnet18`: ResNet-18 for small images, with the activation after the sum."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from fip_jax.models.layers import conv, norm

_STRIDES = (1, 2, 2, 2)


class Trunk(nnx.Module):
    """What both kinds of ResNet-18 have: a 3x3 stem of stride 1, four stages of two blocks, pooling, one linear layer.

    Args:
      block: `(channels in, channels out, stride, rngs=...)`.
      num_classes: length of the logits.
      width: channels of the first stage (64 in the literature); the last has eight times as many.
      rngs: source of the initial weights.
    """

    def __init__(self, block: Callable[..., nnx.Module], num_classes: int, width: int, rngs: nnx.Rngs):
        self.conv1 = conv(3, width, 3, rngs=rngs)
        found, a = [], width
        for index, stride in enumerate(_STRIDES):
            b = width << index
            found.append(nnx.List([block(a, b, stride, rngs=rngs), block(b, b, 1, rngs=rngs)]))
            a = b
        self.layer1, self.layer2, self.layer3, self.layer4 = found
        self.linear = nnx.Linear(a, num_classes, rngs=rngs)

    def classify(self, x):
        """Logits `[N, num_classes]` of the stem's output `[N, H, W, width]`."""
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x)
        return self.linear(jnp.mean(x, axis=(1, 2)))

    @staticmethod
    def options(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        return {"num_classes": shapes["linear.weight"][0], "width": shapes["conv1.weight"][0]}


class BasicBlock(nnx.Module):
    """A 3x3 convolution and BatchNorm, twice, with a ReLU between them and one after the sum."""

    def __init__(self, a: int, b: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = conv(a, b, 3, stride, rngs=rngs)
        self.bn1 = norm(b, rngs=rngs)
        self.conv2 = conv(b, b, 3, rngs=rngs)
        self.bn2 = norm(b, rngs=rngs)
        needed = stride != 1 or a != b
        self.shortcut = nnx.List([conv(a, b, 1, stride, rngs=rngs), norm(b, rngs=rngs)] if needed else [])

    def __call__(self, x):
        out = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        for layer in self.shortcut:
            x = layer(x)
        return nnx.relu(out + x)


class ResNet18(Trunk):
    """ResNet-18 with a 3x3 stem of stride 1 and no max pooling, for small images.

    Source: He et al. (2015), https://arxiv.org/abs/1512.03385; the stem is that of most work on CIFAR-10.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first stage (64 in the literature); the last has eight times as many.
      rngs: source of the initial weights.
    """

    # torchvision's names for the same layers.
    ALIASES = {"downsample": "shortcut", "fc": "linear"}  # noqa: RUF012 - a ClassVar would be a variable to NNX

    def __init__(self, num_classes: int, image_size: int = 32, width: int = 64, *, rngs: nnx.Rngs):
        super().__init__(BasicBlock, num_classes, width, rngs)
        self.bn1 = norm(width, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, 3]`; `rngs` is not used, there is no dropout."""
        return self.classify(nnx.relu(self.bn1(self.conv1(x))))
