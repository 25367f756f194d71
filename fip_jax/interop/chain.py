"""Networks that are layers one after the other, in words: what a state dict does not tell, its owner can say.

`conv1 relu max2 conv2:p1 relu max2 flatten fc1 relu fc2` names the layers of a file in order, and between them what
has no tensors: `relu`, `relu6`, `leaky_relu`, `elu`, `gelu`, `silu`, `tanh`, `sigmoid`, `hard_swish`; `max2` and
`avg2`, poolings of 2x2, `max3s2p1` with stride and padding; `mean`, the average over all places; `flatten`. Behind a
convolution `:s2p1` are stride and padding, which are 1 and 0 without it. `dropout`, and a `softmax` at the end, do
nothing.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fip_jax.errors import UserError
from fip_jax.models.graph import Graph, Step
from fip_jax.models.naming import Shapes

_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "relu6": ("Clip", {"min": 0.0, "max": 6.0}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
    "gelu": ("Gelu", {}),
    "silu": ("Swish", {"alpha": 1.0}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "hard_swish": ("HardSwish", {}),
    "mean": ("GlobalAveragePool", {}),
    "flatten": ("Flatten", {"axis": 1}),
}
_IGNORED = ("dropout", "softmax", "log_softmax")
_POOLING = re.compile(r"(max|avg)(\d+)(?:s(\d+))?(?:p(\d+))?")
_LAYER = re.compile(r"(.+?)(?::(?:s(\d+))?(?:p(\d+))?)?")
_STATISTICS = ("weight", "bias", "running_mean", "running_var")
# Of PyTorch's own examples and tutorials, by their tensors' shapes: what their code does in between.
_EXAMPLES: dict[tuple[tuple[int, ...], ...], str] = {
    ((32, 1, 3, 3), (64, 32, 3, 3), (128, 9216), (10, 128)): "conv1 relu conv2 relu max2 flatten fc1 relu fc2",
    ((10, 1, 5, 5), (20, 10, 5, 5), (50, 320), (10, 50)): "conv1 max2 relu conv2 max2 relu flatten fc1 relu fc2",
    ((6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)): (
        "conv1 relu max2 conv2 relu max2 flatten fc1 relu fc2 relu fc3"
    ),
}  # fmt: skip


def of_examples(shapes: Shapes) -> str:
    """What a network of PyTorch's examples does, in words, or "" for another one."""
    names = [name for name in shapes if name.endswith(".weight")]
    words = _EXAMPLES.get(tuple(tuple(shapes[name]) for name in names), "")
    layers = [name.removesuffix(".weight") for name in names]
    return words if layers == [word for word in words.split() if word in layers] else ""


def to_graph(words: str, shapes: Shapes) -> tuple[Graph, int]:
    """The graph of layers in words, and the channels of its images.

    Args:
      words: as above, with spaces or commas between them.
      shapes: of the tensors of a state dict, by name.

    Raises:
      UserError: a word that is neither a layer of the file nor known, or layers of the file that are left out.
    """
    steps: list[Step] = []
    used: list[str] = []
    channels = flow = 0
    for word in re.split(r"[\s,]+", words.strip()):
        if word in _IGNORED:
            continue
        value = f"v{len(steps)}" if steps else "image"
        found = _LAYER.fullmatch(word)
        layer = found[1] if found else word
        if f"{layer}.weight" in shapes and found:
            step = _layer(layer, shapes, flow, int(found[2] or 1), int(found[3] or 0))
            shape = shapes[f"{layer}.weight"]
            channels = channels or (shape[1] if len(shape) == 4 else 0)
            flow = shape[0]
            used += step[1]
            number = str(sum(bool(s.layer) for s in steps))
        else:
            step, number = _without_tensors(word, shapes), ""
        op, tensors, attributes = step
        steps.append(Step(op, (value, *tensors), (f"v{len(steps) + 1}",), _sorted(attributes), number))
    left = [name for name in shapes if name not in used and name.split(".")[-1] != "num_batches_tracked"]
    if left or not steps or not channels:
        missing = ", ".join(repr(name)[1:-1] for name in left[:8]) or "a convolution"
        raise UserError(
            f"model.layers: found nothing of {missing}, expected all layers of the file, in order"
        )
    weights = tuple((name, tuple(shapes[name])) for name in used)
    return Graph("image", False, f"v{len(steps)}", tuple(steps), (), weights), channels


def _sorted(attributes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(attributes.items()))


def _layer(
    layer: str, shapes: Shapes, flow: int, stride: int, padding: int
) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """(operation, names of its tensors, attributes) of a layer with tensors; `flow` are the channels that reach it."""
    shape = shapes[f"{layer}.weight"]
    tensors = tuple(f"{layer}.{leaf}" for leaf in _STATISTICS if f"{layer}.{leaf}" in shapes)
    if len(shape) == 4:
        groups = max(1, flow // shape[1]) if flow else 1
        return "Conv", tensors, {"strides": (stride, stride), "pads": (padding,) * 4, "group": groups}
    if len(shape) == 2:
        return "Gemm", tensors, {"transB": 1}
    if len(shape) == 1 and len(tensors) == 4:
        return "BatchNormalization", tensors, {"epsilon": 1e-5}
    raise UserError(
        f"model.layers: found {layer[:80]!r} with a weight of shape {list(shape)}, expected a convolution, a linear "
        "layer or BatchNorm"
    )


def _without_tensors(word: str, shapes: Shapes) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    if word in _ACTIVATIONS:
        op, attributes = _ACTIVATIONS[word]
        return op, (), attributes
    pooling = _POOLING.fullmatch(word)
    if pooling:
        size, padding = int(pooling[2]), int(pooling[4] or 0)
        stride = int(pooling[3] or size)
        op = "MaxPool" if pooling[1] == "max" else "AveragePool"
        attributes = {"kernel_shape": (size, size), "strides": (stride, stride), "pads": (padding,) * 4}
        return op, (), attributes | ({"count_include_pad": 1} if op == "AveragePool" else {})
    layers = sorted({name.rpartition(".")[0] for name in shapes})
    raise UserError(
        f"model.layers: found {word[:80]!r}, expected a layer of the file ({', '.join(layers)[:300]}), an activation "
        f"({', '.join(_ACTIVATIONS)}), or a pooling such as max2 or avg3s2p1"
    )


def suggestion(shapes: Shapes, image_size: int) -> str:
    """Words that fit the shapes of layers one after the other, for people to correct, or "".

    Args:
      shapes: of the tensors of a state dict, in its order.
      image_size: height and width of the images in pixels.
    """
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))
    if not all(f"{layer}.weight" in shapes for layer in layers):
        return ""
    for words in _guesses(layers, shapes, image_size):
        return words
    return ""


def _guesses(layers: list[str], shapes: Shapes, image_size: int) -> Iterator[str]:
    """Words with poolings behind every, every second or no convolution, with and without padding, that fit."""
    kinds = {layer: len(shapes[f"{layer}.weight"]) for layer in layers}
    dense = [layer for layer in layers if kinds[layer] == 2]
    for every in (1, 2, 1000):
        for padded in (True, False):
            side, count, out, flow = image_size, 0, [], 0
            for layer, following in zip(layers, [*layers[1:], ""], strict=True):
                shape = shapes[f"{layer}.weight"]
                if kinds[layer] == 2:
                    if layer == dense[0] and shape[1] not in (flow * side * side, flow):
                        break
                    if layer == dense[0]:
                        out.append("flatten" if shape[1] == flow * side * side else "mean flatten")
                    out.append(layer)
                    out += ["relu"] * (layer != dense[-1])
                    continue
                if kinds[layer] == 4:
                    padding = shape[2] // 2 if padded else 0
                    side, flow = side + 2 * padding - shape[2] + 1, shape[0]
                    out.append(f"{layer}:p{padding}" if padding else layer)
                    count += 1
                else:
                    out.append(layer)
                if kinds.get(following) == 1:  # BatchNorm
                    continue
                out.append("relu")
                if count % every == 0:
                    out.append("max2")
                    side //= 2
            else:
                if dense and side > 0:
                    yield " ".join(out)
