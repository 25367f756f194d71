"""ConvNeXt of any size, with torchvision's layers and names, or timm's names for the same layers."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from fip_jax.models.layers import conv, global_pool, patches
from fip_jax.models.naming import Naming, Options, Shapes

_SCALE = 1e-6  # that a block begins with


class Block(nnx.Module):
    """A 7x7 convolution of each channel, LayerNorm, and a two-layer perceptron over the channels, scaled and added."""

    def __init__(self, a: int, scale_shape: tuple[int, ...], *, rngs: nnx.Rngs):
        self.layer_scale = nnx.Param(jnp.full(scale_shape, _SCALE))
        self.block = nnx.Dict(
            {
                "0": conv(a, a, 7, bias=True, groups=a, rngs=rngs),
                "2": nnx.LayerNorm(a, epsilon=1e-6, rngs=rngs),
                "3": nnx.Linear(a, 4 * a, rngs=rngs),
                "5": nnx.Linear(4 * a, a, rngs=rngs),
            }
        )

    def __call__(self, x):
        parts = self.block
        y = parts["3"](parts["2"](parts["0"](x)))
        y = parts["5"](nnx.gelu(y, approximate=False))
        return x + y * self.layer_scale[...].reshape(1, 1, 1, -1)


class ConvNeXt(nnx.Module):
    """Patches of 4x4 pixels, four stages of blocks, each of which but the first halves the map.

    Source: Liu et al. (2022), https://arxiv.org/abs/2201.03545, with torchvision's names of layers. Its random depth in
    training is left out.

    Args:
      num_classes: length of the logits.
      image_size: not used: the global average pooling takes any size.
      width: channels of the first stage.
      blocks: their number in each stage.
      out: channels of each stage.
      patch_size: side of the first patches in pixels.
      flat: whether the scales of blocks are vectors (timm's), or have two more axes (torchvision's).
      channels: of the images.
      rngs: source of the initial weights.
    """

    HEAD = "classifier.2"
    NAMINGS = (
        Naming(
            (r"^stem\.([01])\.", r"features.0.\1."),
            (r"^stages\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1])}."),
            (r"^stages\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
            (r"\.gamma$", ".layer_scale"),
            (r"\.conv_dw\.", ".block.0."),
            (r"(\.\d+)\.norm\.", r"\1.block.2."),
            (r"\.mlp\.fc1\.", ".block.3."),
            (r"\.mlp\.fc2\.", ".block.5."),
            (r"^head\.norm\.", "classifier.0."),
            (r"^head\.fc\.", "classifier.2."),
        ),
    )

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        width: int = 96,
        blocks: Sequence[int] = (3, 3, 9, 3),
        out: Sequence[int] = (96, 192, 384, 768),
        patch_size: int = 4,
        flat: int = 0,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        def norm(a: int) -> nnx.LayerNorm:
            return nnx.LayerNorm(a, epsilon=1e-6, rngs=rngs)

        layers: dict[str, nnx.Module] = {
            "0": nnx.Dict({"0": patches(channels, width, patch_size, rngs=rngs), "1": norm(width)})
        }
        a = width
        for stage, (count, b) in enumerate(zip(blocks, out, strict=True)):
            if stage:
                layers[str(2 * stage)] = nnx.Dict({"0": norm(a), "1": patches(a, b, 2, rngs=rngs)})
            shape = (b,) if flat else (b, 1, 1)
            layers[str(2 * stage + 1)] = nnx.List([Block(b, shape, rngs=rngs) for _ in range(count)])
            a = b
        self.features, self.stages = nnx.Dict(layers), len(blocks)
        self.classifier = nnx.Dict({"0": norm(a), "2": nnx.Linear(a, num_classes, rngs=rngs)})

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, channels]`; `rngs` is not used, there is no dropout."""
        for stage in range(self.stages):
            first = self.features[str(2 * stage)]
            x = first["1"](first["0"](x))
            for block in self.features[str(2 * stage + 1)]:
                x = block(x)
        return self.classifier["2"](self.classifier["0"](global_pool(x)))

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout."""
        width, channels, patch_size, _ = shapes["features.0.0.weight"]
        blocks, out = [], []
        while f"features.{2 * len(blocks) + 1}.0.layer_scale" in shapes:
            begin = f"features.{2 * len(blocks) + 1}."
            out.append(shapes[f"{begin}0.layer_scale"][0])
            blocks.append(sum(n.startswith(begin) and n.endswith(".layer_scale") for n in shapes))
        return {
            "num_classes": shapes["classifier.2.weight"][0],
            "width": width,
            "blocks": tuple(blocks),
            "out": tuple(out),
            "patch_size": patch_size,
            "flat": int(len(shapes["features.1.0.layer_scale"]) == 1),
            "channels": channels,
        }
