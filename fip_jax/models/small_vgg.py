"""`small_vgg`: the network of I-BAU's published backdoored models."""

from flax import nnx

from fip_jax.models.layers import conv, drop, elu, flatten_channels_first, max_pool, norm
from fip_jax.models.naming import Options, Shapes

_DROPOUTS = (0.3, 0.4, 0.4)


class SmallVgg(nnx.Module):
    """Three stages of two 3x3 convolutions, each with BatchNorm and ELU, then max pooling and dropout.

    Source: Zeng et al. (2022), "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR.

    Args:
      num_classes: length of the logits.
      image_size: height and width of the images in pixels, at least 8.
      width: channels of the first stage; the next two have twice and four times as many.
      channels: of the images.
      rngs: source of the initial weights.
    """

    def __init__(
        self, num_classes: int, image_size: int = 32, width: int = 32, channels: int = 3, *, rngs: nnx.Rngs
    ):
        layers: dict[str, nnx.Module] = {}
        a = channels
        for stage, rate in enumerate(_DROPOUTS):
            b = width << stage
            for first in (8 * stage, 8 * stage + 3):
                layers[str(first)] = conv(a, b, 3, bias=True, rngs=rngs)
                layers[str(first + 1)] = norm(b, rngs=rngs)  # an ELU has the next index
                a = b
            layers[str(8 * stage + 7)] = nnx.Dropout(rate)  # after the pooling
        self.features = nnx.Dict(layers)
        self.classifier = nnx.Linear(a * (image_size // 8) ** 2, num_classes, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, image_size, image_size, channels]`."""
        for stage in range(len(_DROPOUTS)):
            for first in (8 * stage, 8 * stage + 3):
                x = elu(self.features[str(first + 1)](self.features[str(first)](x)))
            x = max_pool(x)
            x = drop(self.features[str(8 * stage + 7)], x, rngs)
        return self.classifier(flatten_channels_first(x))

    @staticmethod
    def options(shapes: Shapes) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout, except `image_size`."""
        width, channels = shapes["features.0.weight"][:2]
        return {"num_classes": shapes["classifier.weight"][0], "width": width, "channels": channels}
