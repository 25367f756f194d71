"""How fast a backdoor comes back: purified networks are fine-tuned on images of which a few are poisoned.

    python -m benchmarks.purification.retuning --out=benchmarks/purification/results/retuning.csv \
        --ibau=DIR --medic=DIR --others=DIR --gtsrb=DIR --data=DIR --victims=runs/victims

An ASR near zero does not tell a backdoor that is gone from one that is asleep; the second wakes sooner than a network
that was never poisoned learns it. Each network is fine-tuned on the victim's training images, 0.5 % of them poisoned as
its own were, and ASR is measured on the way, over 3000 test images. A row that is in the CSV already is not run again.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from benchmarks.purification import models, rows, study
from benchmarks.purification.tables import Run
from fip_jax import compiled, convolution, parallel, purify, suspect
from fip_jax.data.batches import make_draw, to_device
from fip_jax.defend import begin
from fip_jax.evaluate import make_predict, rates
from fip_jax.material import prepare
from fip_jax.network import make_objective
from fip_jax.objective import Settings
from fip_jax.pages import ask_for_large_pages
from fip_jax.progress import console

POISON_RATE = 0.005
STEPS = (0, 10, 20, 50, 100, 200)
SETTINGS = Settings(learning_rate=0.01, momentum=0.9, num_steps=STEPS[-1])
BATCH_SIZE = 64
IMAGES = 3000  # of each kind that the rates are taken over
NEVER_POISONED = {
    "gtsrb/badnets": "gtsrb/benign",
    "gtsrb/blend": "gtsrb/benign",
}
METHODS = ("benign", "none", "ft", "ft_sam", "fip", "fast_fip")
KEY = ("model", "method", "seed")


class Start(NamedTuple):
    """One curve: a model, what was done to it before, and the seed of that and of the fine-tuning.

    Attributes:
      model: a key of `NEVER_POISONED`.
      method: a purification; "none" for the suspicious network; "benign" for one that was never poisoned.
      seed: of batches and probes.
    """

    model: str
    method: str
    seed: int


def starts() -> Iterator[Start]:
    """All curves."""
    for seed in range(3):
        for model in NEVER_POISONED:
            for method in METHODS:
                yield Start(model, method, seed)


def weights(start: Start, config: ConfigDict, places: models.Places) -> suspect.Suspect:
    """The network that a curve begins with."""
    if start.method == "benign":
        config.victim.checkpoint = models.config_of(NEVER_POISONED[start.model], places).victim.checkpoint
    network = suspect.load(config)
    if start.method in ("benign", "none"):
        return network
    clean = prepare(config, network.num_classes).clean
    state = begin(config, network.network, network.params, network.model_state, clean).run()
    return network._replace(params=state.params, model_state=state.model_state)


def curve(start: Start, places: models.Places) -> dict[str, Any]:
    """A row: ACC, ASR and RA after each of `STEPS`."""
    method = "fip" if start.method in ("benign", "none") else start.method
    config = study.configure(Run(start.model, method, seed=start.seed), places)
    network = weights(start, config, places)
    config.victim.checkpoint = ""  # so that the training images are poisoned
    config.attack.poison_rate = POISON_RATE
    material = prepare(config)
    assert material.training is not None
    predict = make_predict(network.network)
    row: dict[str, Any] = start._asdict()

    def note(taken: int, state: Any, metrics: Any = None) -> None:
        if taken in STEPS:
            trees = state.params, state.model_state
            found = rates(predict, *trees, material.test, material.triggered, IMAGES)
            row.update({f"{name}_{taken}": round(value, 5) for name, value in found._asdict().items()})

    note(0, network)
    trained = network.network.with_convolution(convolution.for_batches(parallel.platform_of(None)))
    objective = make_objective(trained, batch_statistics=True, dropout=False)
    draw = make_draw(BATCH_SIZE, config.dataset.crop_padding, config.dataset.flip)
    key = jax.random.fold_in(jax.random.key(start.seed), 40)
    state = purify.init_state(SETTINGS, network.params, network.model_state, key)
    data = to_device(material.training.images, material.training.labels)
    purify.run(purify.make_step(objective, SETTINGS, draw), state, None, data, STEPS[-1], note)
    return row


def main() -> None:
    """Runs what is left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="CSV file to append to")
    models.add_places(parser)
    arguments = parser.parse_args()
    compiled.set_up()
    places = models.places(arguments)
    finished = rows.done(arguments.out, KEY)
    for start in starts():
        if tuple(map(str, start)) in finished:
            continue
        for name in (start.model, NEVER_POISONED[start.model]):
            models.train(name, places)
        row = curve(start, places)
        rows.append(arguments.out, row)
        asr = ", ".join(f"{row[f'asr_{step}']:.3f}" for step in STEPS)
        console.print(f"{start.model} {start.method} seed {start.seed}: ASR {asr}", markup=False)


if __name__ == "__main__":
    ask_for_large_pages()
    main()
