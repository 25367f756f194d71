"""What the settings of a purification, `config.defense`, may be."""

import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from fip_jax.data.corruptions import CONTENTS, KINDS
from fip_jax.errors import UserError
from fip_jax.gate import OVER
from fip_jax.scores import FISHERS

METHODS = ("fast_fip", "fip", "ft", "ft_sam")

# Of a number in a method's settings, where it is not 0; a learning rate of 0 would do nothing.
_LOWEST = {"trace_batch_size": 1, "learning_rate": 1e-8}

Holds = Callable[[Any], bool]
_FRACTION: tuple[Holds, str] = (lambda value: 0 <= value <= 1, "a fraction from 0 to 1")
_SIDE: tuple[Holds, str] = (lambda value: 0 < value <= 1, "a fraction above 0, at most 1")
_BELOW_ONE: tuple[Holds, str] = (lambda value: 0 <= value < 1, "a number from 0 to below 1")
_NOT_NEGATIVE: tuple[Holds, str] = (lambda value: 0 <= value < math.inf, "a number of at least 0")
_POSITIVE: tuple[Holds, str] = (lambda value: 0 < value < math.inf, "a number above 0")


def _at_least(least: float) -> tuple[Holds, str]:
    return lambda value: least <= value < math.inf, f"at least {least}"


_EXPECTED = {
    "hold_back": _BELOW_ONE,
    "label_weight": _NOT_NEGATIVE,
    "label_smoothing": _BELOW_ONE,
    "teacher.weight": _NOT_NEGATIVE,
    "teacher.temperature": _POSITIVE,
    **{f"corruption.{kind}.rate": _FRACTION for kind in KINDS},
    "corruption.patch.smallest": _SIDE,
    "corruption.patch.largest": _SIDE,
    "corruption.wave.amplitude": _FRACTION,
    "corruption.wave.frequency": _at_least(1),
    "corruption.overlay.opacity": _FRACTION,
    "corruption.warp.strength": _FRACTION,
    "corruption.warp.points": _at_least(2),
    "corruption.posterize.fewest": _at_least(2),
    "corruption.posterize.most": _at_least(2),
    "inversion.rate": _FRACTION,
    "inversion.steps": _at_least(1),
    "inversion.batch_size": _at_least(1),
    "inversion.success": _SIDE,
    "inversion.unlearnt": _SIDE,
    "inversion.index": _NOT_NEGATIVE,
    "inversion.starts": _at_least(1),
    "inversion.pace": _POSITIVE,
    "inversion.shrink": _NOT_NEGATIVE,
    "inversion.scout": _NOT_NEGATIVE,
    "mixed.weight": _NOT_NEGATIVE,
    "mixed.turn": _NOT_NEGATIVE,
    "mixed.zoom": _BELOW_ONE,
    "mixed.shift": _FRACTION,
    "mixed.shear": (lambda value: 0 <= value < 90, "degrees from 0 to below 90"),
    "mixed.brightness": _FRACTION,
    "mixed.contrast": _FRACTION,
    "mixed.mixup": _FRACTION,
    "mixed.cutmix": _FRACTION,
}


def check_defense(config: ConfigDict) -> None:
    """Refuses settings below `defense` that mean nothing.

    Raises:
      UserError: names the key, what was found and what was expected.
    """
    for key, (holds, expected) in _EXPECTED.items():
        _expect(config, key, holds, expected)
    contents = config.defense.corruption.patch.contents
    if not contents or not set(contents) <= set(CONTENTS):
        raise UserError(
            f"defense.corruption.patch.contents: found {contents!r}, expected some of {', '.join(CONTENTS)}"
        )
    patch, levels = config.defense.corruption.patch, config.defense.corruption.posterize
    _expect(config, "corruption.patch.largest", *_at_least(patch.smallest))
    _expect(config, "corruption.posterize.most", *_at_least(levels.fewest))
    rates = [kind.rate for kind in config.defense.corruption.values()]
    if sum(rates) > 1 + 1e-6:
        raise UserError(f"defense.corruption: found rates {rates}, expected a sum of at most 1")
    mixed = config.defense.mixed
    _expect(config, "mixed.cutmix", lambda value: value + mixed.mixup <= 1 + 1e-6, "at most 1 with mixup")
    if not any((config.defense.label_weight, config.defense.teacher.weight, mixed.weight)):
        raise UserError("defense.label_weight: found 0 and no teacher, expected one of the two to learn from")
    if config.defense.label_smoothing and not config.defense.label_weight:
        raise UserError(
            f"defense.label_smoothing: found {config.defense.label_smoothing} and a defense.label_weight of 0, "
            "expected labels that count, or no smoothing"
        )
    for method in METHODS:
        _check_method(config, method)


def _check_method(config: ConfigDict, method: str) -> None:
    for name, value in config.defense[method].items():
        if name in ("gate", "shrink"):
            continue
        low = _LOWEST.get(name, 0)
        if not low <= value < math.inf:
            raise UserError(f"defense.{method}.{name}: found {value}, expected at least {low}")
    if "gate" in config.defense[method]:
        place = f"{method}.gate"
        # Fast FIP has no kernels left that decay.
        own = () if method == "fast_fip" or not config.defense[method].shrink.budget else ("eigenbasis",)
        _expect_one_of(config, f"{place}.over", ("none", *OVER, *own))
        _expect_one_of(config, f"{place}.fisher", FISHERS)
        _expect(config, f"{place}.temperature", *_POSITIVE)
        _expect(config, f"{place}.power", *_POSITIVE)
    if "shrink" in config.defense[method]:
        place = f"{method}.shrink"
        _expect(config, f"{place}.budget", *_NOT_NEGATIVE)
        _expect(config, f"{place}.power", *_POSITIVE)
        _expect_one_of(config, f"{place}.fisher", FISHERS)
        _expect(config, f"{place}.temperature", *_POSITIVE)


def _expect_one_of(config: ConfigDict, key: str, names: tuple[str, ...]) -> None:
    _expect(config, key, lambda value: value in names, f"one of {', '.join(names)}")


def _expect(config: ConfigDict, key: str, holds: Holds, expected: str) -> None:
    value: Any = config.defense
    for part in key.split("."):
        value = value[part]
    if not holds(value):
        raise UserError(f"defense.{key}: found {value!r}, expected {expected}")
