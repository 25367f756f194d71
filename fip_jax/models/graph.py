"""`graph`: a network that is a graph of ONNX's operations, as a file brings it."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fip_jax.errors import UserError
from fip_jax.models.graph_ops import OPERATIONS, padding_of
from fip_jax.network import Frozen

# Operations with weights, which are layers: for what methods ask of kernels, dense layers and running statistics.
LAYERS = ("Conv", "BatchNormalization", "Gemm", "MatMul")
# What is trained besides: inputs of these that are no layers' are parameters, those of other operations are frozen.
_TRAINED = ("Add", "Mul", "PRelu", "LayerNormalization", "InstanceNormalization", "Conv", "Gemm", "MatMul")


class Step(NamedTuple):
    """One operation.

    Attributes:
      op: its name.
      inputs: names of values and weights; "" for one left out.
      outputs: names of values.
      attributes: (name, number, text or tuple of these).
      layer: name of the layer that does it, or "".
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]
    layer: str = ""


class Graph(NamedTuple):
    """A graph, which can be hashed.

    Attributes:
      image: name of the value that is the images.
      channels_last: whether they are `[N, H, W, C]` there.
      logits: name of the value that is the logits.
      steps: in order.
      constants: (name, type, shape, numbers) of lengths, indices and the like.
      weights: (name, shape) of all other tensors.
    """

    image: str
    channels_last: bool
    logits: str
    steps: tuple[Step, ...]
    constants: tuple[tuple[str, str, tuple[int, ...], tuple[float, ...]], ...]
    weights: tuple[tuple[str, tuple[int, ...]], ...]

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(self)


def from_text(text: str) -> Graph:
    """The graph that `to_text` wrote.

    Raises:
      UserError: another text.
    """
    try:
        image, channels_last, logits, steps, constants, weights = _tuples(json.loads(text))
        graph = Graph(image, channels_last, logits, tuple(Step(*step) for step in steps), constants, weights)
        known = {*OPERATIONS, *LAYERS}
        if not all(step.op in known for step in graph.steps):
            raise ValueError("an unknown operation")
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            "victim.checkpoint: found a damaged graph in the description, expected one of ours"
        ) from error
    return graph


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def tensor_names(graph: Graph) -> dict[str, str]:
    """The name of each tensor of a `GraphNetwork` in PyTorch's words (`layers.0.weight`) -> its name in the file."""
    found: dict[str, str] = {}
    shapes = dict(graph.weights)
    for step in graph.steps:
        if step.layer:
            leaves = ("weight", "bias")
            if step.op == "BatchNormalization":
                leaves = ("weight", "bias", "running_mean", "running_var")  # type: ignore[assignment]
            names = [name for name in step.inputs[1:] if name in shapes]
            found |= {f"layers.{step.layer}.{leaf}": name for leaf, name in zip(leaves, names, strict=False)}
    held = set(found.values())
    for index, (name, _) in enumerate(graph.weights):
        if name not in held:
            found[f"{'trained' if _is_trained(graph, name) else 'frozen'}.{index}"] = name
    return found


def transposed(graph: Graph) -> frozenset[str]:
    """Names in the file of dense kernels that lie `[in, out]` there; PyTorch's are `[out, in]`."""
    return frozenset(
        step.inputs[1]
        for step in graph.steps
        if step.layer
        and (step.op == "MatMul" or (step.op == "Gemm" and not dict(step.attributes).get("transB")))
    )


def _is_trained(graph: Graph, name: str) -> bool:
    return all(step.op in _TRAINED for step in graph.steps if name in step.inputs)


class GraphNetwork(nnx.Module):
    """Computes a graph. Convolutions, BatchNorm and dense layers are Flax's own.

    Args:
      num_classes: length of the logits, which the graph has to have.
      image_size: not used: the graph tells.
      width: not used: the graph tells.
      graph: JSON of a `Graph`.
      channels: of the images.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 32,
        width: int = 1,
        graph: str = "",
        channels: int = 3,
        *,
        rngs: nnx.Rngs,
    ):
        self.graph = from_text(graph)
        shapes = dict(self.graph.weights)
        layers: dict[str, nnx.Module] = {}
        for step in self.graph.steps:
            if step.layer and step.layer not in layers:
                layers[step.layer] = _layer(step, shapes, rngs)
        self.layers = nnx.Dict(layers)
        names = tensor_names(self.graph)

        def held(kind: str, variable: type[nnx.Variable]) -> nnx.Dict:
            found = {our: name for our, name in names.items() if our.startswith(f"{kind}.")}
            return nnx.Dict(
                {our.partition(".")[2]: variable(jnp.zeros(shapes[name])) for our, name in found.items()}
            )

        self.trained, self.frozen = held("trained", nnx.Param), held("frozen", Frozen)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Logits `[N, num_classes]` of images `[N, H, W, channels]`; `rngs` is not used: no dropout."""
        graph = self.graph
        values: dict[str, Any] = {"": None}
        for name, kind, shape, numbers in graph.constants:
            values[name] = np.array(numbers, np.dtype(kind)).reshape(shape)
        for our, name in tensor_names(graph).items():
            kind, _, index = our.partition(".")
            if kind in ("trained", "frozen"):
                values[name] = getattr(self, kind)[index][...]
        values[graph.image] = x if graph.channels_last else x.transpose(0, 3, 1, 2)
        for step in graph.steps:
            given = [values.get(name) for name in step.inputs]
            attributes = dict(step.attributes) | {"outputs": len(step.outputs)}
            if step.layer:
                found = _applied(self.layers[step.layer], step.op, given[0], attributes)
            else:
                found = OPERATIONS[step.op](_alike(given), attributes)
            several = [np.asarray(part) if isinstance(part, np.generic) else part for part in _several(found)]
            values.update(zip(step.outputs, several, strict=False))
        logits = values[graph.logits]
        return logits.reshape(len(x), -1)


def _several(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _alike(values: list[Any]) -> list[Any]:
    """Constants of numbers in the type of the arrays that they meet."""
    arrays = [v for v in values if v is not None and not isinstance(v, np.ndarray)]
    if not arrays or arrays[0].dtype.kind != "f":
        return values
    like = arrays[0]

    def number(value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim <= like.ndim

    return [jnp.asarray(value, like.dtype) if number(value) else value for value in values]


def _layer(step: Step, shapes: dict[str, tuple[int, ...]], rngs: nnx.Rngs) -> nnx.Module:
    attributes, shape = dict(step.attributes), shapes[step.inputs[1]]
    if step.op == "BatchNormalization":
        return nnx.BatchNorm(shape[0], momentum=0.9, epsilon=attributes.get("epsilon", 1e-5), rngs=rngs)
    with_bias = len(step.inputs) > 2 and bool(step.inputs[2])
    if step.op == "Conv":
        groups = attributes.get("group", 1)
        return nnx.Conv(
            shape[1] * groups,
            shape[0],
            tuple(shape[2:]),
            strides=attributes.get("strides") or 1,
            padding=padding_of(attributes, (0, 0), shape[2:]) if _padding_is_told(attributes) else "VALID",
            kernel_dilation=attributes.get("dilations") or 1,
            feature_group_count=groups,
            use_bias=with_bias,
            rngs=rngs,
        )
    a, b = (shape[1], shape[0]) if step.op == "Gemm" and attributes.get("transB") else shape
    return nnx.Linear(a, b, use_bias=with_bias, rngs=rngs)


def _padding_is_told(attributes: dict[str, Any]) -> bool:
    """Whether it is not to be worked out from the size of the map."""
    return attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _applied(layer: Any, op: str, x: Any, attributes: dict[str, Any]) -> Any:
    if op in ("Gemm", "MatMul"):
        return layer(x)
    if x.ndim != 4:
        return layer(x)
    last = x.transpose(0, 2, 3, 1)
    if op == "Conv" and not _padding_is_told(attributes):
        padding: Sequence[tuple[int, int]] = padding_of(attributes, x.shape, layer.kernel_size)
        if any(map(any, padding)):
            last = jnp.pad(last, [(0, 0), *padding, (0, 0)])
    return layer(last).transpose(0, 3, 1, 2)
