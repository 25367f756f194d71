"""What a file of ONNX computes, as the graph that `models/graph.py` runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.errors import UserError
from fip_jax.interop.onnx_file import Node, OnnxFile
from fip_jax.interop.state_dict import listing
from fip_jax.models import abstract_model
from fip_jax.models.graph import LAYERS, Graph, Step
from fip_jax.models.graph_ops import OPERATIONS
from fip_jax.network import split_module

# Inputs of these are lengths, limits and the like, though they may be floating point.
_STATIC = ("Clip", "Pad", "Pow", "Slice", "Resize")
_MAX_CONSTANTS = 100_000
_ENDS = ("Softmax", "LogSoftmax", "Identity", "ArgMax")


class Found(NamedTuple):
    """A graph, the channels of its images and the length of its logits."""

    graph: Graph
    channels: int
    num_classes: int


def to_graph(path: Path, file: OnnxFile, image_size: int) -> Found:
    """The graph of a file.

    A softmax at its end is left out: what is before it are the logits.

    Raises:
      UserError: an operation that is not known here, several inputs, or images of another size.
    """
    image, channels, channels_last = _image(path, file, image_size)
    unknown = sorted({node.op for node in file.nodes} - {*OPERATIONS, *LAYERS, "Constant", *_ENDS})
    if unknown:
        quantised = any("Quantize" in op or op.startswith("QLinear") for op in unknown)
        way = (
            "give the network from before it was quantised"
            if quantised
            else "use fip_jax.purify_function with the network in JAX"
        )
        raise UserError(
            f"{path}: found the operations {listing(unknown)}, expected those of image classifiers; {way}"
        )
    tensors, nodes = _constants(file)
    logits, nodes = _logits(file.outputs[0] if file.outputs else "", nodes)
    floats = {name: array for name, array in tensors.items() if _is_weight(name, array, file, nodes)}
    used = {name for node in nodes for name in node.inputs}
    elsewhere = [name for name in floats if file.tensors[name].start < 0]
    if elsewhere:
        raise UserError(
            f"{path}: found the numbers of {listing(elsewhere)} one by one, expected them as they are in memory "
            "(raw_data); load and save the file with the onnx package"
        )
    constants = tuple(
        (name, array.dtype.str, array.shape, tuple(array.ravel().tolist()))
        for name, array in tensors.items()
        if name in used and name not in floats
    )
    if sum(len(numbers) for *_, numbers in constants) > _MAX_CONSTANTS:
        raise UserError(f"{path}: found more than {_MAX_CONSTANTS} constants, expected a network's weights")
    layers: dict[tuple[str, ...], str] = {}
    steps = tuple(_step(path, node, floats, layers) for node in nodes)
    weights = tuple((name, array.shape) for name, array in floats.items() if name in used)
    graph = Graph(image, channels_last, logits, steps, constants, weights)
    return checked(path, graph, channels, image_size)


def checked(path: Path, graph: Graph, channels: int, image_size: int) -> Found:
    """A graph with the length of its logits, by running it without numbers.

    Raises:
      UserError: it cannot be run on images of this size.
    """
    try:
        module = abstract_model("graph", 1, image_size, graph=graph.to_text(), channels=channels)
        network, params, model_state = split_module(module, (0.0,), (1.0,))
        image = jax.ShapeDtypeStruct((2, image_size, image_size, channels), jnp.float32)
        logits, _ = jax.eval_shape(lambda *trees: network(*trees), params, model_state, image)
        if logits.ndim != 2 or logits.shape[0] != 2:
            raise ValueError(f"an output of shape {list(logits.shape)}")
    except UserError:
        raise
    except Exception as error:  # whatever shapes that do not fit raise
        reason = repr(" ".join(str(error).split())[:200])[1:-1]
        raise UserError(
            f"{path}: found layers that cannot be run on images of {image_size} pixels ({reason}), expected an image "
            "classifier; dataset.image_size says how large its images are"
        ) from error
    return Found(graph, channels, logits.shape[1])


def _image(path: Path, file: OnnxFile, image_size: int) -> tuple[str, int, bool]:
    """(name of the input, channels, whether these come last)."""
    if len(file.inputs) != 1:
        raise UserError(f"{path}: found {len(file.inputs)} inputs, expected one, of images")
    ((name, shape),) = file.inputs.items()
    if len(shape) != 4:
        raise UserError(f"{path}: found an input of shape {list(shape)}, expected images [N, C, H, W]")
    channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    channels = shape[3] if channels_last else shape[1]
    height, width = shape[1:3] if channels_last else shape[2:]
    if channels not in (0, 1, 3):
        raise UserError(f"{path}: found images of {channels} channels, expected 3 or 1")
    if {height, width} - {0, image_size}:
        raise UserError(
            f"{path}: found images of {height} x {width} pixels, expected dataset.image_size = {image_size}; "
            f"set dataset.image_size = {height}"
        )
    return name, channels or 3, channels_last


def _constants(file: OnnxFile) -> tuple[dict[str, np.ndarray], list[Node]]:
    """(all tensors by name, nodes that are none)."""
    tensors = {name: tensor.array for name, tensor in file.tensors.items()}
    nodes = []
    for node in file.nodes:
        if node.op != "Constant":
            nodes.append(node)
            continue
        value = next(iter(node.attributes.values()), None)
        if isinstance(value, np.ndarray):
            tensors[node.outputs[0]] = value
        elif isinstance(value, int | tuple) and not isinstance(value, bool):
            tensors[node.outputs[0]] = np.array(value)
        elif isinstance(value, float):
            tensors[node.outputs[0]] = np.array(value, np.float32)
    return tensors, nodes


def _logits(output: str, nodes: list[Node]) -> tuple[str, list[Node]]:
    """(the value that is the logits, the nodes that lead to it)."""
    while True:
        last = next((node for node in nodes if output in node.outputs), None)
        if last is None or last.op not in _ENDS:
            break
        output = last.inputs[0]
    needed, kept = {output}, []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return output, kept[::-1]


def _is_weight(name: str, array: np.ndarray, file: OnnxFile, nodes: list[Node]) -> bool:
    """Whether a tensor may be changed: numbers of the file's own, more than one, or a kernel."""
    if array.dtype.kind not in "fV" or name not in file.tensors or (array.size < 2 and array.ndim < 2):
        return False
    return not any(node.op in _STATIC and name in node.inputs[1:] for node in nodes)


def _step(path: Path, node: Node, floats: dict[str, np.ndarray], layers: dict[tuple[str, ...], str]) -> Step:
    attributes = tuple(
        (key, value.tolist() if isinstance(value, np.ndarray) else value)
        for key, value in sorted(node.attributes.items())
    )
    layer = ""
    if node.op in LAYERS and _CAN_BE_LAYERS[node.op](node, floats):
        weights = node.inputs[1:]
        layer = layers.setdefault((node.op, *weights), str(len(layers)))
        shared = [key for key in layers if key[1] == weights[0]]
        if len(shared) > 1:
            raise UserError(f"{path}: found {weights[0][:80]} in two layers, expected weights of one")
    elif node.op in ("Conv", "BatchNormalization", "Gemm"):
        raise UserError(
            f"{path}: found a {node.op} ({node.outputs[0][:80]}) whose weights are computed or of an unusual kind, "
            "expected weights in the file"
        )
    return Step(node.op, node.inputs, node.outputs[:1] if layer else node.outputs, attributes, layer)


def _is_convolution(node: Node, floats: dict[str, np.ndarray]) -> bool:
    return all(name in floats for name in node.inputs[1:] if name) and floats[node.inputs[1]].ndim == 4


def _is_norm(node: Node, floats: dict[str, np.ndarray]) -> bool:
    return len(node.inputs) == 5 and all(name in floats for name in node.inputs[1:])


def _is_gemm(node: Node, floats: dict[str, np.ndarray]) -> bool:
    plain = node.attributes.get("alpha", 1.0) == node.attributes.get("beta", 1.0) == 1.0
    held = all(name in floats for name in node.inputs[1:] if name)
    flat = held and all(floats[name].ndim == 1 for name in node.inputs[2:] if name)
    return plain and flat and not node.attributes.get("transA")


def _is_product(node: Node, floats: dict[str, np.ndarray]) -> bool:
    return node.inputs[1] in floats and floats[node.inputs[1]].ndim == 2


_CAN_BE_LAYERS: dict[str, Callable[[Node, dict[str, Any]], bool]] = {
    "Conv": _is_convolution,
    "BatchNormalization": _is_norm,
    "Gemm": _is_gemm,
    "MatMul": _is_product,
}
