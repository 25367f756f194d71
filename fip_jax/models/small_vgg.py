"""`small_vgg`: the network of I-BAU's published backdoored models."""

import itertools

from flax import nnx


class SmallVgg(nnx.Module):
    """Three stages of two 3x3 convolutions, each with BatchNorm and ELU, then max pooling and dropout.

    Source: Zeng et al. (2022), "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR.

    Args:
      num_classes: length of the logits.
      image_size: height and width of the images in pixels, at least 8.
      width: channels of the first stage; the next two have twice and four times as many.
      rngs: source of the initial weights.
    """

    def __init__(self, num_classes: int, image_size: int = 32, width: int = 32, *, rngs: nnx.Rngs):
        widths = [3, width, width, 2 * width, 2 * width, 4 * width, 4 * width]
        self.convs = nnx.List(
            nnx.Conv(a, b, (3, 3), padding=1, rngs=rngs) for a, b in itertools.pairwise(widths)
        )
        self.norms = nnx.List(nnx.BatchNorm(b, momentum=0.9, epsilon=1e-5, rngs=rngs) for b in widths[1:])
        self.dropouts = nnx.List(nnx.Dropout(rate) for rate in (0.3, 0.4, 0.4))
        self.linear = nnx.Linear(4 * width * (image_size // 8) ** 2, num_classes, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, image_size, image_size, 3]`."""
        for stage, dropout in enumerate(self.dropouts):
            for layer in (2 * stage, 2 * stage + 1):
                x = nnx.elu(self.norms[layer](self.convs[layer](x)))
            x = dropout(nnx.max_pool(x, (2, 2), strides=(2, 2)), rngs=rngs)
        # Channels first before flattening: the order that the published weights of the linear layer have.
        return self.linear(x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1))
