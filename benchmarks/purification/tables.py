"""The tables of the study: which runs each consists of."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.purification.models import MODELS, PUBLISHED

Settings = tuple[tuple[str, Any], ...]


class Run(NamedTuple):
    """One purification.

    Attributes:
      model: a key of `models.MODELS`.
      method: of `config.METHODS`, or one with "_noise" at the end for the official code's term in the place of Tr F.
      settings: changes to the config, by flattened key.
      clean: clean images as a multiple of the config's, which is 1 % of the training set.
      seed: see `study.configure`.
      sharpness: whether the top eigenvalue and the trace of the Fisher matrix are measured too, over test images.
    """

    model: str
    method: str
    settings: Settings = ()
    clean: float = 1.0
    seed: int = 0
    sharpness: bool = False


def settings(**values: Any) -> Settings:
    """Changes to the config; keys with dots written as two underscores, below `defense`."""
    return tuple((f"defense.{key.replace('__', '.')}", value) for key, value in values.items())


# Settings are chosen on these, and shown on the others as well.
FIRST = ("ibau/cifar10_badnets", "ibau/cifar10_trojan_wm", "signs/badnets_11", "signs/blend_12")
TUNED_ON = (*FIRST, "signs/badnets_13", "signs/badnets_14", "gtsrb/badnets", "cifar10/badnets")

Choice = tuple[str, Settings]


def tune() -> Iterator[Run]:
    """Each method over a grid, on the networks that settings are chosen on."""
    for choices, networks in ((with_decay(), TUNED_ON), (without_decay(), FIRST)):
        for method, changed in choices:
            for model in networks:
                yield Run(model, method, changed)


def _choice(method: str, rate: float, **changes: Any) -> Choice:
    changes |= {"learning_rate": rate}
    return method, settings(**{f"{method}__{key}": value for key, value in changes.items()})


def without_decay() -> Iterator[Choice]:
    """The first round: learning rates, SAM, and FIP in the paper's form."""
    for rate in (0.05, 0.1):
        yield _choice("ft", rate, weight_decay=0.0)
    for rate, radius in ((0.05, 0.3), (0.05, 1.0), (0.1, 0.3)):
        yield _choice("ft_sam", rate, weight_decay=0.0, radius=radius)
    yield _choice("fip", 0.1, weight_decay=0.0, trace_limit=0.3, eta_r=20.0)


def with_decay() -> Iterator[Choice]:
    """The second round: weight decay, which shrinks what the clean images do not hold up."""
    for rate, decay in ((0.02, 0.05), (0.05, 0.02), (0.02, 0.035), (0.01, 0.1)):
        yield _choice("ft", rate, weight_decay=decay)
    for radius in (0.3, 1.0):
        yield _choice("ft_sam", 0.02, weight_decay=0.05, radius=radius)
    for limit, decay in ((0.1, 0.05), (0.3, 0.05), (0.3, 0.035)):
        yield _choice("fip", 0.02, weight_decay=decay, trace_limit=limit)
    yield _choice("fip", 0.02, weight_decay=0.05, trace_limit=0.1, radius=0.3)
    for rate in (0.1, 0.5):
        yield _choice("fast_fip", rate)


def main() -> Iterator[Run]:
    """Every method with the defaults, over all networks, with three seeds, one after the other."""
    for seed in range(3):
        for model in MODELS:
            for method in ("ft", "ft_sam", "fip", "fip_noise", "fast_fip"):
                yield Run(model, method, seed=seed, sharpness=seed == 0)


def curve() -> Iterator[Run]:
    """ACC and ASR over the number of clean images, on published networks: a victim's held-out images are fixed."""
    for model in PUBLISHED:
        for clean in (0.25, 0.5, 1.0, 2.0, 5.0, 10.0):
            for method in ("ft", "ft_sam", "fip"):
                yield Run(model, method, clean=clean)


# Each is changed alone; the default is a run of its own.
ABLATED: dict[str, tuple[Any, ...]] = {
    "fip__eta_f": (0.0, 1e-4, 1e-2),
    "fip__trace_limit": (0.03, 0.3, 1.0),
    "fip__eta_r": (1.0, 5.0, 20.0),
    "fip__radius": (0.1, 0.3, 1.0),
    "fip__learning_rate": (0.005, 0.01, 0.05),
    "fip__weight_decay": (0.0, 0.02, 0.1),
    "fip__true_fisher": (True,),
    "fip__num_probes": (0, 4),
    "batch_statistics": (False,),
    "steps": (100, 400),
}
ABLATED_ON = ("ibau/cifar10_badnets", "gtsrb/blend", "cifar10/badnets", "signs/badnets_11")


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
}
