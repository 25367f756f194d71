"""The tables of the study: which runs each consists of."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.purification import split
from benchmarks.purification.models import MODELS, PUBLISHED, kept

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
    """The strength of each method, with the same teacher and corruptions, then what each has of its own."""
    for decay in (0.0, 0.01, 0.02, 0.03, 0.05):
        for method in ("ft", "ft_sam"):
            yield method, settings(**{f"{method}__weight_decay": decay})
    for decay in (0.03, 0.05, 0.1, 0.2, 0.3):
        yield "fip", settings(fip__weight_decay=decay)
    for radius in (0.1, 0.3, 1.0):
        yield "ft_sam", settings(ft_sam__radius=radius)
    for radius in (0.0, 0.3):
        yield "fip", settings(fip__radius=radius)
    yield "fip", settings(fip__eta_r=1.0)
    for rate, decay in ((0.1, 0.0), (0.05, 0.0), (0.05, 0.01), (0.05, 0.03), (0.02, 0.03)):
        for whole in (True, False):
            yield (
                "fast_fip",
                settings(
                    fast_fip__learning_rate=rate, fast_fip__weight_decay=decay, fast_fip__whole_head=whole
                ),
            )


def main() -> Iterator[Run]:
    """Every method with the defaults, over all networks, with three seeds, one after the other."""
    for seed in range(3):
        for model in MODELS:
            for method in ("ft", "ft_sam", "fip", "fip_noise", "fast_fip"):
                yield Run(model, method, seed=seed)


def defaults() -> Iterator[Run]:
    """Every network that is at hand with the defaults and one seed, FIP first; benign ones, too."""
    known = (*split.DEVELOPMENT, *split.VALIDATION)
    at_hand = [name for name in known if name in PUBLISHED or kept(name).exists()]
    for method in ("fip", "ft_sam", "ft", "fast_fip"):
        for model in sorted(at_hand, key=lambda name: known.index(name) % len(split.VALIDATION)):
            yield Run(model, method)


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
    "fip__radius": (0.1, 0.3, 1.0),
    "fip__learning_rate": (0.003, 0.01, 0.02),
    "fip__shrink__budget": (0.005, 0.01, 0.02),
    "fip__weight_decay": (0.0, 0.03, 0.3),
    "fip__true_fisher": (True,),
    "fip__num_probes": (0, 4),
    "fip__gate__over": ("none", "filter"),
    "fip__gate__fisher": ("drawn", "empirical", "logits"),
    "teacher__weight": (0.0, 0.5, 2.0),
    "teacher__temperature": (1.0, 4.0),
    "mixed__weight": (0.0, 0.5, 2.0),
    "mixed__corrupted": (False,),
    "label_weight": (0.3, 1.0),
    "corruption__patch__rate": (0.0,),
    "corruption__wave__rate": (0.0,),
    "corruption__overlay__rate": (0.0,),
    "batch_statistics": (False,),
    "steps": (40, 150),
}
ABLATED_ON = ("gtsrb/blend", "signs/badnets_11")

# What the gate is worth beyond the teacher, and the teacher beyond the corruptions.
NO_TEACHER: dict[str, Any] = {"label_weight": 1.0, "teacher__weight": 0.0, "mixed__weight": 0.0}
NO_CORRUPTIONS: dict[str, Any] = {f"corruption__{kind}__rate": 0.0 for kind in ("patch", "wave", "overlay")}
VARIANTS = (
    ("fip", settings(fip__gate__over="none")),
    ("fip", settings(**NO_TEACHER)),
    ("fip", settings(**NO_CORRUPTIONS)),
    ("ft", settings(**NO_TEACHER)),
    ("ft", settings(**NO_TEACHER, **NO_CORRUPTIONS)),
)


def variants() -> Iterator[Run]:
    """FIP without its gate, FIP and FT without the teacher and the corruptions, over all networks."""
    for seed in range(3):
        for model in MODELS:
            for method, changed in VARIANTS:
                yield Run(model, method, changed, seed=seed)


# Of each data set and kind of network some, the ones first that are hardest to serve together.
SHRUNK_ON = (
    "medic/cleanlabel",
    "gtsrb/badnets",
    "ibau/cifar10_badnets",
    "signs/badnets_11",
    "medic/badnet",
    "gtsrb/sig",
    "cifar10/badnets_resnet20",
    "gtsrb/benign",
    "gtsrb/blend",
    "ibau/cifar10_trojan_wm",
)


def shrinking() -> Iterator[Run]:
    """FIP without constructed triggers over the budget of its first move."""
    for budget in (0.0, 0.01, 0.02, 0.04):
        for model in SHRUNK_ON:
            yield Run(model, "fip", settings(fip__shrink__budget=budget, inversion__rate=0.0))


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
    "defaults": defaults,
    "main": main,
    "shrinking": shrinking,
    "tune": tune,
    "variants": variants,
}
