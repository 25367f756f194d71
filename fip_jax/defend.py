"""The purification of a suspicious network, with nothing but a few clean images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fip_jax import convolution, gate, parallel, purify, shrinking, spectral
from fip_jax.config import defense_settings
from fip_jax.data.batches import Draw, to_device, to_unit
from fip_jax.data.held_out import keep_back
from fip_jax.data.pairs import make_pairs_draw
from fip_jax.data.split import Split
from fip_jax.eigenbasis import KernelGate
from fip_jax.errors import UserError
from fip_jax.held_back import HeldBack
from fip_jax.inversion import Triggers
from fip_jax.network import FunctionNetwork, Network, make_log_probs_fn
from fip_jax.objective import Anchor, Objective, Penalty, Settings, trace_of_fisher
from fip_jax.per_example import PyTree
from fip_jax.smoothness import Smoothness, chunks
from fip_jax.statistics import moved_along
from fip_jax.teaching import Teaching, make_taught_objective


class Start(NamedTuple):
    """All that `purify.run` takes, before the first step, which consumes `state`.

    `restore` leads from any state of the run to one of the network as it came. `held_back` has the clean images that
    are not learnt from, if there are any.
    """

    step_fn: purify.StepFn
    state: purify.State
    anchor: Anchor
    data: PyTree
    num_steps: int
    restore: Callable[[purify.State], purify.State]
    held_back: HeldBack | None = None

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
    platform: str | None = None,
    unlabeled: np.ndarray | None = None,
    triggers: Triggers | None = None,
) -> Start:
    """Makes ready for the method `defense.name`; for the gate and for eta_r this takes a Fisher matrix's diagonal.

    Args:
      config: of which `defense`, `dataset.crop_padding`, `dataset.flip`, `smoothness.chunk_size` and `seed` count.
      network: the network to purify.
      params: its parameters.
      model_state: its BatchNorm statistics.
      clean: the defender's images.
      penalty: what `eta_f` weighs.
      platform: that the step is to be compiled for, "cpu", "cuda" or "tpu"; None for that of the devices used. For
        another one see `parallel.Step.lower`.
      unlabeled: more images, uint8 `[M, H, W, C]`, about which the teacher is asked; they may be anything like them.
      triggers: constructed ones (see `constructed.py`), which are unlearnt in the place of drawn corruptions;
        `pace` and `shrink` of `defense.inversion` say how.

    Raises:
      UserError: Fast FIP of a plain function, which has no layers to factorise; or too few images to hold back some.
    """
    config = config if triggers is None else _for_known(config)
    settings = defense_settings(config)
    platform = platform or parallel.platform_of(settings.axis)
    as_it_came = (params, model_state)
    held_back = None
    if config.defense.hold_back:
        clean, held = keep_back(clean, config.defense.hold_back, config.seed, "defense.hold_back")
        held_back = HeldBack(network, params, model_state, held)
    check_sizes(config, len(clean.labels))
    data: dict[str, PyTree] = to_device(clean.images, clean.labels)
    start, found = _first_move(config, settings, network, as_it_came, data)
    fast = config.defense.name == "fast_fip"
    if fast:
        if isinstance(network, FunctionNetwork):
            raise UserError("method: found fast_fip for a plain function, expected an NNX module or a file")
        head = None
        if config.defense.fast_fip.whole_head:
            head = network.head(params, model_state, clean.images.shape[1:])
        start = spectral.factorise(network, start[0], start[1], head)[1:]
        network, params, model_state = spectral.factorise(network, params, model_state, head)
    objective = _objective(config, settings, network, platform)

    def restore(state: purify.State) -> purify.State:
        if not fast:
            return state
        plain, statistics = spectral.fold(state.params, state.model_state, as_it_came)
        return state._replace(params=plain, model_state=statistics)

    anchor = _anchor(config, settings, network, objective, params, model_state, data, found)
    if unlabeled is not None and len(unlabeled):
        data["pool"] = jnp.concatenate([data["image"], jnp.asarray(unlabeled, jnp.uint8)])
    if triggers is not None:
        data["triggers"] = {"mask": triggers.mask, "pattern": triggers.pattern}
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 20), config.defense.seed)
    return Start(
        purify.make_step(objective, settings, drawing(config), penalty),
        purify.init_state(settings, start[0], start[1], key),
        parallel.replicate(anchor, settings.axis),
        parallel.replicate(data, settings.axis),
        settings.num_steps,
        restore,
        held_back,
    )


def _for_known(config: ConfigDict) -> ConfigDict:
    """The settings where a trigger is known: it alone is unlearnt, and less has to move for that."""
    config = config.copy_and_resolve_references()
    method, options = config.defense[config.defense.name], config.defense.inversion
    method.learning_rate *= options.pace
    if "shrink" in method:
        method.shrink.budget = max(method.shrink.budget, options.shrink)
    for kind in config.defense.corruption.values():
        kind.rate = 0.0
    return config


def _first_move(
    config: ConfigDict,
    settings: Settings,
    network: Network | FunctionNetwork,
    as_it_came: tuple[PyTree, PyTree],
    data: dict[str, jax.Array],
) -> tuple[tuple[PyTree, PyTree], dict[str, KernelGate] | None]:
    """((params, model_state) that the steps start from, the gates that they were shrunk by, if they were)."""
    options = config.defense[config.defense.name].get("shrink")
    if options is None or not options.budget:
        return as_it_came, None
    batch = data | {"image": to_unit(data["image"])}
    chunk_size = config.smoothness.chunk_size
    key = jax.random.fold_in(jax.random.key(config.seed), 23)
    found = shrinking.gates(options, network, *as_it_came, batch, key, chunk_size, settings.axis)
    params = shrinking.shrunk(as_it_came[0], found)
    return (params, moved_along(network, as_it_came, (params, as_it_came[1]), batch, chunk_size)), found


def _objective(
    config: ConfigDict, settings: Settings, network: Network | FunctionNetwork, platform: str
) -> Objective:
    defense = config.defense
    teaching = Teaching(
        defense.label_weight,
        defense.label_smoothing,
        defense.teacher.weight,
        defense.mixed.weight,
        defense.teacher.temperature,
    )
    objective = make_taught_objective(
        network.with_convolution(convolution.for_batches(platform)).with_axis(settings.axis),
        teaching,
        batch_statistics=defense.batch_statistics,
    )
    # Fast FIP has no gradients of convolutions' kernels, which alone are slow under vmap.
    if not settings.num_probes and defense.name != "fast_fip":
        per_example = network.with_convolution(convolution.for_per_example_gradients(platform))
        objective = objective._replace(log_probs_fn=make_log_probs_fn(per_example))
    return objective


def _anchor(
    config: ConfigDict,
    settings: Settings,
    network: Network | FunctionNetwork,
    objective: Objective,
    params: PyTree,
    model_state: PyTree,
    data: PyTree,
    found: dict[str, KernelGate] | None,
) -> Anchor:
    """What the steps are given of the suspicious network; `found` from `_first_move`."""
    anchor = Anchor(params, model_state=model_state)
    if settings.eta_r:
        share = _share_of_trace(config, settings, network, objective, params, model_state, data)
        anchor = anchor._replace(fisher_diagonal=share)
    options = config.defense[config.defense.name].get("gate")
    if settings.gated and options.over == "eigenbasis":
        assert found is not None  # see `defense_check`
        anchor = anchor._replace(gate=shrinking.as_tree(params, found))
    elif settings.gated:
        diagonal = gate.fisher_diagonal(
            network,
            params,
            model_state,
            data | {"image": to_unit(data["image"])},
            jax.random.fold_in(jax.random.key(config.seed), 22),
            kind=options.fisher,
            temperature=options.temperature,
            chunk_size=config.smoothness.chunk_size,
            axis=settings.axis,
        )
        fast = config.defense.name == "fast_fip" and config.defense.fast_fip.decay_values
        decayed = (spectral.decayed if fast else purify.kernels)(params)
        anchor = anchor._replace(gate=gate.gates(params, diagonal, decayed, options.over, options.power))
    return jax.block_until_ready(anchor)


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


def drawing(config: ConfigDict) -> Draw:
    """How a purification draws its batches, see `make_pairs_draw`."""
    defense, dataset = config.defense, config.dataset
    return make_pairs_draw(
        defense.batch_size,
        dataset.crop_padding,
        dataset.flip,
        defense.corruption.to_dict(),
        defense.mixed.to_dict(),
        defense.inversion.rate,
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
