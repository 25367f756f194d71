r"""What every network of the split does before anything is purified, as a table in Markdown.

    python -m benchmarks.purification.before --ibau=DIR --medic=DIR --others=DIR --gtsrb=DIR \
        --data=DIR --victims=runs/victims

ACC, ASR and RA are over all test images, in per cent. A network that is not there is left out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.purification import models, split
from fip_jax import compiled, suspect
from fip_jax.description import in_words
from fip_jax.evaluate import Rates, make_predict, rates
from fip_jax.material import prepare

HEADER = ("network", "side", "kind", "architecture", "clean images", "ACC / ASR / RA")


def measure(name: str, places: models.Places) -> tuple[str, int, Rates]:
    """(its architecture in words, number of clean images, rates over all test images)."""
    config = models.config_of(name, places)
    network = suspect.load(config)
    material = prepare(config, network.num_classes)
    predict = make_predict(network.network)
    found = rates(predict, network.params, network.model_state, material.test, material.triggered)
    return in_words(network.description), len(material.clean.labels), found


def line(name: str, architecture: str, num_clean: int, found: Rates) -> str:
    """A row of the table; a benign network has ACC alone."""
    side = "development" if name in split.DEVELOPMENT else "validation"
    kind = (split.DEVELOPMENT | split.VALIDATION)[name]
    shown = " / ".join(f"{100 * value:.1f}" for value in found if value is not None)
    return f"| `{name}` | {side} | {kind} | {architecture} | {num_clean} | {shown} |"


def table(names: list[str], places: models.Places) -> Iterator[str]:
    """The lines of the table."""
    yield "| " + " | ".join(HEADER) + " |"
    yield "|" + "---|" * len(HEADER)
    for name in names:
        if Path(models.config_of(name, places).victim.checkpoint).exists():
            yield line(name, *measure(name, places))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    known = [*split.DEVELOPMENT, *split.VALIDATION]
    parser.add_argument("--models", nargs="+", choices=known, default=known, help="no others")
    models.add_places(parser)
    arguments = parser.parse_args()
    compiled.set_up()
    for text in table(arguments.models, models.places(arguments)):
        print(text, flush=True)


if __name__ == "__main__":
    main()
