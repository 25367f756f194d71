"""Vision transformers with torchvision's layers and names, or with timm's names for the same layers (DeiT)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fip_jax.errors import UserError
from fip_jax.models.layers import patches
from fip_jax.models.naming import Naming, Options, Shapes

# timm's names, then torchvision's of before version 0.12.
_NAMINGS = (
    Naming(
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
        (r"\.attn\.proj\.", ".self_attention.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.3."),
        (r"^norm\.", "encoder.ln."),
        (r"^(head|fc|classifier)\.", "heads.head."),
    ),
    Naming((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
)


class SelfAttention(nnx.Module):
    """Multi-head attention with the one matrix for queries, keys and values that PyTorch has."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        scale = math.sqrt(6 / (4 * width))
        self.in_proj_weight = nnx.Param(
            jax.random.uniform(rngs.params(), (3 * width, width), minval=-scale, maxval=scale)
        )
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * width))
        self.out_proj = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        n, length, width = x.shape
        mixed = x @ self.in_proj_weight[...].T + self.in_proj_bias[...].reshape(1, 1, -1)
        query, key, value = jnp.split(mixed.reshape(n, length, 3 * self.heads, -1), 3, axis=2)
        return self.out_proj(jax.nn.dot_product_attention(query, key, value).reshape(n, length, width))


class EncoderLayer(nnx.Module):
    """Attention and a two-layer perceptron, each after a LayerNorm and with a shortcut around it."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.ln_1 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.self_attention = SelfAttention(width, heads, rngs=rngs)
        self.ln_2 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.mlp = nnx.Dict(
            {"0": nnx.Linear(width, 4 * width, rngs=rngs), "3": nnx.Linear(4 * width, width, rngs=rngs)}
        )

    def __call__(self, x):
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp["3"](nnx.gelu(self.mlp["0"](self.ln_2(x)), approximate=False))


class VisionTransformer(nnx.Module):
    """Pre-norm vision transformer that classifies by a class token.

    Source: Dosovitskiy et al. (2020), https://arxiv.org/abs/2010.11929, with the names of torchvision's
    VisionTransformer; width 768, patch_size 16, depth 12, heads 12 and images of 224 pixels are its `vit_b_16`.

    Args:
      num_classes: length of the logits.
      image_size: height and width of the images in pixels, a multiple of `patch_size`.
      width: length of the tokens, a multiple of `heads`.
      patch_size: pixels.
      depth: number of layers.
      heads: of each attention; 0: as many as have a length of 64, or one.
      channels: of the images.
      rngs: source of the initial weights.

    Raises:
      UserError: sizes that do not divide.
    """

    HEAD, NAMINGS = "heads.head", _NAMINGS

    def __init__(
        self,
        num_classes: int,
        image_size: int = 32,
        width: int = 192,
        patch_size: int = 4,
        depth: int = 6,
        heads: int = 0,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        heads = heads or _published_heads(width)
        if image_size % patch_size or width % heads:
            raise UserError(
                f"model: found image_size = {image_size}, patch_size = {patch_size}, width = {width}, heads = "
                f"{heads}, expected patches to fill the image and heads the width"
            )
        self.conv_proj = patches(channels, width, patch_size, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, width)))
        tokens = 1 + (image_size // patch_size) ** 2
        layers = {f"encoder_layer_{i}": EncoderLayer(width, heads, rngs=rngs) for i in range(depth)}
        self.encoder: Any = nnx.Dict(
            pos_embedding=nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, tokens, width))),
            layers=nnx.Dict(layers),
            ln=nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs),
        )
        self.depth = depth
        self.heads = nnx.Dict(head=nnx.Linear(width, num_classes, rngs=rngs))

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, image_size, image_size, channels]`; `rngs` is not used: no dropout."""
        x = self.conv_proj(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.encoder["pos_embedding"][...]
        for index in range(self.depth):
            x = self.encoder["layers"][f"encoder_layer_{index}"](x)
        return self.heads["head"](self.encoder["ln"](x)[:, 0])

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout, except `image_size`.

        The number of heads leaves no trace in the shapes: it is taken to be the published one.
        """
        width, channels, patch_size, _ = shapes["conv_proj.weight"]
        depth = len({name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")})
        return {
            "num_classes": shapes["heads.head.weight"][0],
            "width": width,
            "patch_size": patch_size,
            "depth": depth,
            "heads": _published_heads(width),
            "channels": channels,
        }


def _published_heads(width: int) -> int:
    """Heads of length 64, which all published sizes have, or one where 64 does not divide the width."""
    return width // 64 if width % 64 == 0 else 1
