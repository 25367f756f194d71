"""What a compiled program does, read from the text of its optimised HLO.

XLA's own cost analysis is empty for GPUs that are not there, and knows no precision. Counted are the operations of
products and convolutions, where all that matters is, and what every kernel reads and writes, each array whole.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0} | {
    f"{kind}{bits}": bits
    for kind, widths in {"s": (4, 8, 16, 32, 64), "u": (4, 8, 16, 32, 64), "f": (16, 32, 64)}.items()
    for bits in widths
}
BITS |= {"bf16": 16, "c64": 64, "c128": 128}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# Instructions that are no work of their own; what begins work that ends elsewhere counts once, at its start.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("add-dependency", "partition-id", "replica-id"),
}
CALLS = ("call", "conditional", "while", "async-start")

_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|true_computation|false_computation|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)


class Instruction(NamedTuple):
    """One line: the text of its shape, its operation, what stands in its brackets, and what follows them."""

    shape: str
    operation: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs; of a loop the body alone."""
        return [name for found in _CALLED.findall(self.attributes) for name in re.findall(r"[\w.\-]+", found)]


Computation = dict[str, Instruction]


class Kernel(NamedTuple):
    """A piece of work that reads from memory and writes to it.

    Attributes:
      operations: of its products and convolutions, by XLA's name of their precision ("default", "high", "highest").
      bytes: of all its arguments and results that lie in the large memory.
      cycles: as the compiler estimates them, 0 where it does not.
      times: how often it runs in one run of the program.
    """

    operations: dict[str, float]
    bytes: int
    cycles: int
    times: int


class Program:
    """A compiled program; `text` is its optimised HLO."""

    def __init__(self, text: str):
        self.text = text
        self._computations, self._entry = _parse(text)

    def kernels(self) -> list[Kernel]:
        """All kernels."""
        return list(self._kernels(self._entry, 1))

    def collectives(self) -> dict[str, int]:
        """How often each kind of exchange between devices stands in the program, where it merges them as one."""
        found = Counter(
            instruction.operation.removesuffix("-start")
            for computation in self._computations.values()
            for instruction in computation.values()
        )
        return {kind: found[kind] for kind in COLLECTIVES if found[kind]}

    def callbacks(self) -> list[str]:
        """What the program asks of the host while it runs, by name."""
        targets = set(re.findall(r'custom_call_target="([^"]+)"', self.text))
        asked = {name for name in targets if "callback" in name or "host" in name.lower()}
        operations = {i.operation for c in self._computations.values() for i in c.values()}
        return sorted(asked | operations & {"infeed", "outfeed", "send", "recv"})

    def doubles(self) -> int:
        """How many arrays of float64 there are."""
        return len(re.findall(r"\bf64\[", self.text))

    def loops(self) -> dict[str, int]:
        """How often each loop runs, of those in the program's own computation."""
        entry = self._computations[self._entry]
        return {name: self._times(found) for name, found in entry.items() if found.operation == "while"}

    def donated(self) -> list[int]:
        """Bytes of each argument whose memory a result takes over, without a layout's padding."""
        header = self.text.split("\n", 1)[0]
        given = {
            int(found.arguments): num_bytes(found.shape, everywhere=True)
            for found in self._computations[self._entry].values()
            if found.operation == "parameter"
        }
        return [given[int(index)] for index in re.findall(r": \((\d+), \{\}, \w+-alias\)", header)]

    def _kernels(self, name: str, times: int) -> Iterator[Kernel]:
        computation = self._computations[name]
        for found in computation.values():
            if found.operation in CALLS:
                for inner in found.called:
                    yield from self._kernels(inner, times * self._times(found))
            elif found.operation not in FREE and not found.operation.endswith("-done"):
                shapes = [found.shape, *(computation[name].shape for name in found.operands)]
                cycles = re.search(r'"estimated_cycles":"(\d+)"', found.attributes)
                yield Kernel(
                    self._operations(found, computation),
                    sum(map(num_bytes, shapes)),
                    int(cycles[1]) if cycles else 0,
                    times,
                )

    def _times(self, found: Instruction) -> int:
        """How often a loop runs its body, 1 of anything else and where the program does not say."""
        if found.operation != "while":
            return 1
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', found.attributes):
            return int(known[1])
        # The compiler for TPUs leaves the condition: as long as a counter, which JAX begins at 0, is below a constant.
        condition = re.search(r"condition=%([\w.\-]+)", found.attributes)
        inside = self._computations.get(condition[1], {}) if condition else {}
        for compared in inside.values():
            if compared.operation == "compare" and "direction=LT" in compared.attributes:
                bounds = [inside[name] for name in compared.operands if inside[name].operation == "constant"]
                if bounds and bounds[0].arguments.isdigit():
                    return int(bounds[0].arguments)
        return 1

    def _operations(self, found: Instruction, computation: Computation) -> dict[str, float]:
        total: dict[str, float] = {}
        if count := _count(found, computation):
            total[_precision(found)] = count
        if found.operation == "fusion":
            for name in found.called:
                inner = self._computations[name]
                for instruction in inner.values():
                    for kind, count in self._operations(instruction, inner).items():
                        total[kind] = total.get(kind, 0.0) + count
        return total


def num_bytes(shape: str, everywhere: bool = False) -> int:
    """Bytes of the arrays in the text of a shape; unless `everywhere`, of those in the large memory alone."""
    return sum(
        math.prod(dims) * BITS[kind] // 8
        for kind, dims, layout in _arrays(shape)
        if everywhere or not re.search(r"S\([1-9]", layout)  # memory on the chip
    )


def _arrays(shape: str) -> list[tuple[str, tuple[int, ...], str]]:
    return [
        (kind, tuple(int(size) for size in dims.split(",") if size), layout)
        for kind, dims, layout in _ARRAY.findall(shape)
        if kind in BITS
    ]


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            current = computations[begins[2]] = {}
            entry = begins[2] if begins[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current[found[1]] = _instruction(found[2])
    return computations, entry


def _instruction(text: str) -> Instruction:
    ends = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opens = text.index("(", ends)
    closes = _closing(text, opens)
    return Instruction(
        text[:ends], text[ends:opens].strip(), text[opens + 1 : closes - 1], text[closes:].lstrip(", ")
    )


def _closing(text: str, opens: int) -> int:
    """Where the bracket that opens at `opens` has been closed."""
    depth = 0
    for found in re.finditer(r"[()]", text[opens:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return opens + found.end()
    raise ValueError(f"a bracket that is never closed: {text[:80]}")


def _precision(found: Instruction) -> str:
    named = re.search(r"operand_precision=\{(\w+)", found.attributes)
    if named is None:
        named = re.search(r'"operand_precision":\["(\w+)"', found.attributes)
    return named[1].lower() if named else "default"


def _count(found: Instruction, computation: Computation) -> float:
    """Operations of a product or a convolution, 0 of anything else: two for every pair of numbers that meet."""
    target = re.search(r'custom_call_target="__(cublas|cudnn\$conv)(\w*)', found.attributes)
    if not target and found.operation not in ("dot", "convolution"):
        return 0.0
    first, second = (_arrays(computation[name].shape)[0][1] for name in found.operands[:2])
    result = _arrays(found.shape)[0][1]
    if found.operation == "dot" or (target and target[1] == "cublas"):
        dims = re.search(r'lhs_contracting_dim(?:ensions"|s)[:=][\[{]([\d,"]*)', found.attributes)
        axes = re.findall(r"\d+", dims[1]) if dims else []
        return 2.0 * math.prod(result) * math.prod(first[int(axis)] for axis in axes)
    # cuDNN's gradients are written with the window and the layouts of the convolution that they are gradients of.
    if target and target[2].startswith("BackwardFilter"):
        return _convolution(found.attributes, first, result, second)
    if target and target[2].startswith("BackwardInput"):
        return _convolution(found.attributes, result, second, first)
    return _convolution(found.attributes, first, second, result)


def _convolution(attributes: str, inputs: tuple, kernel: tuple, outputs: tuple) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    window = re.search(r"window=\{([^}]*)\}", attributes)
    assert labels is not None
    of_inputs, of_kernel, of_outputs = labels.groups()
    options = dict(part.split("=") for part in window[1].split()) if window else {}
    pairs = 1
    for axis in (label for label in of_outputs if label.isdigit()):
        at = int(axis)

        def option(name: str, default: int, at: int = at) -> int:
            return int(options[name].split("x")[at].split("_")[0]) if name in options else default

        pairs *= _meetings(
            inputs[of_inputs.index(axis)],
            outputs[of_outputs.index(axis)],
            kernel[of_kernel.index(axis)],
            option("stride", 1),
            option("pad", 0),
            option("lhs_dilate", 1),
            option("rhs_dilate", 1),
        )
    channels = kernel[of_kernel.index("i")] * outputs[of_outputs.index("f")]
    return 2.0 * outputs[of_outputs.index("b")] * channels * pairs


@functools.cache
def _meetings(inputs: int, outputs: int, kernel: int, stride: int, low: int, spread: int, reach: int) -> int:
    """Along one axis: how often a place of the kernel meets one of the input that is neither padding nor a gap."""
    last = (inputs - 1) * spread
    return sum(
        0 <= (place := out * stride + tap * reach - low) <= last and place % spread == 0
        for out in range(outputs)
        for tap in range(kernel)
    )
