"""ONNX's operations that move numbers about and compute none, as in `graph_ops.py`.

Lengths and indices are NumPy arrays, and stay such.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Attributes = dict[str, Any]
Operation = Callable[..., Any]  # (values, attributes) -> value, or a list of them


def axes_of(values: Sequence[Any], attributes: Attributes, place: int = 1) -> tuple[int, ...] | None:
    """Axes, which newer versions have as an input and older ones as an attribute; None where none are given."""
    if len(values) > place and values[place] is not None:
        return tuple(int(axis) for axis in np.asarray(values[place]).ravel())
    found = attributes.get("axes")
    return None if found is None else tuple(found)


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
    axes = axes_of(values, attributes)
    return values[0].squeeze(axes)


def _unsqueeze(values, attributes):
    axes = axes_of(values, attributes)
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


def _expand(values, attributes):
    shape = np.broadcast_shapes(values[0].shape, tuple(int(n) for n in values[1]))
    return jnp.broadcast_to(values[0], shape)


def _constant_of_shape(values, attributes):
    value = np.asarray(attributes.get("value", (0.0,))).ravel()[0]
    dtype = np.float32 if value.dtype.kind == "f" else np.int64
    return np.full([int(n) for n in values[0]], value, dtype)


def _where(values, attributes):
    static = all(isinstance(value, np.ndarray) for value in values)
    return np.where(*values) if static else jnp.where(*of_one_rank(values))


def of_one_rank(values: Sequence[Any]) -> list[Any]:
    """With axes of 1 in front of those that have fewer."""
    rank = max(value.ndim for value in values)
    return [value.reshape((1,) * (rank - value.ndim) + value.shape) for value in values]


def on_lengths(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Operation:
    """JAX's function, and NumPy's where all values are lengths and indices, which stay NumPy arrays."""

    def apply(values, attributes):
        if all(isinstance(value, np.ndarray) for value in values):
            return theirs(*values)
        return ours(*of_one_rank(values))

    return apply


SHAPE_OPERATIONS: dict[str, Operation] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "ConstantOfShape": _constant_of_shape,
    "Equal": on_lengths(jnp.equal, np.equal),
    "Greater": on_lengths(jnp.greater, np.greater),
    "Less": on_lengths(jnp.less, np.less),
    "Mod": on_lengths(jnp.mod, np.mod),
    "Range": lambda values, attributes: np.arange(*(value.item() for value in values)),
    "Where": _where,
    "Shape": lambda values, attributes: np.array(values[0].shape, np.int64),
}
