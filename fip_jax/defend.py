"""The purification of a suspicious network, with nothing but a few clean images."""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from fip_jax import checkpoint, phase, purify
from fip_jax.config import defense_settings
from fip_jax.data.batches import make_draw, to_device
from fip_jax.data.source import Split
from fip_jax.network import make_objective
from fip_jax.smoothness import Smoothness
from fip_jax.suspect import Suspect
from fip_jax.timing import Lap
from fip_jax.workdir import Workdir


class Purified(NamedTuple):
    """The purified network, the steps that were skipped as not finite, and what it took in seconds.

    `seconds` is wall-clock without compiling and without the measurements for the figures.
    """

    suspect: Suspect
    num_skipped: int
    seconds: float


def purify_suspect(
    config: ConfigDict,
    suspect: Suspect,
    clean: Split,
    workdir: Workdir,
    smoothness: Smoothness,
    measure: phase.Measure,
) -> Purified:
    """Runs the method `defense.name` and writes the result to `purified/`.

    Args:
      config: the run's.
      suspect: the network to purify.
      clean: the defender's images.
      workdir: for checkpoints, metrics and the purified model.
      smoothness: Fisher matrix over the clean images, for the anchor of the eta_r term.
      measure: rates to log on the way; nothing depends on them.
    """
    settings = defense_settings(config)
    lap = Lap()
    anchor = None
    if settings.eta_r:
        diagonal = jax.block_until_ready(smoothness.diagonal(suspect.params, suspect.model_state))
        anchor = purify.Anchor(suspect.params, diagonal)
    anchored = lap.read()
    objective = make_objective(
        suspect.network, batch_statistics=config.defense.batch_statistics, dropout=False
    )
    draw = make_draw(config.defense.batch_size, config.dataset.crop_padding, config.dataset.flip)
    key = jax.random.fold_in(jax.random.key(config.seed), 20)
    outcome = phase.run(
        phase.Phase(
            name="purify",
            title=f"purify with {config.defense.name}",
            num_steps=settings.num_steps,
            measure_every=config.report.eval_every,
            measure=measure,
            checkpoint_seconds=config.report.checkpoint_seconds,
        ),
        workdir,
        purify.make_step(objective, settings, draw),
        purify.init_state(settings, suspect.params, suspect.model_state, key),
        anchor,
        to_device(clean.images, clean.labels),
    )
    state = outcome.state
    folder = workdir.path / "purified"
    if not folder.exists():
        checkpoint.save_model(folder, state.params, state.model_state, suspect.description)
    seconds = outcome.seconds - outcome.compile_seconds + anchored["total"] - anchored["compile"]
    purified = suspect._replace(params=state.params, model_state=state.model_state)
    return Purified(purified, int(state.num_skipped), seconds)
