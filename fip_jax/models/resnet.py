"""ResNets with the activation after the sum: 18 to 152 layers with both stems, and those of 20 to 110 for CIFAR."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx

from fip_jax.models.layers import conv, global_pool, max_pool_over, norm
from fip_jax.models.naming import Naming, Options, Shapes

_EXPANSION = 4  # of a bottleneck


class Trunk(nnx.Module):
    """What all ResNets have: a stem, stages that halve the image, global average pooling, one linear layer.

    Args:
      block: `(channels in, width, stride, rngs=...)` with the attribute `channels`, of what comes out.
      num_classes: length of the logits.
      width: of the blocks of the first stage; each further one has twice as many channels.
      blocks: their number in each stage.
      stem: side of the first kernel; one of more than 5 has a stride of 2.
      channels: of the images.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        block: Callable[..., nnx.Module],
        num_classes: int,
        width: int,
        blocks: Sequence[int],
        stem: int,
        channels: int,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(channels, width, stem, 2 if stem > 5 else 1, rngs=rngs)
        a = width
        for index, count in enumerate(blocks):
            found = []
            for place in range(count):
                found.append(block(a, width << index, 2 if index and not place else 1, rngs=rngs))
                a = found[-1].channels
            setattr(self, f"layer{index + 1}", nnx.List(found))
        self.stages = len(blocks)
        self.linear = nnx.Linear(a, num_classes, rngs=rngs)

    def stage_outputs(self, x):
        """`[N, H', W', C]` of the stem's output `[N, H, W, width]`."""
        for index in range(self.stages):
            for block in getattr(self, f"layer{index + 1}"):
                x = block(x)
        return x


def blocks_in(shapes: Shapes) -> tuple[int, ...]:
    """How many blocks each stage has, by the names of tensors."""
    counts: list[int] = []
    while f"layer{len(counts) + 1}.0.conv1.weight" in shapes:
        count, stage = 0, len(counts) + 1
        while f"layer{stage}.{count}.conv1.weight" in shapes:
            count += 1
        counts.append(count)
    return tuple(counts)


def sizes_in(shapes: Shapes) -> dict[str, int]:
    """The arguments that all ResNets read from the same tensors."""
    return {
        "num_classes": shapes["linear.weight"][0],
        "width": shapes["conv1.weight"][0],
        "stem": shapes["conv1.weight"][2],
        "channels": shapes["conv1.weight"][1],
    }


# Other programs' names for the same layers: torchvision's and timm's, then those of weiaicunzai's pytorch-cifar100.
NAMINGS = (
    Naming((r"\bdownsample\.", "shortcut."), (r"^fc\.", "linear.")),
    Naming(
        (r"^conv([2-5])_x\.", lambda m: f"layer{int(m[1]) - 1}."),
        (r"^conv1\.1\.", "bn1."),
        (r"^conv1\.0\.", "conv1."),
        (r"residual_function\.([036])\.", lambda m: f"conv{int(m[1]) // 3 + 1}."),
        (r"residual_function\.([147])\.", lambda m: f"bn{int(m[1]) // 3 + 1}."),
        (r"^fc\.", "linear."),
    ),
)


class BasicBlock(nnx.Module):
    """A 3x3 convolution and BatchNorm, twice, with a ReLU between them and one after the sum."""

    def __init__(self, a: int, b: int, stride: int, padded: bool = False, *, rngs: nnx.Rngs):
        self.conv1 = conv(a, b, 3, stride, rngs=rngs)
        self.bn1 = norm(b, rngs=rngs)
        self.conv2 = conv(b, b, 3, rngs=rngs)
        self.bn2 = norm(b, rngs=rngs)
        self.shortcut = _shortcut(a, b, stride, padded, rngs)
        self.channels, self.stride = b, stride

    def __call__(self, x):
        out = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        return nnx.relu(out + _along(self, x))


class Bottleneck(nnx.Module):
    """Convolutions of 1x1, 3x3 (with the stride, as in torchvision) and 1x1, each with BatchNorm.

    Args:
      a: channels in.
      b: a quarter of the channels out.
      stride: of the 3x3 convolution.
      inner: channels of the 3x3 convolution over `b`, in sixty-fourths.
      groups: of the 3x3 convolution.
      rngs: source of the initial weights.
    """

    def __init__(self, a: int, b: int, stride: int, inner: int = 64, groups: int = 1, *, rngs: nnx.Rngs):
        middle = b * inner // 64
        self.conv1 = conv(a, middle, 1, rngs=rngs)
        self.bn1 = norm(middle, rngs=rngs)
        self.conv2 = conv(middle, middle, 3, stride, groups=groups, rngs=rngs)
        self.bn2 = norm(middle, rngs=rngs)
        self.conv3 = conv(middle, _EXPANSION * b, 1, rngs=rngs)
        self.bn3 = norm(_EXPANSION * b, rngs=rngs)
        self.shortcut = _shortcut(a, _EXPANSION * b, stride, False, rngs)
        self.channels, self.stride = _EXPANSION * b, stride

    def __call__(self, x):
        out = nnx.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(nnx.relu(self.bn2(self.conv2(out)))))
        return nnx.relu(out + _along(self, x))


def _shortcut(a: int, b: int, stride: int, padded: bool, rngs: nnx.Rngs) -> nnx.List:
    needed = (stride != 1 or a != b) and not padded
    return nnx.List([conv(a, b, 1, stride, rngs=rngs), norm(b, rngs=rngs)] if needed else [])


def _along(block: BasicBlock | Bottleneck, x):
    """What is added to a block's output: the input itself, through a convolution, or padded with channels of 0."""
    for layer in block.shortcut:
        x = layer(x)
    x = x[:, :: block.stride, :: block.stride] if not block.shortcut else x
    missing = block.channels - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2))) if missing else x


class ResNet(Trunk):
    """ResNet of any depth, ResNeXt and Wide ResNet of torchvision among them.

    Source: He et al. (2015), https://arxiv.org/abs/1512.03385. A 3x3 stem is that of most work on CIFAR-10; three stages of
    width 16 are the ResNets of 20 to 110 layers there, whose shortcuts are padded with zeros ("option A") or convolutions.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first stage's blocks.
      blocks: their number in each stage.
      bottleneck: whether blocks have three convolutions.
      inner: channels of a bottleneck's 3x3 convolution, in sixty-fourths of the stage's width.
      groups: of that convolution.
      stem: side of the first kernel: 3, or 7 with a stride of 2.
      pool: whether 3x3 max pooling of stride 2 follows it, which leaves no trace in a file.
      padded: whether shortcuts that need channels are padded with zeros.
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
        inner: int = 64,
        groups: int = 1,
        stem: int = 3,
        pool: int = 0,
        padded: int = 0,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        def block(a: int, b: int, stride: int, *, rngs: nnx.Rngs) -> nnx.Module:
            if bottleneck:
                return Bottleneck(a, b, stride, inner, groups, rngs=rngs)
            return BasicBlock(a, b, stride, bool(padded), rngs=rngs)

        super().__init__(block, num_classes, width, blocks, stem, channels, rngs)
        self.bn1 = norm(width, rngs=rngs)
        self.pool = bool(pool)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, channels]`; `rngs` is not used, there is no dropout."""
        x = nnx.relu(self.bn1(self.conv1(x)))
        if self.pool:
            x = max_pool_over(x, 3, 2, 1)
        return self.linear(global_pool(self.stage_outputs(x)))

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout.

        A stem of 7x7 is taken to be torchvision's, with pooling behind it.
        """
        sizes = sizes_in(shapes)
        bottleneck = "layer1.0.conv3.weight" in shapes
        middle, per_group = shapes["layer1.0.conv2.weight"][:2]
        return {
            **sizes,
            "blocks": blocks_in(shapes),
            "bottleneck": int(bottleneck),
            "inner": 64 * middle // sizes["width"] if bottleneck else 64,
            "groups": middle // per_group if bottleneck else 1,
            "pool": int(sizes["stem"] == 7),
            "padded": int(not bottleneck and "layer2.0.shortcut.0.weight" not in shapes),
        }


class ResNet18(ResNet):
    """ResNet-18 with a 3x3 stem of stride 1 and no pooling behind it, for small images.

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
        if sizes.pop("stem") != 3:
            raise ValueError("another stem")
        return dict(sizes)
