"""VGG of 11 to 19 layers, with and without BatchNorm, with the heads for small images and torchvision's."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from flax import nnx

from fip_jax.models.layers import adaptive_average, conv, flatten_channels_first, max_pool, norm
from fip_jax.models.naming import Naming, Options, Shapes

# Channels of VGG-19's first stage as 1; 0 is a 2x2 max pooling.
_NINETEEN = (1, 1, 0, 2, 2, 0, 4, 4, 4, 4, 0, 8, 8, 8, 8, 0, 8, 8, 8, 8, 0)
_POOLED = 7  # height and width that torchvision pools to


class Vgg(nnx.Module):
    """3x3 convolutions with ReLU, and BatchNorm between them or none, in stages that end in 2x2 max pooling.

    Source: Simonyan and Zisserman (2014), https://arxiv.org/abs/1409.1556; layers are numbered as in torchvision. Networks
    for CIFAR-10 and GTSRB whose layers are numbered so are of this kind, with however few convolutions.

    Args:
      num_classes: length of the logits.
      image_size: height and width of the images in pixels.
      width: channels of the first convolution.
      plan: channels of the convolutions in sixty-fourths of `width`; 0 is a pooling.
      batch_norm: whether BatchNorm follows each convolution.
      kernels: side of the convolutions in pixels; an odd number.
      linears: places of the linear layers in the classifier; none where the classifier is itself a linear layer. Between
        those that are three places apart there is dropout.
      hidden: units of each of them but the last.
      pooled: height and width that the last map is pooled to (7 in torchvision); 0: it is taken as it is.
      channels: of the images.
      rngs: source of the initial weights.
    """

    HEAD, OPTIONS_OF_SIZE = "classifier", True  # `options` take the size of the images as well
    NAMINGS = (
        # kuangliu's and others' later copies, and chengyangfu's
        Naming((r"^(conv|layers|feature|convs|conv_layers|cnn)\.", "features.")),
        Naming((r"^(fc|fcs|fc_layers|linear|linear_layers|fully_connected|head|dense)\.", "classifier.")),
        Naming(
            (r"^(conv|layers|feature|convs|conv_layers|cnn)\.", "features."),
            (r"^(fc|fcs|fc_layers|linear|linear_layers|fully_connected|head|dense)\.", "classifier."),
        ),
    )

    def __init__(
        self,
        num_classes: int,
        image_size: int = 32,
        width: int = 64,
        plan: Sequence[int] = tuple(64 * multiple for multiple in _NINETEEN),
        batch_norm: int = 1,
        kernels: int = 3,
        linears: Sequence[int] = (),
        hidden: Sequence[int] = (),
        pooled: int = 0,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        self.plan, self.batch_norm, self.linears = tuple(plan), bool(batch_norm), tuple(linears)
        self.pooled, layers, a = pooled, {}, channels
        for index, share in self._places():
            if share:
                b = share * width // 64
                layers[str(index)] = conv(a, b, kernels, bias=True, rngs=rngs)
                if batch_norm:
                    layers[str(index + 1)] = norm(b, rngs=rngs)
                a = b
        self.features = nnx.Dict(layers)
        side = pooled or image_size >> self.plan.count(0)
        widths = [a * side**2, *hidden, num_classes]
        if not linears:
            self.classifier: Any = nnx.Linear(widths[0], widths[-1], rngs=rngs)
            return
        head: dict[str, nnx.Module] = {}
        for place, (m, n) in zip(linears, itertools.pairwise(widths), strict=True):
            head[str(place)] = nnx.Linear(m, n, rngs=rngs)
        for place, following in itertools.pairwise(linears):
            if following - place == 3:
                head[str(place + 2)] = nnx.Dropout(0.5)
        self.classifier = nnx.Dict(head)

    def _places(self) -> list[tuple[int, int]]:
        """(index in `features`, entry of `plan`); each convolution is followed by BatchNorm or not, and a ReLU."""
        step = 3 if self.batch_norm else 2
        starts = itertools.accumulate((step if share else 1 for share in self.plan), initial=0)
        return list(zip(starts, self.plan, strict=False))

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, image_size, image_size, channels]`."""
        for index, share in self._places():
            if not share:
                x = max_pool(x)
                continue
            x = self.features[str(index)](x)
            x = nnx.relu(self.features[str(index + 1)](x) if self.batch_norm else x)
        if self.pooled and x.shape[1] != self.pooled:
            x = adaptive_average(x, self.pooled)
        x = flatten_channels_first(x)
        if not self.linears:
            return self.classifier(x)
        for place in self.linears[:-1]:
            x = nnx.relu(self.classifier[str(place)](x))
            if str(place + 2) in self.classifier and place + 2 not in self.linears:
                x = self.classifier[str(place + 2)](x, rngs=rngs)
        return self.classifier[str(self.linears[-1])](x)

    @staticmethod
    def options(shapes: Shapes, image_size: int = 32) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout.

        Raises:
          ValueError: the indices of the layers leave room for something unknown, or no map of the image has the size that
            the classifier takes.
        """
        convolutions = {int(n.split(".")[1]): s for n, s in shapes.items() if _is_convolution(n, s)}
        places, last = sorted(convolutions), {}
        batch_norm = f"features.{places[0] + 1}.running_mean" in shapes
        first = convolutions[places[0]]
        width = first[0]
        step, plan = (3 if batch_norm else 2), []
        for place, following in itertools.pairwise([*places, None]):
            if convolutions[place][2] != first[2] or first[2] % 2 == 0 or place - (following or place) > 0:
                raise ValueError("kernels of several sizes")
            plan.append(64 * convolutions[place][0] // width)
            if following is not None:
                if following - place - step not in (0, 1):
                    raise ValueError("layers that are unknown")
                plan += [0] * (following - place - step)
        last = convolutions[places[-1]]
        linears, widths = _linears(shapes)
        side = math.isqrt(widths[0] // last[0])
        if side**2 * last[0] != widths[0]:
            raise ValueError("a classifier of another size")
        pooled = 0
        if image_size >> (plan.count(0) + 1) == side:  # of the end no index tells
            plan.append(0)
        elif image_size >> plan.count(0) != side:
            if side != _POOLED:
                raise ValueError("a classifier for images of another size")
            plan, pooled = [*plan, 0], _POOLED
        return {
            "num_classes": widths[-1],
            "width": width,
            "plan": tuple(plan),
            "batch_norm": int(batch_norm),
            "kernels": first[2],
            "linears": linears,
            "hidden": tuple(widths[1:-1]),
            "pooled": pooled,
            "channels": first[1],
        }


def _is_convolution(name: str, shape: tuple[int, ...]) -> bool:
    parts = name.split(".")
    return len(parts) == 3 and parts[0] == "features" and parts[2] == "weight" and len(shape) == 4


def _linears(shapes: Shapes) -> tuple[tuple[int, ...], list[int]]:
    """(places of the linear layers in the classifier, the widths from the first's input to the last's output)."""
    if "classifier.weight" in shapes:
        n, m = shapes["classifier.weight"]
        return (), [m, n]
    names = {n: s for n, s in shapes.items() if n.startswith("classifier.") and n.endswith(".weight")}
    found = sorted((int(name.split(".")[1]), shape) for name, shape in names.items())
    return tuple(place for place, _ in found), [found[0][1][1], *(shape[0] for _, shape in found)]


class Vgg19Bn(Vgg):
    """VGG-19 with BatchNorm, with one linear layer behind it or, with `hidden`, torchvision's three.

    Args:
      num_classes: length of the logits.
      image_size: height and width of the images in pixels.
      width: channels of the first stage (64 in the literature); the last two have eight times as many.
      hidden: units of each of the two hidden layers after the pooling to 7x7 (4096 in torchvision), with dropout; 0 for
        one linear layer on the last map.
      channels: of the images.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 32,
        width: int = 64,
        hidden: int = 0,
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        head: dict[str, Any] = (
            {"linears": (0, 3, 6), "hidden": (hidden, hidden), "pooled": _POOLED} if hidden else {}
        )
        super().__init__(num_classes, image_size, width, channels=channels, **head, rngs=rngs)

    @staticmethod
    def options(shapes: Shapes, image_size: int = 32) -> Options:
        """The arguments of a network with tensors of these shapes in PyTorch's layout, except `image_size`."""
        hidden = 0 if "classifier.weight" in shapes else shapes["classifier.0.weight"][0]
        head = shapes["classifier.6.weight"] if hidden else shapes["classifier.weight"]
        width, channels = shapes["features.0.weight"][:2]
        return {"num_classes": head[0], "width": width, "hidden": hidden, "channels": channels}
