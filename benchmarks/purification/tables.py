"""The tables of the study: which runs each consists of."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.purification import split
from benchmarks.purification.models import MODELS

Settings = tuple[tuple[str, Any], ...]


class Run(NamedTuple):
    """One purification.

    Attributes:
      model: a key of `models.MODELS`.
      method: of `config.METHODS`, or one with "_noise" at the end for the official code's term in the place of Tr F.
      settings: changes to the config, by flattened key.
      clean: clean images as a multiple of the config's, which is 1 % of the training set.
      seed: see `study.configure`.
    """

    model: str
    method: str
    settings: Settings = ()
    clean: float = 1.0
    seed: int = 0


def settings(**values: Any) -> Settings:
    """Changes to the config; keys with dots written as two underscores, below `defense`."""
    return tuple((f"defense.{key.replace('__', '.')}", value) for key, value in values.items())


# Settings were chosen on these, and are shown on the others as well.
TUNED_ON = tuple(split.DEVELOPMENT)

# A patch and a blended pattern, on a network that is easy to purify and on one that is not.
GRID_ON = ("signs/badnets_11", "signs/blend_12", "gtsrb/badnets", "gtsrb/blend")


def tune() -> Iterator[Run]:
    """Each method over a grid."""
    for method, changed in choices():
        for model in GRID_ON:
            yield Run(model, method, changed)


def choices() -> Iterator[tuple[str, Settings]]:
    """Weight decay and erasing by FT, whose result all methods share, then what each has of its own."""
    for decay in (0.0, 0.01, 0.02, 0.03, 0.05):
        yield "ft", settings(ft__weight_decay=decay, erase_rate=0.0)
        for size in (0.1, 0.16, 0.25):
            yield "ft", settings(ft__weight_decay=decay, erase_size=size)
    for rate, decay in ((0.01, 0.06), (0.05, 0.012)):
        yield "ft", settings(ft__learning_rate=rate, ft__weight_decay=decay)
    for radius in (0.1, 0.3, 1.0):
        yield "ft_sam", settings(ft_sam__radius=radius)
    for limit in (0.03, 0.1, 0.3):
        yield "fip", settings(fip__trace_limit=limit)
    for radius in (0.0, 1.0):
        yield "fip", settings(fip__radius=radius)
    yield "fip", settings(fip__eta_r=1.0)
    for rate, decay in ((0.1, 0.0), (0.05, 0.0), (0.05, 0.01), (0.05, 0.03), (0.02, 0.03)):
        yield "fast_fip", settings(fast_fip__learning_rate=rate, fast_fip__weight_decay=decay)
    yield "fast_fip", settings(fast_fip__whole_head=False)


def main() -> Iterator[Run]:
    """Every method with the defaults, over all networks, with three seeds, one after the other."""
    for seed in range(3):
        for model in MODELS:
            for method in ("ft", "ft_sam", "fip", "fip_noise", "fast_fip"):
                yield Run(model, method, seed=seed)


# Published networks alone: a victim's held-out images are fixed.
CURVED_ON = ("ibau/gtsrb_badnets", "ibau/gtsrb_trojan_sq", "ibau/cifar10_badnets")


def curve() -> Iterator[Run]:
    """ACC and ASR over the number of clean images; FT and FIP first, which a part of the table shall show."""
    for methods in (("ft", "fip"), ("ft_sam",)):
        for model in CURVED_ON:
            for clean in (0.25, 0.5, 1.0, 2.0, 5.0, 10.0):
                for method in methods:
                    yield Run(model, method, clean=clean)


# Each is changed alone; the default is a run of its own.
ABLATED: dict[str, tuple[Any, ...]] = {
    "fip__eta_f": (0.0, 1e-4, 1e-2),
    "fip__trace_limit": (0.03, 0.3, 1.0),
    "fip__eta_r": (1.0, 5.0, 20.0),
    "fip__radius": (0.0, 0.1, 1.0),
    "fip__learning_rate": (0.005, 0.01, 0.05),
    "fip__weight_decay": (0.0, 0.01, 0.02, 0.05),
    "fip__true_fisher": (True,),
    "fip__num_probes": (0, 4),
    "erase_rate": (0.0, 0.5),
    "erase_size": (0.1, 0.25),
    "batch_statistics": (False,),
    "steps": (100, 400),
}
ABLATED_ON = ("gtsrb/blend", "signs/badnets_11")

# FT-SAM and FIP take two gradients a step, FT one; and the ablation's one change that helped both of its networks.
VARIANTS = (("ft", settings(steps=400)), ("fip", settings(erase_rate=0.5)))


def variants() -> Iterator[Run]:
    """FT with as many gradients as the others, and FIP with half of the images erased, over all networks."""
    for seed in range(3):
        for model in MODELS:
            for method, changed in VARIANTS:
                yield Run(model, method, changed, seed=seed)


def ablation() -> Iterator[Run]:
    """FIP with one setting changed at a time."""
    for model in ABLATED_ON:
        yield Run(model, "fip")
        for key, values in ABLATED.items():
            for value in values:
                yield Run(model, "fip", settings(**{key: value}))


TABLES: dict[str, Callable[[], Iterator[Run]]] = {
    "ablation": ablation,
    "curve": curve,
    "main": main,
    "tune": tune,
    "variants": variants,
}
