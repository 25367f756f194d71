"""The purification of a suspicious network, with nothing but a few clean images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fip_jax import checkpoint, convolution, parallel, phase, purify, spectral
from fip_jax.config import defense_settings
from fip_jax.data.batches import make_draw, to_device, to_unit
from fip_jax.data.split import Split
from fip_jax.errors import UserError
from fip_jax.export import as_exported, export
from fip_jax.network import FunctionNetwork, Network, make_log_probs_fn, make_objective
from fip_jax.objective import Anchor, Objective, Penalty, Settings, trace_of_fisher
from fip_jax.per_example import PyTree
from fip_jax.smoothness import Smoothness, chunks
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


class Start(NamedTuple):
    """All that `purify.run` takes, before the first step, which consumes `state`.

    `restore` leads from any state of the run to one of the network as it came.
    """

    step_fn: purify.StepFn
    state: purify.State
    anchor: Anchor | None
    data: PyTree
    num_steps: int
    restore: Callable[[purify.State], purify.State]

    def run(self, on_steps: purify.OnSteps | None = None, at_once: int = 1) -> purify.State:
        """All steps (see `purify.run`), to the last state, restored."""
        last = purify.run(self.step_fn, self.state, self.anchor, self.data, self.num_steps, on_steps, at_once)
        return self.restore(last)


def begin(
    config: ConfigDict,
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    clean: Split,
    penalty: Penalty = trace_of_fisher,
) -> Start:
    """Makes ready for the method `defense.name`; for the eta_r term this takes the Fisher matrix's diagonal.

    Args:
      config: of which `defense`, `dataset.crop_padding`, `dataset.flip`, `smoothness.chunk_size` and `seed` count.
      network: the network to purify.
      params: its parameters.
      model_state: its BatchNorm statistics.
      clean: the defender's images.
      penalty: what `eta_f` weighs.

    Raises:
      UserError: Fast FIP of a plain function, which has no layers to factorise.
    """
    settings = defense_settings(config)
    as_it_came = (params, model_state)
    fast = config.defense.name == "fast_fip"
    if fast:
        if isinstance(network, FunctionNetwork):
            raise UserError("method: found fast_fip for a plain function, expected an NNX module or a file")
        head = None
        if config.defense.fast_fip.whole_head:
            head = network.head(params, model_state, clean.images.shape[1:])
        network, params, model_state = spectral.factorise(network, params, model_state, head)
    check_sizes(config, len(clean.labels))
    data = to_device(clean.images, clean.labels)
    objective = make_objective(
        network.with_convolution(convolution.for_batches()).with_axis(settings.axis),
        batch_statistics=config.defense.batch_statistics,
        dropout=False,
    )
    # Fast FIP has no gradients of convolutions' kernels, which alone are slow under vmap.
    if not settings.num_probes and not fast:
        per_example = network.with_convolution(convolution.for_per_example_gradients())
        objective = objective._replace(log_probs_fn=make_log_probs_fn(per_example))

    def restore(state: purify.State) -> purify.State:
        if not fast:
            return state
        plain, statistics = spectral.fold(state.params, state.model_state, as_it_came)
        return state._replace(params=plain, model_state=statistics)

    anchor = None
    if settings.eta_r:
        anchor = Anchor(
            params, _share_of_trace(config, settings, network, objective, params, model_state, data)
        )
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 20), config.defense.seed)
    return Start(
        purify.make_step(objective, settings, drawing(config), penalty),
        purify.init_state(settings, params, model_state, key),
        parallel.replicate(anchor, settings.axis),
        parallel.replicate(data, settings.axis),
        settings.num_steps,
        restore,
    )


def check_sizes(config: ConfigDict, num_clean: int) -> None:
    """Refuses batches that cannot be spread over the devices.

    Raises:
      UserError: names the key.
    """
    settings = defense_settings(config)
    parallel.check_divides(
        settings.axis,
        defense__batch_size=min(config.defense.batch_size, num_clean),
        **{
            f"defense__{config.defense.name}__trace_batch_size": settings.trace_batch_size
            if settings.eta_f
            else None
        },
    )


def drawing(config: ConfigDict) -> purify.DrawFn:
    """How a purification draws its batches, see `make_draw`."""
    defense, dataset = config.defense, config.dataset
    return make_draw(
        defense.batch_size, dataset.crop_padding, dataset.flip, defense.erase_rate, defense.erase_size
    )


def _share_of_trace(
    config: ConfigDict,
    settings: Settings,
    network: Network | FunctionNetwork,
    objective: Objective,
    params: PyTree,
    model_state: PyTree,
    data: PyTree,
) -> PyTree:
    """The Fisher matrix's diagonal as shares of its trace, so that one eta_r serves networks of any sharpness."""
    chunk_size = config.smoothness.chunk_size
    batch = data | {"image": to_unit(data["image"])}
    if settings.true_fisher:
        key = jax.random.fold_in(jax.random.key(config.seed), 21)
        drawn = [
            objective.with_drawn_labels(params, model_state, chunk, jax.random.fold_in(key, index))["label"]
            for index, chunk in enumerate(chunks(batch, chunk_size))
        ]
        batch = batch | {"label": jnp.concatenate(drawn)}
    diagonal = Smoothness(network, batch, chunk_size, settings.axis).diagonal(params, model_state)
    trace = sum(leaf.sum() for leaf in jax.tree.leaves(diagonal))
    return jax.block_until_ready(
        jax.tree.map(lambda leaf: leaf / jnp.where(trace > 0, trace, 1).astype(leaf.dtype), diagonal)
    )


def purify_suspect(
    config: ConfigDict, suspect: Suspect, clean: Split, workdir: Workdir, measure: phase.Measure
) -> Purified:
    """Runs the method `defense.name` and writes the result to `purified/`, and to files for other programs.

    Args:
      config: the run's.
      suspect: the network to purify.
      clean: the defender's images.
      workdir: for checkpoints, metrics and the purified model.
      measure: rates to log on the way; nothing depends on them.
    """
    lap = Lap()
    start = begin(config, suspect.network, suspect.params, suspect.model_state, clean)
    begun = lap.read()
    outcome = phase.run(
        phase.Phase(
            name="purify",
            title=f"purify with {config.defense.name}",
            num_steps=start.num_steps,
            measure_every=config.report.eval_every,
            measure=lambda state: measure(start.restore(state)),
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
    return Purified(purified, int(state.num_skipped), seconds)
