"""What the names of tensors tell of a state dict: wrappers, pruning, and a first layer that normalises."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fip_jax.interop.state_dict import COUNTERS

_MAX_WRAPPERS = 4
# Names of the two tensors of a layer that normalises images.
_MEANS = ("mean", "new_mean", "_mean", "means", "mean_tensor", "img_mean", "image_mean", "mu")
_STDS = ("std", "new_std", "_std", "stds", "std_tensor", "img_std", "image_std", "sigma")


class Parts(NamedTuple):
    """What a state dict consists of.

    Attributes:
      keys: each tensor's name, without what wrappers put before it -> its name in the file.
      masks: name of each pruned tensor -> its mask's name in the file.
      mean: of a layer that normalises images, one number or one a channel; empty without such a layer.
      std: likewise.
    """

    keys: dict[str, str]
    masks: dict[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def parts_of(arrays: Mapping[str, np.ndarray]) -> Parts:
    """Sorts the tensors of a state dict."""
    mean_key, std_key = _normaliser(arrays)
    kept = {name: name for name in arrays if name not in (mean_key, std_key)}
    pruned = {
        name.removesuffix("_orig"): name
        for name in kept
        if name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in kept
    }
    masks = {name: f"{name}_mask" for name in pruned}
    hidden = {*pruned.values(), *masks.values()}
    keys = _plain_names({name: key for name, key in kept.items() if key not in hidden} | pruned)
    return Parts(
        keys,
        {name: masks[_full(key)] for name, key in keys.items() if _full(key) in masks},
        *(tuple(float(x) for x in arrays[key].ravel()) if key else () for key in (mean_key, std_key)),
    )


def _full(key: str) -> str:
    return key.removesuffix("_orig")


def _normaliser(arrays: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """The names of mean and std of a layer that normalises, or twice ""."""
    for mean, std in zip(_MEANS, _STDS, strict=True):
        for key, array in arrays.items():
            prefix = key.removesuffix(mean)
            other = arrays.get(prefix + std)
            whole = key.endswith(mean) and (not prefix or prefix.endswith("."))
            if whole and other is not None and _normalises(array, other):
                return key, prefix + std
    return "", ""


def _normalises(mean: np.ndarray, std: np.ndarray) -> bool:
    if mean.size not in (1, 3) or std.size != mean.size or mean.dtype.kind not in "fV":
        return False
    numbers = [float(x) for x in (*mean.ravel(), *std.ravel())]
    return all(math.isfinite(x) for x in numbers) and min(numbers[mean.size :]) > 0


def _plain_names(names: dict[str, str]) -> dict[str, str]:
    """Each name without the parts that all begin with, such as `module.` of DataParallel or `model.` of Lightning."""
    counters = {name: key for name, key in names.items() if name in COUNTERS}
    names = {name: key for name, key in names.items() if name not in COUNTERS}
    for _ in range(_MAX_WRAPPERS if names else 0):
        first, dot, _ = next(iter(names)).partition(".")
        if not dot or not all(name.startswith(first + dot) for name in names):
            break
        names = {name.removeprefix(first + dot): key for name, key in names.items()}
    return names | counters
