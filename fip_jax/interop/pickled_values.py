"""What a pickle of weights may hold, and what we make of it; see `pickled.py`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_MAX_DIMENSIONS = 8
# Of a tensor's lengths, their product and its strides, where they are not bounded by its numbers: it has none or one.
_MAX_LENGTH = 1 << 40
_MAX_KEY = 10_000

# PyTorch's names of its storages; all little-endian.
STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class PickleError(Exception):
    """Not a pickle, or one with something that a file of weights does not need; the message says what."""


class UnknownName(PickleError):
    """A pickle that is in order, but refers to something that is not known here."""


class Global(NamedTuple):
    """A name that a pickle refers to; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Opaque:
    """An object of a class that is known to be harmless, kept without being built.

    Attributes:
      kind: the class.
      args: what its constructor would have been given.
      state: what its `__setstate__` would have been given, or None.
    """

    def __init__(self, kind: Global, args: Any = ()):
        self.kind, self.args, self.state = kind, args, None


class Storage(NamedTuple):
    """A flat array that lies elsewhere in the file.

    `key` names it, `first` and `size` count elements, `total` those of the array that it is a part of.
    """

    key: str
    dtype: np.dtype
    first: int
    size: int
    total: int


class TensorRef(NamedTuple):
    """A tensor as PyTorch writes it: a view of a storage. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def whole(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise PickleError(f"{what} that is no whole number of at least 0")
    return value


def _tensor(args: tuple) -> TensorRef:
    """The arguments of PyTorch's `_rebuild_tensor_v2`, checked to lie inside of the storage."""
    storage, offset, shape, strides = args[:4]
    if len(args) > 6 and args[6]:
        raise PickleError("a tensor whose numbers are to be negated or conjugated")
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise PickleError("a tensor without storage, shape or strides")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise PickleError(f"a tensor of {len(shape)} dimensions with {len(strides)} strides")
    ref = TensorRef(
        storage,
        whole(offset, "an offset"),
        tuple(whole(n, "a length") for n in shape),
        tuple(whole(n, "a stride") for n in strides),
    )
    if max(math.prod(filter(None, ref.shape)), *ref.strides, 0) > _MAX_LENGTH:
        raise PickleError("a tensor of absurd shape or strides")
    size = math.prod(ref.shape)
    last = ref.offset + sum((n - 1) * stride for n, stride in zip(ref.shape, ref.strides, strict=True))
    if size > storage.size or (size and last >= storage.size):
        raise PickleError(f"a tensor of shape {list(ref.shape)} outside of its {storage.size} stored numbers")
    return ref


def _parameter(args: tuple) -> TensorRef:
    if not args or not isinstance(args[0], TensorRef):
        raise PickleError("a parameter without a tensor")
    return args[0]


def _bytes(args: tuple) -> bytes:
    """The detour that bytes take in pickles of protocol 2."""
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        raise PickleError("text in an unexpected encoding")
    return args[0].encode("latin1")


def _no_bytes(args: tuple) -> bytes:
    """Empty ones, in protocol 2; others come as `_bytes`."""
    if args:
        raise PickleError("bytes made of something")
    return b""


def _dictionary(args: tuple) -> dict:
    pairs = args[0] if args else []
    if not isinstance(pairs, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs
    ):
        raise PickleError("a dictionary made of something other than pairs")
    found: dict = {}
    for key, value in pairs:
        set_item(found, key, value)
    return found


def _scalar(args: tuple) -> int | float | bool:
    """A NumPy number, as a Python one."""
    if len(args) != 2 or not isinstance(args[0], np.dtype) or type(args[1]) is not bytes:
        raise PickleError("a NumPy number of an unexpected kind")
    if len(args[1]) != args[0].itemsize:
        raise PickleError("a NumPy number of the wrong length")
    return np.frombuffer(args[1], args[0])[0].item()


def _dtype(args: tuple) -> np.dtype:
    code = args[0] if args else None
    if type(code) is not str or code.lstrip("<|=") not in {
        *("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
    }:
        raise PickleError("a NumPy type other than plain numbers")
    return np.dtype(code)


def _sequence(args: tuple) -> list:
    if args and not isinstance(args[0], list | tuple):
        raise PickleError("a set of something other than a list")
    return list(args[0]) if args else []


def set_item(target: Any, key: Any, value: Any) -> None:
    # Nested tuples would take time exponential in their depth to hash, and numbers can be chosen so that each collides
    # with all before it, which the random hashes of text prevent.
    if type(key) not in (str, int, float, bool, bytes, type(None)):
        raise PickleError(f"a dictionary key of type {type(key).__name__}")
    key = key if type(key) in (str, bytes) else str(key)
    # A long one can be given to many dictionaries, each of which would be looked through.
    if len(key) > _MAX_KEY:
        raise PickleError(f"a dictionary key of {len(key)} characters")
    if type(target) is not dict:
        raise PickleError("items for something that is no dictionary")
    target[key] = value


CALLS: dict[str, Callable[[tuple], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda args: tuple(_sequence(args)),
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": lambda args: {},
    "_codecs.encode": _bytes,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "__builtin__.bytes": _no_bytes,
    "builtins.set": _sequence,
    "__builtin__.set": _sequence,
}
# Classes that checkpoints hold beside the weights; none of them is ever made.
OPAQUE = {
    "argparse.Namespace",
    "collections.Counter",
    "builtins.list",
    "__builtin__.list",
    "builtins.dict",
    "__builtin__.dict",
    "builtins.int",
    "__builtin__.int",
    "builtins.float",
    "__builtin__.float",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath")),
    "PIL.Image.Image",
    "torch.device",
    *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64")),
    *(f"torch.{name}" for name in STORAGES),
}
