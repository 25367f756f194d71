"""`wrn_16_1`: the wide ResNet of depth 16 that NAD's published models have."""

import jax.numpy as jnp
from flax import nnx

from fip_jax.models.layers import conv, norm

_STEM = 16


class WideBlock(nnx.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice.

    Where the number of channels changes, the shortcut starts after the first ReLU; elsewhere it is the input itself.
    """

    def __init__(self, a: int, b: int, stride: int, *, rngs: nnx.Rngs):
        self.bn1 = norm(a, rngs=rngs)
        self.conv1 = conv(a, b, 3, stride, rngs=rngs)
        self.bn2 = norm(b, rngs=rngs)
        self.conv2 = conv(b, b, 3, rngs=rngs)
        self.convShortcut = conv(a, b, 1, stride, rngs=rngs) if a != b else None

    def __call__(self, x):
        out = nnx.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(out)
        return self.conv2(nnx.relu(self.bn2(self.conv1(out)))) + shortcut


class WideResNet16(nnx.Module):
    """WRN-16-k: a stem of 16 channels, three stages of two blocks, global average pooling.

    Source: Zagoruyko and Komodakis (2016), https://arxiv.org/abs/1605.07146, as in Neural Attention Distillation
    (Li et al., 2021, https://arxiv.org/abs/2101.05930).

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first stage, 16 k; the next two have twice and four times as many.
      rngs: source of the initial weights.
    """

    def __init__(self, num_classes: int, image_size: int = 32, width: int = 16, *, rngs: nnx.Rngs):
        def stage(a: int, b: int, stride: int) -> nnx.Dict:
            blocks = [WideBlock(a, b, stride, rngs=rngs), WideBlock(b, b, 1, rngs=rngs)]
            return nnx.Dict(layer=nnx.List(blocks))

        self.conv1 = conv(3, _STEM, 3, rngs=rngs)
        self.block1 = stage(_STEM, width, 1)
        self.block2 = stage(width, 2 * width, 2)
        self.block3 = stage(2 * width, 4 * width, 2)
        self.bn1 = norm(4 * width, rngs=rngs)
        self.fc = nnx.Linear(4 * width, num_classes, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, 3]`; `rngs` is not used, there is no dropout."""
        x = self.conv1(x)
        for stage in (self.block1, self.block2, self.block3):
            for block in stage["layer"]:
                x = block(x)
        return self.fc(jnp.mean(nnx.relu(self.bn1(x)), axis=(1, 2)))

    @staticmethod
    def options(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        return {"num_classes": shapes["fc.weight"][0], "width": shapes["block1.layer.0.conv1.weight"][0]}
