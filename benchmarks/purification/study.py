"""A table of the study: purifies network after network and appends a row a run to a CSV.

    python -m benchmarks.purification.study --table=main --out=benchmarks/purification/results/main.csv \
        --ibau=DIR --medic=DIR --others=DIR --gtsrb=DIR --data=DIR --victims=runs/victims

A row that is in the CSV already is not run again, so that a killed study goes on with the same command. Victims
that are missing are trained by `train_victims`. ACC, ASR and RA are over all test images; seconds are those of the
purification without compiling, and mean something only where nothing else ran beside. Two processes share a table
with --share=0/2 and --share=1/2, each with a CSV of its own.
"""

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks.purification import models, official, rows
from benchmarks.purification.tables import TABLES, Run
from fip_jax import compiled, constructed, suspect
from fip_jax.config import check_config
from fip_jax.defend import begin
from fip_jax.errors import UserError
from fip_jax.evaluate import effectiveness, make_predict, rates
from fip_jax.material import prepare
from fip_jax.objective import trace_of_fisher
from fip_jax.pages import ask_for_large_pages
from fip_jax.progress import console
from fip_jax.timing import Lap

KEY = ("model", "method", "settings", "clean", "seed")


def configure(run: Run, places: models.Places) -> ConfigDict:
    """The config of a run, as the command line would make it.

    Seeds change the clean images of a published network; a victim's are fixed by its training, so that only batches and
    probes change.
    """
    config = models.config_of(run.model, places)
    config.defense.name = run.method.removesuffix("_noise")
    config.update_from_flattened_dict(dict(run.settings))
    config.clean.fraction *= run.clean
    if run.model in models.PUBLISHED:
        config.seed = run.seed
    else:
        config.defense.seed = run.seed
    check_config(config)
    return config


def measure(run: Run, places: models.Places) -> dict[str, Any]:
    """One purification, judged before and after."""
    config = configure(run, places)
    victim, material, predict, before = at_hand(run.model, run.clean, config.seed, places)
    lap = Lap()
    penalty = official.noise if run.method.endswith("_noise") else trace_of_fisher
    network = victim.network, victim.params, victim.model_state
    found = constructed.construct(constructed.Subject(config, *network, material.clean))
    start = begin(config, *network, material.clean, penalty, triggers=found and found[1])
    state = jax.block_until_ready(start.run())
    spent = lap.read()
    after = rates(predict, state.params, state.model_state, material.test, material.triggered)
    return {
        **key_of(run),
        "clean_images": len(material.clean.labels),
        **{f"{name}_before": rounded(value) for name, value in before._asdict().items()},
        **{f"{name}_after": rounded(value) for name, value in after._asdict().items()},
        "der": round(effectiveness(before, after) or 0.0, 5),
        "found": [] if found is None or found[1] is None else sorted({int(k) for k in found[1].target}),
        "skipped": int(state.num_skipped),
        "seconds": round(spent["total"] - spent["compile"], 1),
    }


@functools.lru_cache(maxsize=4)
def at_hand(model: str, clean: float, seed: int, places: models.Places) -> Any:
    """What the methods of a model share: (suspect, material, predict, rates before)."""
    config = configure(Run(model, "ft", clean=clean, seed=seed), places)
    victim = suspect.load(config)
    material = prepare(config, victim.num_classes)
    predict = make_predict(victim.network)
    before = rates(predict, victim.params, victim.model_state, material.test, material.triggered)
    return victim, material, predict, before


def rounded(rate: float | None) -> float | None:
    """A rate as the table has it; None without a trigger."""
    return None if rate is None else round(rate, 5)


def key_of(run: Run) -> dict[str, str]:
    """The columns that tell a run from any other, as text."""
    values = (run.model, run.method, json.dumps(dict(run.settings), sort_keys=True), run.clean, run.seed)
    return {name: str(value) for name, value in zip(KEY, values, strict=True)}


def pending(runs: Iterator[Run], path: Path) -> list[Run]:
    """The runs of a table that have no row yet."""
    finished = rows.done(path, KEY)
    return [run for run in runs if tuple(key_of(run).values()) not in finished]


def main() -> None:
    """Runs what is left of a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--table", choices=sorted(TABLES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="CSV file to append to")
    parser.add_argument("--share", default="0/1", help="I/N: of every N runs the one with index I")
    known = sorted({*models.PUBLISHED, *models.MODELS, *models.BENIGN})
    parser.add_argument("--models", nargs="+", choices=known, default=known, help="no others")
    models.add_places(parser)
    arguments = parser.parse_args()
    compiled.set_up()
    places = models.places(arguments)
    share, shares = map(int, arguments.share.split("/"))
    table = (run for run in TABLES[arguments.table]() if run.model in arguments.models)
    runs = pending(itertools.islice(table, share, None, shares), arguments.out)
    for count, run in enumerate(runs, 1):
        try:
            row = measure(run, places)
        except UserError as error:
            console.print(f"{run.model} {run.method}: {error}", markup=False)
            continue
        rows.append(arguments.out, row)
        said = ", ".join(
            f"{name.upper()} {row[f'{name}_before']:.3f} -> {row[f'{name}_after']:.3f}"
            for name in ("acc", "asr", "ra")
            if row[f"{name}_after"] is not None
        )
        console.print(
            f"{count}/{len(runs)} {run.model} {run.method} {dict(run.settings)} clean {run.clean} seed {run.seed}: "
            f"{said}, {row['seconds']} s",
            markup=False,
        )


if __name__ == "__main__":
    ask_for_large_pages()
    main()
