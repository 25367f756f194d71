"""Pickles read as data: nothing is imported, nothing is called, and what a file of weights does not need is refused.

A pickle is a program for a stack machine, whose instructions can import any function and call it. Here the machine is
our own: of the names that a pickle may refer to only those in `pickled_values.py` are known, and they build plain
values, `TensorRef` or `Opaque`, whatever the functions of that name would do.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from fip_jax.interop.pickled_values import (
    CALLS,
    OPAQUE,
    STORAGES,
    Global,
    Opaque,
    PickleError,
    Storage,
    UnknownName,
    set_item,
    whole,
)

# A list of 60,000 poisoned images takes about one and a half million.
MAX_OPERATIONS = 3_000_000
_MAX_INTEGER_BITS = 64


class _Machine:
    """The stack machine; a method for each instruction, named as in `pickletools`."""

    def __init__(self, any_name: bool = False) -> None:
        self.any_name = any_name
        self.stack: list[Any] = []
        self.marks: list[int] = []
        # A list, since the numbers that a file chooses could make a dictionary's keys collide.
        self.memo: list[Any] = []
        # Instructions and bytes so far, and how much calls may still copy of either.
        self.instructions = self.bytes = 0
        self.copied_items = self.copied_characters = 0
        # What PyTorch goes by where a name comes again: each storage's type and length, and each part's place.
        self.storages: dict[str, tuple[str, int]] = {}
        self.parts: dict[str, tuple[str, int, int]] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or (self.marks and len(self.stack) <= self.marks[-1]):
            raise PickleError("an instruction without operands")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleError("an instruction without operands")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self) -> Any:
        if not self.stack:
            raise PickleError("an instruction without operands")
        return self.stack[-1]

    def refer(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise PickleError("a reference without a name")
        found = Global(module, name)
        if not self.any_name and str(found) not in CALLS and str(found) not in OPAQUE:
            raise UnknownName(f"a reference to {repr(str(found)[:100])[1:-1]}")
        self.push(found)

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise PickleError("a call of something that is no known name")
        make = CALLS.get(str(function))
        if make and args:
            self.count_copy(args[0])
        try:
            self.push(make(args) if make else Opaque(function, args))
        except (ValueError, IndexError, TypeError) as error:
            raise PickleError(f"{function} with unexpected arguments") from error

    def count_copy(self, value: Any) -> None:
        """Calls copy what they are given. Written once and given to many of them, it would fill the memory."""
        if type(value) in (list, tuple):
            self.copied_items += len(value)
        elif type(value) is str:
            self.copied_characters += len(value)
        if self.copied_items > self.instructions or self.copied_characters > self.bytes:
            raise PickleError("copies that outgrow the file")

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Opaque):
            target.state = state
        elif isinstance(target, np.dtype):
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
                raise PickleError("numbers that are not little-endian")
        elif not isinstance(
            target, dict
        ):  # attributes of a dictionary, such as PyTorch's _metadata, are left out
            raise PickleError(f"a state for a {type(target).__name__}")

    def persistent(self) -> None:
        """A storage: ("storage", type, key, device, number of elements, and in old files a part of them)."""
        found = self.pop()
        if isinstance(found, tuple) and found[:1] == ("module",) and len(found) == 4:
            if not self.any_name:
                raise UnknownName("a whole module")
            self.push(found[1])  # with a class old files have its source code, which stays unread
            return
        if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage":
            raise PickleError("a persistent object that is no storage")
        _, kind, key, _, total = found[:5]
        if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in STORAGES:
            raise PickleError("a storage of an unknown type")
        if type(key) is not str:
            raise PickleError("a storage without a name")
        total = whole(total, "a storage's length")
        if self.storages.setdefault(key, (kind.name, total)) != (kind.name, total):
            raise PickleError("a storage of two types or lengths")
        first, size = 0, total
        if len(found) > 5 and found[5] is not None:
            if not isinstance(found[5], tuple) or len(found[5]) != 3:
                raise PickleError("a part of a storage of an unknown kind")
            first, size = (whole(n, "a part of a storage") for n in found[5][1:])
            if first + size > total:
                raise PickleError("a part of a storage that reaches beyond it")
            part = found[5][0]
            if type(part) is not str or self.parts.setdefault(part, (key, first, size)) != (key, first, size):
                raise PickleError("two parts of storages of one name")
            if part in self.storages:
                raise PickleError("a part of a storage with the name of a storage")
        if key in self.parts:
            raise PickleError("a part of a storage with the name of a storage")
        self.push(Storage(key, STORAGES[kind.name], first, size, total))

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if self.any_name and isinstance(target, Opaque):  # of a class that is a list as well
            return
        if type(target) is not list:
            raise PickleError("items for something that is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise PickleError("a key without a value")
        if self.any_name and isinstance(self.top(), Opaque):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            set_item(self.top(), key, value)

    def store(self, index: int) -> None:
        # Pickles number what they store from 0, those of Python 2 from 1.
        if not self.memo and index == 1:
            self.memo.append(_NOTHING)
        if index > len(self.memo):
            raise PickleError("values stored out of order")
        self.memo[index : index + 1] = [self.top()]

    def memoize(self) -> None:
        if self.memo and self.memo[0] is _NOTHING:  # their own count would differ from ours
            raise PickleError("values stored out of order")
        self.store(len(self.memo))

    def recall(self, index: int) -> None:
        if index >= len(self.memo) or self.memo[index] is _NOTHING:
            raise PickleError("a reference to what was never stored")
        self.push(self.memo[index])

    def integer(self, value: int) -> None:
        if value.bit_length() > _MAX_INTEGER_BITS and value != LEGACY_MAGIC:
            raise PickleError("a number of more than 64 bits")
        self.push(value)


_NOTHING = object()
# The number that a file of PyTorch before 1.6 begins with.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, arg: None,
    "FRAME": lambda m, arg: None,
    "STOP": lambda m, arg: None,
    "MARK": lambda m, arg: m.marks.append(len(m.stack)),
    "POP": lambda m, arg: m.pop(),
    "NONE": lambda m, arg: m.push(None),
    "NEWTRUE": lambda m, arg: m.push(True),
    "NEWFALSE": lambda m, arg: m.push(False),
    "EMPTY_DICT": lambda m, arg: m.push({}),
    "EMPTY_LIST": lambda m, arg: m.push([]),
    "EMPTY_TUPLE": lambda m, arg: m.push(()),
    "EMPTY_SET": lambda m, arg: m.push([]),
    "TUPLE": lambda m, arg: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, arg: m.push((m.pop(),)),
    "TUPLE2": lambda m, arg: m.push((m.pop(), m.pop())[::-1]),
    "TUPLE3": lambda m, arg: m.push((m.pop(), m.pop(), m.pop())[::-1]),
    "APPEND": lambda m, arg: m.append([m.pop()]),
    "APPENDS": lambda m, arg: m.append(m.pop_to_mark()),
    "ADDITEMS": lambda m, arg: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, arg: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, arg: m.set_items(m.pop_to_mark()),
    "MEMOIZE": lambda m, arg: m.memoize(),
    "GLOBAL": lambda m, arg: m.refer(*arg.split(" ", 1)),
    "STACK_GLOBAL": lambda m, arg: m.refer(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, arg: m.call(*[m.pop(), m.pop()][::-1]),
    "NEWOBJ": lambda m, arg: m.call(*[m.pop(), m.pop()][::-1]),
    "BUILD": lambda m, arg: m.build(),
    "BINPERSID": lambda m, arg: m.persistent(),
    **{name: lambda m, arg: m.store(arg) for name in ("BINPUT", "LONG_BINPUT")},
    **{name: lambda m, arg: m.recall(arg) for name in ("BINGET", "LONG_BINGET")},
    **{
        name: lambda m, arg: m.push(arg)
        for name in (
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINFLOAT"),
        )
    },
    **{name: lambda m, arg: m.integer(arg) for name in ("BININT", "BININT1", "BININT2", "LONG1", "LONG4")},
}


def read(
    data: bytes, start: int = 0, max_operations: int = MAX_OPERATIONS, *, any_name: bool = False
) -> tuple[Any, int]:
    """The pickle that begins at `start`, as plain values, and where it ends.

    Args:
      data: with the pickle in it.
      start: where it begins.
      max_operations: that it may take.
      any_name: whether it may refer to names that are not known, whose calls become `Opaque` as well. Nothing is
        imported or called even so, but a copy of such a file is as harmful as the file.

    Returns:
      (value, end). The value consists of None, bool, int, float, str, bytes, list, tuple, dict (also for an
      OrderedDict; a set is a list), `TensorRef`, `Storage`, `Global` and `Opaque`. A list or dict can hold itself.
      A dictionary's keys are text or bytes; numbers and None are written out as text.

    Raises:
      PickleError: not a pickle, cut short, too long, or with something that a file of weights does not need.
    """
    machine = _Machine(any_name)
    file = io.BytesIO(data)
    file.seek(start)
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(file)):
            instruction = _INSTRUCTIONS.get(opcode.name)
            if instruction is None:
                raise PickleError(f"the instruction {opcode.name}")
            if count > max_operations:
                raise PickleError(f"more than {max_operations:,} instructions")
            machine.instructions, machine.bytes = count, (position or 0) - start
            instruction(machine, argument)
    except PickleError:
        raise
    except Exception as error:  # pickletools raises ValueError, KeyError, IndexError, UnicodeDecodeError …
        raise PickleError("no pickle, or one that is cut short") from error
    if machine.marks or len(machine.stack) != 1:
        raise PickleError("a pickle with something left over")
    return machine.stack[0], file.tell()
