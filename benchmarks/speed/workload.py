"""What is timed: a row of the table on a network, with the settings and the data that both sides share."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fip_jax.config import default_config
from fip_jax.data.split import Split

# Row: (what it is, unit of its seconds).
ROWS = {
    "ft": ("FT step", "step"),
    "ft_sam": ("FT-SAM step", "step"),
    "fip": ("FIP step, estimated trace", "step"),
    "fip_exact": ("FIP step, exact trace", "step"),
    "fast_fip": ("Fast FIP step", "step"),
    "official": ("step with the official code's noise for Tr F", "step"),
    "lambda_max": ("top eigenvalue, 2 iterations of one vector", "run"),
    "evaluation": ("evaluation of 1000 images", "run"),
    "purification": ("whole purification, FIP", "run"),
    "fast_purification": ("whole purification, Fast FIP", "run"),
}
ITERATIONS = 2
EVALUATED = 1000


class Workload(NamedTuple):
    """A row on a network.

    Attributes:
      row: a key of `ROWS`.
      network: `small_vgg` or `preact_resnet18`.
      width: of the network.
      num_clean: clean images; their pixels are noise, on which no time depends.
      num_classes: of the network.
      image_size: H and W.
      times: as many examples in a batch and in its trace as by default.
      mode: `parallel.mode`; of our side alone.
      precision: `precision`, of both sides.
    """

    row: str
    network: str
    width: int
    num_clean: int = 392
    num_classes: int = 43
    image_size: int = 32
    times: int = 1
    mode: str = "none"
    precision: str = "tensorfloat32"

    @property
    def is_step(self) -> bool:
        """Whether it is one step that is timed."""
        return ROWS[self.row][1] == "step"


def configure(work: Workload) -> ConfigDict:
    """The row's method as both sides have it: no teacher, first move or gate; a square of one colour on every image."""
    config = default_config()
    config.defense.teacher.weight = config.defense.mixed.weight = 0.0
    config.defense.label_weight = 1.0
    config.defense.corruption.wave.rate = config.defense.corruption.overlay.rate = 0.0
    config.defense.corruption.patch.update({"rate": 1.0, "smallest": 0.16, "largest": 0.16})
    config.defense.corruption.patch.contents = ("colour",)
    config.defense.fip.update({"radius": 0.3, "eta_f": 1e-3})
    for method in ("fip", "fast_fip"):
        config.defense[method].gate.over = "none"
        config.defense[method].shrink.budget = 0.0
    fast = work.row in ("fast_fip", "fast_purification")
    config.defense.name = "fast_fip" if fast else work.row if work.row in ("ft", "ft_sam") else "fip"
    if work.row == "fip_exact":
        config.defense.fip.num_probes = 0
    config.defense.batch_size *= work.times
    for method in ("fip", "fast_fip"):
        config.defense[method].trace_batch_size *= work.times
    config.parallel.mode = work.mode
    config.precision = work.precision
    return config


def draw_images(work: Workload, count: int | None = None) -> Split:
    """Clean images, uint8, and labels."""
    rng = np.random.default_rng(0)
    count = work.num_clean if count is None else count
    images = rng.integers(0, 256, (count, work.image_size, work.image_size, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, work.num_classes, count).astype(np.int32))


class Task(NamedTuple):
    """What a side does for a row.

    Attributes:
      warm_up: does it once, or a first part of it, so that everything is compiled.
      run: does it `count` times, waits for the result, and says how often it did it: that may be more.
    """

    warm_up: Callable[[], object]
    run: Callable[[int], int]
