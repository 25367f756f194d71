"""Other names for the same layers: how tensors are called in files of other programs, and in ours."""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]  # of tensors in PyTorch's layout, by their names
Options: TypeAlias = dict[str, int | tuple[int, ...]]  # arguments of a network


class Naming:
    """Substitutions that lead from other names to ours, one after the other.

    Args:
      *rules: (regular expression, what stands in its place).
    """

    def __init__(self, *rules: tuple[str, str | Callable[[re.Match[str]], str]]):
        self.rules = tuple((re.compile(pattern), replacement) for pattern, replacement in rules)

    def __call__(self, name: str) -> str:
        """Our name of a tensor."""
        for pattern, replacement in self.rules:
            name = pattern.sub(replacement, name)
        return name
