"""ONNX's operations without weights of their own, on arrays whose axes are ONNX's (images `[N, C, H, W]`).

Source: https://onnx.ai/onnx/operators/, of each operation.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fip_jax.models.layers import max_pool_over

Attributes = dict[str, Any]
Operation = Callable[..., Any]  # (values, attributes) -> value, or a list of them


def _elementwise(function: Callable[..., Any]) -> Operation:
    return lambda values, attributes: function(*values)


def _of_ints(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Operation:
    """Of lengths and indices, which are NumPy arrays and stay such."""

    def apply(values, attributes):
        if all(isinstance(value, np.ndarray) for value in values):
            return theirs(*values)
        return ours(*_of_one_rank(values))

    return apply


def _of_one_rank(values: Sequence[Any]) -> list[Any]:
    """With axes of 1 in front of those that have fewer."""
    rank = max(value.ndim for value in values)
    return [value.reshape((1,) * (rank - value.ndim) + value.shape) for value in values]


def _divide(a, b):
    return a // b if a.dtype.kind in "iu" else a / b


def _axes(values: Sequence[Any], attributes: Attributes, place: int = 1) -> tuple[int, ...] | None:
    """Axes, which newer versions have as an input and older ones as an attribute; None where none are given."""
    if len(values) > place and values[place] is not None:
        return tuple(int(axis) for axis in np.asarray(values[place]).ravel())
    found = attributes.get("axes")
    return None if found is None else tuple(found)


def _reduce(function: Callable[..., Any]) -> Operation:
    def apply(values, attributes):
        axes = _axes(values, attributes)
        return function(values[0], axis=axes, keepdims=bool(attributes.get("keepdims", 1)))

    return apply


def _clip(values, attributes):
    low, high = (values[1:] + [None, None])[:2]
    low = attributes.get("min") if low is None else low
    high = attributes.get("max") if high is None else high
    x = values[0]
    x = x if low is None else jnp.maximum(x, jnp.asarray(low, x.dtype))
    return x if high is None else jnp.minimum(x, jnp.asarray(high, x.dtype))


def _hard_sigmoid(values, attributes):
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return jnp.clip(values[0] * alpha + beta, 0, 1)


def _gelu(values, attributes):
    return jax.nn.gelu(values[0], approximate=attributes.get("approximate", "none") == "tanh")


def _reshape(values, attributes):
    x, shape = values[0], [int(n) for n in values[1]]
    shape = [x.shape[i] if n == 0 and not attributes.get("allowzero") else n for i, n in enumerate(shape)]
    # Exported for one image, the number of images is written out, though there are others here.
    if isinstance(x, jax.Array) and -1 not in shape and math.prod(shape) != x.size and x.ndim:
        shape[0] = x.size // math.prod(shape[1:])
    elif isinstance(x, jax.Array) and -1 in shape[1:] and shape[0] == 1:
        shape[0] = x.shape[0]
    return x.reshape(shape)


def _flatten(values, attributes):
    axis = attributes.get("axis", 1)
    shape = values[0].shape
    return values[0].reshape(math.prod(shape[:axis]), -1)


def _transpose(values, attributes):
    return values[0].transpose(attributes.get("perm") or None)


def _concat(values, attributes):
    module = np if all(isinstance(value, np.ndarray) for value in values) else jnp
    return module.concatenate([module.atleast_1d(value) for value in values], axis=attributes["axis"])


def _split(values, attributes):
    axis, x = attributes.get("axis", 0), values[0]
    sizes = attributes.get("split") if len(values) < 2 or values[1] is None else values[1].tolist()
    if not sizes:
        count = attributes.get("num_outputs", attributes["outputs"])
        sizes = [math.ceil(x.shape[axis] / count)] * (count - 1)
        sizes.append(x.shape[axis] - sum(sizes))
    return jnp.split(x, np.cumsum(sizes)[:-1].tolist(), axis=axis)


def _slice(values, attributes):
    x = values[0]
    if len(values) == 1:
        starts, ends, axes, steps = attributes["starts"], attributes["ends"], attributes.get("axes"), None
    else:
        starts, ends, axes, steps = (*values[1:], None, None)[:4]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index: list[Any] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        whole = int(end) < -x.shape[int(axis)] and step < 0
        index[int(axis)] = slice(int(start), None if whole else int(end), int(step))
    return x[tuple(index)]


def _gather(values, attributes):
    module = np if all(isinstance(value, np.ndarray) for value in values) else jnp
    return module.take(values[0], values[1], axis=attributes.get("axis", 0))


def _squeeze(values, attributes):
    axes = _axes(values, attributes)
    return values[0].squeeze(axes)


def _unsqueeze(values, attributes):
    axes = _axes(values, attributes)
    module = np if isinstance(values[0], np.ndarray) else jnp
    return module.expand_dims(values[0], axes)


def _pad(values, attributes):
    x = values[0]
    pads = [int(n) for n in (values[1] if len(values) > 1 else attributes["pads"])]
    value = values[2] if len(values) > 2 and values[2] is not None else attributes.get("value", 0.0)
    widths = list(zip(pads[: x.ndim], pads[x.ndim :], strict=True))
    mode = attributes.get("mode", "constant")
    if mode == "constant":
        return jnp.pad(x, widths, constant_values=jnp.asarray(value, x.dtype))
    return jnp.pad(x, widths, mode={"reflect": "reflect", "edge": "edge"}[mode])


def padding_of(attributes: Attributes, shape: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """The padding of rows and columns of a convolution or pooling of maps `[..., H, W]` of this shape."""
    strides = attributes.get("strides") or (1, 1)
    dilations = attributes.get("dilations") or (1, 1)
    auto = attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for length, size, stride, dilation in zip(shape[-2:], kernel, strides, dilations, strict=True):
            total = max(0, (-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length)
            less, more = total // 2, total - total // 2
            found.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return found
    pads = attributes.get("pads") or (0, 0, 0, 0)
    return [(pads[0], pads[2]), (pads[1], pads[3])]


def _max_pool(values, attributes):
    x, kernel = values[0], attributes["kernel_shape"]
    strides = attributes.get("strides") or (1, 1)
    padding = padding_of(attributes, x.shape, kernel)
    square = kernel[0] == kernel[1] and strides[0] == strides[1]
    if not square or max(attributes.get("dilations") or (1,)) > 1:
        raise ValueError("max pooling over something else than squares")
    widths = [(0, 0), *padding, (0, 0)]
    last = x.transpose(0, 2, 3, 1)
    if any(map(any, widths)):
        last = jnp.pad(last, widths, constant_values=-jnp.inf)
    ceil = bool(attributes.get("ceil_mode", 0))
    return max_pool_over(last, kernel[0], strides[0], ceil=ceil).transpose(0, 3, 1, 2)


def _average_pool(values, attributes):
    x, kernel = values[0], attributes["kernel_shape"]
    strides = attributes.get("strides") or (1, 1)
    if attributes.get("ceil_mode"):
        raise ValueError("average pooling beyond the map")
    last = x.transpose(0, 2, 3, 1)
    found = nnx.avg_pool(
        last,
        tuple(kernel),
        tuple(strides),
        padding_of(attributes, x.shape, kernel),
        bool(attributes.get("count_include_pad", 0)),
    )
    return found.transpose(0, 3, 1, 2)


def _lrn(values, attributes):
    x, size = values[0], attributes["size"]
    before = (size - 1) // 2
    squares = jnp.pad(jnp.square(x), ((0, 0), (before, size - 1 - before), (0, 0), (0, 0)))
    total = functools.reduce(jnp.add, (squares[:, i : i + x.shape[1]] for i in range(size)))
    alpha, beta = attributes.get("alpha", 1e-4), attributes.get("beta", 0.75)
    return x / (attributes.get("bias", 1.0) + alpha / size * total) ** beta


def _softmax(values, attributes):
    return jax.nn.softmax(values[0], axis=attributes.get("axis", -1))


def _cast(values, attributes):
    x, to = values[0], attributes["to"]
    if to in (6, 7):
        return x.astype(np.int64) if isinstance(x, np.ndarray) else x.astype(jnp.int32)
    return x if x.dtype.kind == "f" else x.astype(np.float32)


def _layer_norm(values, attributes):
    x, scale = values[0], values[1]
    axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
    mean = jnp.mean(x, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=axes, keepdims=True)
    y, scale = _of_one_rank([(x - mean) / jnp.sqrt(variance + attributes.get("epsilon", 1e-5)), scale])
    return y * scale if len(values) < 3 else jnp.add(*_of_one_rank([y * scale, values[2]]))


def _instance_norm(values, attributes):
    x, scale, bias = values
    mean = jnp.mean(x, axis=(2, 3), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=(2, 3), keepdims=True)
    y = (x - mean) / jnp.sqrt(variance + attributes.get("epsilon", 1e-5))
    return y * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def _leaky(values, attributes):
    return jnp.where(values[0] >= 0, values[0], attributes.get("alpha", 0.01) * values[0])


def _power(values, attributes):
    x, exponent = _of_one_rank([values[0], np.asarray(values[1])])
    return x ** jnp.asarray(exponent, x.dtype)


def _prelu(values, attributes):
    x, slope = _of_one_rank(values)
    return jnp.where(x >= 0, x, slope * x)


def _expand(values, attributes):
    shape = np.broadcast_shapes(values[0].shape, tuple(int(n) for n in values[1]))
    return jnp.broadcast_to(values[0], shape)


OPERATIONS: dict[str, Operation] = {
    "Abs": _elementwise(jnp.abs),
    "Add": _of_ints(jnp.add, np.add),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Div": _of_ints(_divide, _divide),
    "Dropout": lambda values, attributes: values[0],
    "Elu": lambda values, attributes: jax.nn.elu(values[0], attributes.get("alpha", 1.0)),
    "Erf": _elementwise(jax.lax.erf),
    "Exp": _elementwise(jnp.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "GlobalAveragePool": lambda values, attributes: jnp.mean(values[0], axis=(2, 3), keepdims=True),
    "GlobalMaxPool": lambda values, attributes: jnp.max(values[0], axis=(2, 3), keepdims=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _elementwise(jax.nn.hard_swish),
    "Identity": lambda values, attributes: values[0],
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky,
    "Log": _elementwise(jnp.log),
    "LogSoftmax": lambda values, attributes: jax.nn.log_softmax(values[0], axis=attributes.get("axis", -1)),
    "MatMul": _elementwise(jnp.matmul),
    "MaxPool": _max_pool,
    "Mul": _of_ints(jnp.multiply, np.multiply),
    "Neg": _elementwise(jnp.negative),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _power,
    "Reciprocal": _elementwise(jnp.reciprocal),
    "ReduceMax": _reduce(jnp.max),
    "ReduceMean": _reduce(jnp.mean),
    "ReduceSum": _reduce(jnp.sum),
    "Relu": _elementwise(jax.nn.relu),
    "Reshape": _reshape,
    "Shape": lambda values, attributes: np.array(values[0].shape, np.int64),
    "Sigmoid": _elementwise(jax.nn.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _elementwise(jax.nn.softplus),
    "Split": _split,
    "Sqrt": _elementwise(jnp.sqrt),
    "Squeeze": _squeeze,
    "Sub": _of_ints(jnp.subtract, np.subtract),
    "Swish": lambda values, attributes: (
        values[0] * jax.nn.sigmoid(attributes.get("alpha", 1.0) * values[0])
    ),
    "Tanh": _elementwise(jnp.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
