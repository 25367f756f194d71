"""The figure of constructed triggers: a clean image with each of the most striking ones, beside the sizes of all."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fip_jax.inversion import Triggers, stamp

SHOWN = 6  # classes


def draw_triggers(first: Triggers, classes: list[dict[str, Any]], image: np.ndarray) -> Figure:
    """A row of pictures and a bar a class.

    Args:
      first: a trigger of every class.
      classes: as of `constructed.described`.
      image: uint8 `[H, W, C]`, a clean one.
    """
    order = _smallest(classes)
    figure = Figure(figsize=(1.75 * max(len(order), 3), 4.6), layout="constrained")
    grid = figure.add_gridspec(2, len(order), height_ratios=(1.2, 1))
    for column, row in enumerate(order):
        axis = figure.add_subplot(grid[0, column])
        k = row["class"]
        stamped = np.asarray(stamp(image / np.float32(255), first.mask[k], first.pattern[k]))
        axis.imshow(np.clip(stamped, 0, 1).squeeze(), interpolation="nearest", cmap="gray")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{_short(row['name'])}\n{row['size']:.1f} pixels", fontsize=8)
        for spine in axis.spines.values():
            spine.set(color=_colour(row), linewidth=2)
    bars = figure.add_subplot(grid[1, :])
    bars.bar(
        [row["class"] for row in classes], [row["size"] for row in classes], color=list(map(_colour, classes))
    )
    bars.set(xlabel="class", ylabel="mask, pixels")
    bars.grid(axis="y", alpha=0.3)
    figure.suptitle(
        "Constructed triggers: the smallest masks that turn clean images into a class", fontsize=11
    )
    return figure


def describe_triggers(classes: list[dict[str, Any]]) -> str:
    """The same in words."""
    listed = ", ".join(
        f"“{row['name']}” {row['size']:.1f} pixels{' (stands out)' if row['stands_out'] else ''}"
        for row in _smallest(classes)
    )
    median = float(np.median([row["size"] for row in classes]))
    return f"Triggers that were constructed from clean images, smallest first: {listed}; the median class {median:.1f}."


def _smallest(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(classes, key=lambda row: (not row["stands_out"], row["size"]))[:SHOWN]


def _colour(row: dict[str, Any]) -> str:
    return "#c0392b" if row["stands_out"] else "#7f8c8d"


def _short(name: str) -> str:
    return (name if len(name) <= 18 else name[:17] + "…").replace("$", r"\$")
