"""Files of ONNX, made without the onnx package."""

import struct

import numpy as np

FLOAT, INT64 = 1, 7


def varint(value):
    value &= (1 << 64) - 1
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def message(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(array, name=""):
    """With its numbers as bytes, as PyTorch writes it."""
    kind = {"f4": 1, "i8": 7, "f2": 10, "f8": 11}[array.dtype.str[1:]]
    dims = b"".join(number(1, length) for length in array.shape)
    return dims + number(2, kind) + message(8, name) + message(9, array.tobytes())


def listed(array, name):
    """With its numbers one by one, as other programs write it."""
    body = b"".join(varint(4 << 3 | 5) + struct.pack("<f", value) for value in array.ravel())
    return b"".join(number(1, n) for n in array.shape) + number(2, FLOAT) + body + message(8, name)


def attribute(name, value):
    if isinstance(value, bool | int):
        return message(1, name) + number(3, int(value)) + number(20, 2)
    if isinstance(value, float):
        return message(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + number(20, 1)
    if isinstance(value, str):
        return message(1, name) + message(4, value) + number(20, 3)
    if isinstance(value, np.ndarray):
        return message(1, name) + message(5, tensor(value)) + number(20, 4)
    return message(1, name) + b"".join(number(8, n) for n in value) + number(20, 7)


def node(op, inputs, outputs, **attributes):
    body = b"".join(message(1, name) for name in inputs) + b"".join(message(2, name) for name in outputs)
    body += message(4, op)
    return body + b"".join(message(5, attribute(key, value)) for key, value in attributes.items())


def value_info(name, shape):
    dims = b"".join(message(1, number(1, n) if n else message(2, "N")) for n in shape)
    return message(1, name) + message(2, message(1, number(1, FLOAT) + message(2, dims)))


def model(nodes, tensors, inputs, output):
    """A whole file: nodes as from `node`, tensors by name, (name, shape) of each input, the output's name."""
    graph = b"".join(message(1, part) for part in nodes) + message(2, "main")
    graph += b"".join(
        message(5, value if isinstance(value, bytes) else tensor(value, name))
        for name, value in tensors.items()
    )
    graph += b"".join(message(11, value_info(*given)) for given in inputs)
    graph += message(12, value_info(output, (0, 0)))
    return number(1, 8) + message(2, "test") + message(7, graph) + message(8, number(2, 13))
