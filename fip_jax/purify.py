r"""The one step that trains, fine-tunes and purifies; the methods are its settings.

.. math:: L(\theta) = \mathrm{CE}(\theta) + \eta_F \mathrm{Tr} F(\theta)
          + \frac{\eta_r}{2} \sum_i \bar F_{ii} (\theta_i - \bar\theta_i)^2

with the anchor :math:`\bar\theta` (the suspicious network) and the diagonal :math:`\bar F` of its Fisher
matrix. All terms zero: fine-tuning (FT). A radius: FT-SAM. The Fisher terms: FIP.

Where SAM and `trace_limit` are in use, the step follows no gradient of L itself: it takes the gradients of CE and
trace where SAM looks, and shortens the latter to a multiple of the former.

Source: Karim et al. (2024), ACM CCS, https://arxiv.org/abs/2409.00863.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fip_jax import fisher, sam
from fip_jax.per_example import PyTree


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes one method of the step.

    Attributes:
      learning_rate: peak learning rate of SGD.
      momentum: of SGD (heavy ball), in [0, 1).
      weight_decay: L2 coefficient added to the gradient.
      num_steps: length of the run; the schedule ends there.
      warmup: fraction of the steps over which the learning rate rises linearly from zero.
      eta_f: weight of the trace of the Fisher matrix.
      trace_limit: largest norm of the trace term's gradient, as a multiple of the norm of the loss's.
      eta_r: weight of the pull towards the anchor.
      radius: SAM radius; 0 switches SAM off.
      adaptive: adaptive SAM.
      num_probes: probes of the trace estimate in each step; 0 for the exact trace.
      trace_batch_size: examples of each batch that the trace is estimated on; None for all.
    """

    learning_rate: float
    num_steps: int
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup: float = 0.0
    eta_f: float = 0.0
    trace_limit: float = math.inf
    eta_r: float = 0.0
    radius: float = 0.0
    adaptive: bool = False
    num_probes: int = 1
    trace_batch_size: int | None = None


class Objective(NamedTuple):
    """The network as the step sees it.

    Attributes:
      loss_fn: `(params, model_state, batch, key) -> (scalar, model_state)`, the mean loss of a batch.
      log_prob_fn: `(params, model_state, example) -> scalar`, the log-likelihood of one example's label, with
        the running statistics of `model_state`.
    """

    loss_fn: Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]
    log_prob_fn: Callable[[PyTree, PyTree, PyTree], jax.Array]


class Anchor(NamedTuple):
    """The suspicious network: its parameters and the diagonal of its Fisher matrix, pytrees alike."""

    params: PyTree
    fisher_diagonal: PyTree


class State(NamedTuple):
    """All that changes from step to step, and all that a checkpoint has to hold.

    Attributes:
      params: the trainable pytree.
      model_state: whatever else the network carries, such as BatchNorm statistics.
      opt_state: of the optimiser.
      key: PRNG key of the whole run; step k derives its own from it.
      step: scalar int32, steps taken, whether applied or not.
      num_skipped: scalar int32, steps that were not finite and so left everything as it was.
    """

    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    key: jax.Array
    step: jax.Array
    num_skipped: jax.Array


class Metrics(NamedTuple):
    """Scalars of one step, before its update.

    Attributes:
      loss: mean over the batch.
      trace: estimate at the SAM point; 0 without the trace term.
      limited: whether `trace_limit` shortened the trace term's gradient, bool.
      gradient_norm: of the whole gradient.
      learning_rate: of this step.
      applied: whether the step was finite and so taken, bool.
    """

    loss: jax.Array
    trace: jax.Array
    limited: jax.Array
    gradient_norm: jax.Array
    learning_rate: jax.Array
    applied: jax.Array


DrawFn = Callable[[jax.Array, jax.Array, PyTree], PyTree]
StepFn = Callable[[State, Anchor | None, PyTree], tuple[State, Metrics]]


def schedule(settings: Settings) -> optax.Schedule:
    """Linear warm-up to the peak, then a half cosine to zero at `num_steps`."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if settings.warmup else settings.learning_rate,
        settings.learning_rate,
        round(settings.warmup * settings.num_steps),
        settings.num_steps,
    )
    # Optax compares the count with a float, which strict dtype promotion does not allow of an integer.
    return lambda count: rate(jnp.asarray(count, float))


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """SGD with heavy-ball momentum on the gradient plus weight decay."""
    sgd = optax.sgd(schedule(settings), settings.momentum or None)
    return (
        optax.chain(optax.add_decayed_weights(settings.weight_decay), sgd) if settings.weight_decay else sgd
    )


def init_state(settings: Settings, params: PyTree, model_state: PyTree, key: jax.Array) -> State:
    """The state before the first step. Copies, so that a donated state never takes the caller's arrays."""
    params, model_state, key = jax.tree.map(
        lambda leaf: jnp.array(leaf, copy=True), (params, model_state, key)
    )
    zero = jnp.zeros((), jnp.int32)
    return State(params, model_state, optimizer(settings).init(params), key, zero, jnp.copy(zero))


def pull_to_anchor(params: PyTree, anchor: Anchor, strength: jax.Array) -> PyTree:
    r"""Proximal step of the :math:`\eta_r` term: stable for any strength, where a gradient step is not.

    Minimises :math:`\frac{1}{2 s} \lVert \theta - z \rVert^2 + \frac{\eta_r}{2} \sum_i \bar F_{ii}
    (\theta_i - \bar\theta_i)^2` over :math:`\theta`, with z = `params` and strength = s eta_r.
    """

    def leaf(z, anchored, curvature):
        weight = strength.astype(z.dtype) * curvature
        return (z + weight * anchored) / (1 + weight)

    return jax.tree.map(leaf, params, anchor.params, anchor.fisher_diagonal)


def gradient(objective: Objective, settings: Settings, state: State, batch: PyTree, key: jax.Array):
    """Gradient of the loss and the trace term, both at the SAM point where there is a radius.

    Returns:
      (gradient, loss, trace, limited, model_state). The loss and the model state come from the unperturbed parameters,
      so that BatchNorm statistics never see perturbed weights.
    """
    loss_key, probe_key = jax.random.split(key)
    loss_fn = jax.value_and_grad(
        lambda params: objective.loss_fn(params, state.model_state, batch, loss_key), has_aux=True
    )
    params = state.params
    (loss, model_state), result = loss_fn(params)
    if settings.radius:
        away = sam.perturbation(params, result, settings.radius, settings.adaptive)
        params = jax.tree.map(jnp.add, params, away)
        _, result = loss_fn(params)
    if not settings.eta_f:
        return result, loss, jnp.zeros_like(loss), jnp.zeros((), bool), model_state

    examples = jax.tree.map(lambda leaf: leaf[: settings.trace_batch_size], batch)

    def log_prob_fn(params, example):
        return objective.log_prob_fn(params, state.model_state, example)

    def trace_fn(params):
        if not settings.num_probes:
            return fisher.trace(log_prob_fn, params, examples)
        return fisher.estimate_trace(log_prob_fn, params, examples, probe_key, settings.num_probes)

    trace, smoothing = jax.value_and_grad(trace_fn)(params)
    result, limited = add_smoothing(result, smoothing, settings)
    return result, loss, trace, limited, model_state


def add_smoothing(
    loss_gradient: PyTree, trace_gradient: PyTree, settings: Settings
) -> tuple[PyTree, jax.Array]:
    """The loss's gradient plus eta_f times the trace's, kept to `trace_limit`; and whether that limit was met.

    Tr F differs by orders of magnitude between networks and soars where a large step has left a minimum. The
    limit, a multiple of the norm of the loss's gradient, lets one eta_f serve them all.
    """
    allowed = settings.trace_limit * optax.tree.norm(loss_gradient)
    norm = settings.eta_f * optax.tree.norm(trace_gradient)
    factor = settings.eta_f * jnp.where(norm > allowed, allowed / jnp.where(norm > 0, norm, 1), 1)
    total = jax.tree.map(lambda g, t: g + factor.astype(t.dtype) * t, loss_gradient, trace_gradient)
    return total, norm > allowed


def make_step(objective: Objective, settings: Settings, draw: DrawFn) -> StepFn:
    """The jitted step `(state, anchor, data) -> (state, metrics)`; it consumes (donates) `state`.

    Args:
      objective: the network.
      settings: the method.
      draw: `(key, step, data) -> batch`, which picks and augments the batch of a step.

    Returns:
      A function. A step whose loss or updated parameters are not finite changes nothing but the counters.
      `anchor` is used where `eta_r > 0` and may be None otherwise.
    """
    tx = optimizer(settings)
    rate = schedule(settings)

    def step(state: State, anchor: Anchor | None, data: PyTree) -> tuple[State, Metrics]:
        draw_key, step_key = jax.random.split(state.key)
        batch = draw(draw_key, state.step, data)
        key = jax.random.fold_in(step_key, state.step)
        grad, loss, trace, limited, model_state = gradient(objective, settings, state, batch, key)
        updates, opt_state = tx.update(grad, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        learning_rate = jnp.asarray(rate(state.step - state.num_skipped), loss.dtype)
        if settings.eta_r:
            assert anchor is not None
            # Momentum lengthens every step 1 / (1 - momentum) times; the same for the pull keeps the
            # minimiser of L a fixed point.
            params = pull_to_anchor(params, anchor, settings.eta_r * learning_rate / (1 - settings.momentum))
        finite = jnp.isfinite(loss) & all_finite((params, model_state))
        new = State(params, model_state, opt_state, state.key, state.step, state.num_skipped)
        kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        counted = kept._replace(
            step=state.step + 1, num_skipped=state.num_skipped + jnp.where(finite, 0, 1).astype(jnp.int32)
        )
        return counted, Metrics(loss, trace, limited, optax.tree.norm(grad), learning_rate, finite)

    return jax.jit(step, donate_argnums=0)


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every entry of every floating-point leaf is finite, a scalar bool."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def run(
    step_fn: StepFn,
    state: State,
    anchor: Anchor | None,
    data: PyTree,
    num_steps: int,
    on_step: Callable[[int, State, Metrics], None] | None = None,
) -> State:
    """Takes steps until `num_steps` have been taken in all, counting those that `state` already has.

    Args:
      step_fn: from `make_step`.
      state: the start, consumed.
      anchor: passed to every step.
      data: passed to every step as an argument, so that it is never compiled in.
      num_steps: total number of steps.
      on_step: called after each step with the number of steps taken, the state (to read, not to keep: the
        next step consumes it) and the metrics.

    Returns:
      The state after the last step.
    """
    for taken in range(int(state.step) + 1, num_steps + 1):
        state, metrics = step_fn(state, anchor, data)
        if on_step is not None:
            on_step(taken, state, metrics)
    return state
