"""`preact_resnet18`: the network of most published results, in BackdoorBench's variant."""

from flax import nnx

from fip_jax.models.layers import conv, norm
from fip_jax.models.resnet18 import Trunk


class PreActBlock(nnx.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice; the shortcut starts after the first ReLU."""

    def __init__(self, a: int, b: int, stride: int, *, rngs: nnx.Rngs):
        self.bn1 = norm(a, rngs=rngs)
        self.conv1 = conv(a, b, 3, stride, rngs=rngs)
        self.bn2 = norm(b, rngs=rngs)
        self.conv2 = conv(b, b, 3, rngs=rngs)
        needed = stride != 1 or a != b
        self.shortcut = nnx.List([conv(a, b, 1, stride, rngs=rngs)] if needed else [])

    def __call__(self, x):
        out = nnx.relu(self.bn1(x))
        shortcut = self.shortcut[0](out) if self.shortcut else x
        return self.conv2(nnx.relu(self.bn2(self.conv1(out)))) + shortcut


class PreActResNet18(Trunk):
    """Pre-activation ResNet-18 for small images, without a last BatchNorm or ReLU before the pooling.

    Source: He et al. (2016), https://arxiv.org/abs/1603.05027, as varied by BackdoorBench.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first stage (64 in the literature); the last has eight times as many.
      rngs: source of the initial weights.
    """

    def __init__(self, num_classes: int, image_size: int = 32, width: int = 64, *, rngs: nnx.Rngs):
        super().__init__(PreActBlock, num_classes, width, rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, 3]`; `rngs` is not used, there is no dropout."""
        return self.classify(self.conv1(x))
