"""`vgg19_bn`: VGG-19 with BatchNorm, with the head for small images or with torchvision's."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from fip_jax.errors import UserError
from fip_jax.models.layers import conv, flatten_channels_first, max_pool, norm

# Channels as multiples of the first stage's; None is a 2x2 max pooling.
_PLAN = (1, 1, None, 2, 2, None, 4, 4, 4, 4, None, 8, 8, 8, 8, None, 8, 8, 8, 8, None)
_POOLED = 7  # height and width that torchvision pools to


class Vgg19Bn(nnx.Module):
    """Sixteen 3x3 convolutions with BatchNorm and ReLU in five stages, each of which ends in max pooling.

    Source: Simonyan and Zisserman (2014), https://arxiv.org/abs/1409.1556; layers are numbered as in torchvision.

    Args:
      num_classes: length of the logits.
      image_size: height and width of the images in pixels: a multiple of 32.
      width: channels of the first stage (64 in the literature); the last two have eight times as many.
      hidden: units of each of the two hidden layers after the pooling to 7x7 (4096 in torchvision), with dropout; 0 for
        one linear layer on the last map.
      rngs: source of the initial weights.

    Raises:
      UserError: an image size whose last map cannot be pooled to 7x7 in equal parts.
    """

    def __init__(
        self, num_classes: int, image_size: int = 32, width: int = 64, hidden: int = 0, *, rngs: nnx.Rngs
    ):
        layers: dict[str, nnx.Module] = {}
        a, index = 3, 0
        for multiple in _PLAN:
            if multiple is not None:
                layers[str(index)] = conv(a, multiple * width, 3, bias=True, rngs=rngs)
                layers[str(index + 1)] = norm(multiple * width, rngs=rngs)
                a = multiple * width
            index += 1 if multiple is None else 3  # a ReLU has the third index
        self.features = nnx.Dict(layers)
        side = image_size // 32
        if not hidden:
            self.classifier: Any = nnx.Linear(a * side**2, num_classes, rngs=rngs)
            return
        if not side or (side % _POOLED and _POOLED % side):
            raise UserError(
                f"dataset.image_size: found {image_size}, expected 32 or a multiple of 224 for vgg19_bn"
            )
        self.classifier = nnx.Dict(
            {
                "0": nnx.Linear(a * _POOLED**2, hidden, rngs=rngs),
                "2": nnx.Dropout(0.5),
                "3": nnx.Linear(hidden, hidden, rngs=rngs),
                "5": nnx.Dropout(0.5),
                "6": nnx.Linear(hidden, num_classes, rngs=rngs),
            }
        )

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, image_size, image_size, 3]`."""
        index = 0
        for multiple in _PLAN:
            if multiple is None:
                x = max_pool(x)
                index += 1
            else:
                x = nnx.relu(self.features[str(index + 1)](self.features[str(index)](x)))
                index += 3
        if not isinstance(self.classifier, nnx.Dict):
            return self.classifier(flatten_channels_first(x))
        head = self.classifier
        x = flatten_channels_first(_pool_to(x, _POOLED))
        x = head["2"](nnx.relu(head["0"](x)), rngs=rngs)
        return head["6"](head["5"](nnx.relu(head["3"](x)), rngs=rngs))

    @staticmethod
    def options(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
        """The arguments of a network with tensors of these shapes in PyTorch's layout, except `image_size`."""
        hidden = 0 if "classifier.weight" in shapes else shapes["classifier.0.weight"][0]
        head = shapes["classifier.6.weight"] if hidden else shapes["classifier.weight"]
        return {"num_classes": head[0], "width": shapes["features.0.weight"][0], "hidden": hidden}


def _pool_to(x, size: int):
    """PyTorch's adaptive average pooling of `[N, H, H, C]`, where one of H and `size` divides the other."""
    side = x.shape[1]
    if side < size:
        return jnp.repeat(jnp.repeat(x, size // side, axis=1), size // side, axis=2)
    part = side // size
    return nnx.avg_pool(x, (part, part), strides=(part, part))
