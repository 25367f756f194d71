"""ONNX's operations without weights of their own, on arrays whose axes are ONNX's (images `[N, C, H, W]`).

Source: https://onnx.ai/onnx/operators/, of each operation.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.models.graph_shapes import (
    SHAPE_OPERATIONS,
    Attributes,
    Operation,
    axes_of,
    of_one_rank,
    on_lengths,
)
from fip_jax.models.layers import average_over, max_pool_over


def _elementwise(function: Callable[..., Any]) -> Operation:
    return lambda values, attributes: function(*values)


def _divide(a, b):
    return a // b if a.dtype.kind in "iu" else a / b


def _reduce(function: Callable[..., Any]) -> Operation:
    def apply(values, attributes):
        axes = axes_of(values, attributes)
        return function(values[0], axis=axes, keepdims=bool(attributes.get("keepdims", 1)))

    return apply


def _clip(values, attributes):
    low, high = [*values[1:], None, None][:2]
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
    if attributes.get("ceil_mode") or kernel[0] != kernel[1] or strides[0] != strides[1]:
        raise ValueError("average pooling over something else than squares inside of the map")
    widths = [(0, 0), *padding_of(attributes, x.shape, kernel), (0, 0)]
    found = average_over(jnp.pad(x.transpose(0, 2, 3, 1), widths), kernel[0], strides[0])
    if any(map(any, widths)) and not attributes.get("count_include_pad", 0):
        inside = jnp.pad(jnp.ones((1, *x.shape[2:], 1), x.dtype), widths)
        found = found / average_over(inside, kernel[0], strides[0])
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
    y, scale = of_one_rank([(x - mean) / jnp.sqrt(variance + attributes.get("epsilon", 1e-5)), scale])
    return y * scale if len(values) < 3 else jnp.add(*of_one_rank([y * scale, values[2]]))


def _instance_norm(values, attributes):
    x, scale, bias = values
    mean = jnp.mean(x, axis=(2, 3), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=(2, 3), keepdims=True)
    y = (x - mean) / jnp.sqrt(variance + attributes.get("epsilon", 1e-5))
    return y * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def _leaky(values, attributes):
    return jnp.where(values[0] >= 0, values[0], attributes.get("alpha", 0.01) * values[0])


def _power(values, attributes):
    x, exponent = of_one_rank([values[0], np.asarray(values[1])])
    return x ** jnp.asarray(exponent, x.dtype)


def _prelu(values, attributes):
    x, slope = of_one_rank(values)
    return jnp.where(x >= 0, x, slope * x)


OPERATIONS: dict[str, Operation] = {
    **SHAPE_OPERATIONS,
    "Abs": _elementwise(jnp.abs),
    "Add": on_lengths(jnp.add, np.add),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Div": on_lengths(_divide, _divide),
    "Dropout": lambda values, attributes: values[0],
    "Elu": lambda values, attributes: jax.nn.elu(values[0], attributes.get("alpha", 1.0)),
    "Erf": _elementwise(jax.lax.erf),
    "Exp": _elementwise(jnp.exp),
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
    "Mul": on_lengths(jnp.multiply, np.multiply),
    "Neg": _elementwise(jnp.negative),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _elementwise(jnp.reciprocal),
    "ReduceMax": _reduce(jnp.max),
    "ReduceMean": _reduce(jnp.mean),
    "ReduceSum": _reduce(jnp.sum),
    "Relu": _elementwise(jax.nn.relu),
    "Sigmoid": _elementwise(jax.nn.sigmoid),
    "Softmax": _softmax,
    "Softplus": _elementwise(jax.nn.softplus),
    "Sqrt": _elementwise(jnp.sqrt),
    "Sub": on_lengths(jnp.subtract, np.subtract),
    "Swish": lambda values, attributes: values[0] * jax.nn.sigmoid(attributes.get("alpha", 1.0) * values[0]),
    "Tanh": _elementwise(jnp.tanh),
}
