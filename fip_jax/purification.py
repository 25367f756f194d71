"""The purification of a run: its steps, checkpoints and metrics, and the purified network on the disk."""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fip_jax import checkpoint, phase, purify
from fip_jax.data.split import Split
from fip_jax.defend import begin
from fip_jax.export import as_exported, export
from fip_jax.held_back import Held
from fip_jax.inversion import Triggers
from fip_jax.progress import console
from fip_jax.suspect import Suspect
from fip_jax.timing import Lap
from fip_jax.workdir import Workdir


class Purified(NamedTuple):
    """The purified network, the steps that were skipped as not finite, and what it took in seconds.

    `seconds` is wall-clock without compiling and without the measurements for the figures. `held_back` is what the
    images held back said before and after; None without any.
    """

    suspect: Suspect
    num_skipped: int
    seconds: float
    held_back: tuple[Held, Held] | None = None


def purify_suspect(
    config: ConfigDict,
    suspect: Suspect,
    clean: Split,
    workdir: Workdir,
    measure: phase.Measure,
    unlabeled: np.ndarray | None = None,
    triggers: Triggers | None = None,
) -> Purified:
    """Runs the method `defense.name` and writes the result to `purified/`, and to files for other programs.

    Args:
      config: the run's.
      suspect: the network to purify.
      clean: the defender's images.
      workdir: for checkpoints, metrics and the purified model.
      measure: rates to log on the way; nothing depends on them.
      unlabeled: as of `begin`.
      triggers: as there.
    """
    lap = Lap()
    console.print(
        f"measure what the {len(clean.labels)} clean images hold up, and begin {config.defense.name}"
    )
    start = begin(
        config,
        suspect.network,
        suspect.params,
        suspect.model_state,
        clean,
        unlabeled=unlabeled,
        triggers=triggers,
    )
    begun = lap.read()

    def measured(state: purify.State) -> phase.Row:
        plain = start.restore(state)
        held = start.held_back and start.held_back(plain.params, plain.model_state)._asdict()
        return measure(plain) | (held or {})

    outcome = phase.run(
        phase.Phase(
            name="purify",
            title=f"purify with {config.defense.name}",
            num_steps=start.num_steps,
            measure_every=config.report.eval_every,
            measure=measured,
            checkpoint_seconds=config.report.checkpoint_seconds,
        ),
        workdir,
        start.step_fn,
        start.state,
        start.anchor,
        start.data,
    )
    state = start.restore(outcome.state)
    purified = as_exported(suspect._replace(params=state.params, model_state=state.model_state))
    folder = workdir.path / "purified"
    workdir.check_held()
    checkpoint.drop_damaged(folder)
    if not folder.exists():
        checkpoint.save_model(folder, purified.params, purified.model_state, purified.description)
    export(workdir.path, purified)
    seconds = outcome.seconds - outcome.compile_seconds + begun["total"] - begun["compile"]
    held = None
    if start.held_back is not None:
        held = (
            start.held_back(suspect.params, suspect.model_state),
            start.held_back(purified.params, purified.model_state),
        )
    return Purified(purified, int(state.num_skipped), seconds, held)
