"""`preact_resnet18`: the network of most published results, in BackdoorBench's variant."""

import jax.numpy as jnp
from flax import nnx


def _conv(a: int, b: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        a,
        b,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        rngs=rngs,
    )


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


class PreActBlock(nnx.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice; the shortcut starts after the first ReLU."""

    def __init__(self, a: int, b: int, stride: int, *, rngs: nnx.Rngs):
        self.bn1 = _norm(a, rngs)
        self.conv1 = _conv(a, b, 3, stride, rngs)
        self.bn2 = _norm(b, rngs)
        self.conv2 = _conv(b, b, 3, 1, rngs)
        self.shortcut = _conv(a, b, 1, stride, rngs) if stride != 1 or a != b else None

    def __call__(self, x):
        out = nnx.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(nnx.relu(self.bn2(self.conv1(out)))) + shortcut


class PreActResNet18(nnx.Module):
    """Pre-activation ResNet-18 for small images, without a last BatchNorm or ReLU before the pooling.

    Source: He et al. (2016), https://arxiv.org/abs/1603.05027, as varied by BackdoorBench.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first stage (64 in the literature); the last has eight times as many.
      rngs: source of the initial weights.
    """

    def __init__(self, num_classes: int, image_size: int = 32, width: int = 64, *, rngs: nnx.Rngs):
        self.conv1 = _conv(3, width, 3, 1, rngs)
        blocks, a = [], width
        for b, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            blocks += [PreActBlock(a, b, stride, rngs=rngs), PreActBlock(b, b, 1, rngs=rngs)]
            a = b
        self.blocks = nnx.List(blocks)
        self.linear = nnx.Linear(a, num_classes, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, 3]`; `rngs` is not used, there is no dropout."""
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        return self.linear(jnp.mean(x, axis=(1, 2)))
