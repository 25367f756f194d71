"""ONNX files, read as data without the onnx package, and written again with other numbers in the same places.

An ONNX file is a protobuf message: fields, each a number, a kind and a value, messages among these. What is read here
is the graph, its attributes and its tensors; nothing is run.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, for the numbers of the fields.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fip_jax.errors import UserError

_DTYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    16: np.dtype(ml_dtypes.bfloat16),
}
_MAX_NODES = 20_000
_MAX_DIMENSIONS = 8


class Tensor(NamedTuple):
    """A tensor: its numbers, read-only, and where they lie in the file, or -1 where not as they are in memory."""

    array: np.ndarray
    start: int


class Node(NamedTuple):
    """An operation on values by name; attributes are numbers, text, tuples of numbers or arrays."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class OnnxFile(NamedTuple):
    """A graph and its file.

    Attributes:
      data: the file.
      nodes: in the order in which they are computed.
      tensors: initialisers by name.
      inputs: name and lengths of each input that is no initialiser; 0 for an open one.
      outputs: names.
    """

    data: bytes
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]

    def replaced(self, changes: Iterable[tuple[str, np.ndarray]]) -> bytes:
        """A copy of the file with other numbers in some initialisers, rounded to their types."""
        data = bytearray(self.data)
        for name, values in changes:
            tensor = self.tensors[name]
            new = np.ascontiguousarray(np.asarray(values).astype(tensor.array.dtype)).tobytes()
            data[tensor.start : tensor.start + len(new)] = new
        return bytes(data)


class _Message(NamedTuple):
    """A part of the file that is a message."""

    data: bytes
    start: int
    end: int

    def fields(self) -> Iterator[tuple[int, Any]]:
        """(number, value) of each field: an integer, four or eight bytes as float, or a `_Message` of the bytes."""
        at = self.start
        while at < self.end:
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = self._varint(at)
                yield number, value
            elif kind == 2:
                length, at = self._varint(at)
                if at + length > self.end:
                    raise ValueError("a field that reaches beyond its message")
                yield number, _Message(self.data, at, at + length)
                at += length
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                if at + size > self.end:
                    raise ValueError("a field that reaches beyond its message")
                yield number, struct.unpack_from("<d" if kind == 1 else "<f", self.data, at)[0]
                at += size
            else:
                raise ValueError(f"a field of kind {kind}")

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= self.end:
                raise ValueError("a number that is cut short")
            byte = self.data[at]
            value |= (byte & 0x7F) << shift
            at += 1
            if byte < 0x80:
                return value, at
        raise ValueError("a number of more than 64 bits")

    def text(self) -> str:
        return self.data[self.start : self.end].decode()

    def integers(self) -> list[int]:
        """The numbers of a packed field."""
        found, at = [], self.start
        while at < self.end:
            value, at = self._varint(at)
            found.append(_signed(value))
        return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def looks_like(head: bytes) -> bool:
    """Whether a file begins as ONNX: the version of its format, then who made it, or the graph."""
    return (
        len(head) > 2
        and head[0] == 0x08
        and 2 < head[1] < 64
        and head[2] in (0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42)
    )


def read(path: Path) -> OnnxFile:
    """Reads an ONNX file.

    Raises:
      UserError: damaged, with numbers in other files, or absurdly large.
    """
    data = path.read_bytes()
    try:
        for number, value in _Message(data, 0, len(data)).fields():
            if number == 7 and isinstance(value, _Message):
                return _graph(data, value)
    except (ValueError, KeyError, IndexError, struct.error, OverflowError) as error:
        raise UserError(
            f"{path}: found {repr(str(error)[:200])[1:-1]}, expected a whole ONNX file with its numbers in it"
        ) from error
    raise UserError(f"{path}: found no graph, expected a whole ONNX file")


def _graph(data: bytes, graph: _Message) -> OnnxFile:
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    inputs: dict[str, tuple[int, ...]] = {}
    outputs: list[str] = []
    for number, value in graph.fields():
        if number == 1:
            nodes.append(_node(value))
        elif number == 5:
            name, tensor = _tensor(value)
            tensors[name] = tensor
        elif number == 11:
            name, shape = _value_info(value)
            inputs[name] = shape
        elif number == 12:
            outputs.append(_value_info(value)[0])
        elif number == 15:
            raise ValueError("sparse tensors")
    if len(nodes) > _MAX_NODES:
        raise ValueError(f"{len(nodes)} nodes")
    own = {name: shape for name, shape in inputs.items() if name not in tensors}
    return OnnxFile(data, tuple(nodes), tensors, own, tuple(outputs))


def _node(message: _Message) -> Node:
    inputs, outputs, op, attributes = [], [], "", {}
    for number, value in message.fields():
        if number == 1:
            inputs.append(value.text())
        elif number == 2:
            outputs.append(value.text())
        elif number == 4:
            op = value.text()
        elif number == 5:
            name, content = _attribute(value)
            attributes[name] = content
        elif number == 7 and value.text() not in ("", "ai.onnx"):
            raise ValueError(f"an operation of {value.text()[:80]}")
    return Node(op, tuple(inputs), tuple(outputs), attributes)


def _attribute(message: _Message) -> tuple[str, Any]:
    name, several, single = "", [], None
    for number, value in message.fields():
        if number == 1:
            name = value.text()
        elif number == 2:
            single = value
        elif number == 3:
            single = _signed(value)
        elif number == 4:
            single = value.text()
        elif number == 5:
            single = _tensor(value)[1].array
        elif number in (6, 11):
            raise ValueError("a graph inside of a node")
        elif number == 7:
            several += _floats(value)
        elif number == 8:
            several += value.integers() if isinstance(value, _Message) else [_signed(value)]
    return name, single if single is not None else tuple(several)


def _floats(value: Any) -> list[float]:
    if not isinstance(value, _Message):
        return [value]
    return np.frombuffer(value.data, "<f4", (value.end - value.start) // 4, value.start).tolist()


def _value_info(message: _Message) -> tuple[str, tuple[int, ...]]:
    """The name of a value and its lengths, 0 where one is open."""
    name, shape = "", []
    for number, value in message.fields():
        if number == 1:
            name = value.text()
        elif number == 2:
            for dimension in _inside(value, 1, 2, 1):
                lengths = [n for number, n in dimension.fields() if number == 1]
                shape.append(lengths[0] if lengths else 0)
    return name, tuple(shape)


def _inside(message: _Message, *numbers: int) -> list[_Message]:
    """The messages that lie in fields of these numbers, one inside of the other."""
    found = [message]
    for wanted in numbers:
        found = [value for part in found for number, value in part.fields() if number == wanted]
    return found


def _tensor(message: _Message) -> tuple[str, Tensor]:
    name, dims, kind = "", [], 0
    raw: _Message | None = None
    listed: list[Any] = []
    for number, value in message.fields():
        if number == 1:
            dims += value.integers() if isinstance(value, _Message) else [_signed(value)]
        elif number == 2:
            kind = value
        elif number == 8:
            name = value.text()
        elif number == 9 or (number in (4, 10) and isinstance(value, _Message)):
            raw = value  # numbers as they are in memory
        elif number in (4, 10):
            listed.append(value)
        elif number in (5, 7):
            listed += value.integers() if isinstance(value, _Message) else [_signed(value)]
        elif number == 14 and value == 1:
            raise ValueError(
                "numbers in another file; save the network as one file (save_as_external_data=False)"
            )
    if kind not in _DTYPES:
        raise ValueError(f"a tensor of the unknown type {kind}")
    dtype, size = _DTYPES[kind], math.prod(dims)
    if len(dims) > _MAX_DIMENSIONS or min(dims, default=0) < 0:
        raise ValueError("a tensor of absurd shape")
    if raw is None:
        if len(listed) != size:
            raise ValueError(f"{len(listed)} numbers for a tensor of {size}")
        return name, Tensor(np.array(listed, dtype).reshape(dims), -1)
    if raw.end - raw.start != size * dtype.itemsize:
        raise ValueError(f"{raw.end - raw.start} bytes for a tensor of {size} numbers")
    return name, Tensor(np.frombuffer(message.data, dtype, size, raw.start).reshape(dims), raw.start)
