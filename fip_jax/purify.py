"""The one step that trains, fine-tunes and purifies; the methods are its settings (`objective.py`)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fip_jax import parallel
from fip_jax.eigenbasis import KernelGate
from fip_jax.objective import (
    Anchor,
    Objective,
    Penalty,
    Settings,
    gradient,
    trace_of_fisher,
)
from fip_jax.per_example import PyTree


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
      gradient_norm: of the gradient without weight decay.
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
StepFn = parallel.Step  # (state, anchor, data) -> (state, metrics)
OnSteps = Callable[[int, State, Metrics], None]


def schedule(settings: Settings) -> optax.Schedule:
    """Linear warm-up to the peak, then a half cosine to zero at `num_steps`."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if settings.warmup else settings.learning_rate,
        settings.learning_rate,
        min(round(settings.warmup * settings.num_steps), settings.num_steps - 1),
        settings.num_steps,
    )
    # Optax compares the count with a float, which strict dtype promotion does not allow of an integer.
    return lambda count: rate(jnp.asarray(count, float))


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """SGD with heavy-ball momentum on the gradient plus weight decay, unless that is gated: then the step adds it."""
    sgd = optax.sgd(schedule(settings), settings.momentum or None)
    if not settings.weight_decay or settings.gated:
        return sgd
    return optax.chain(optax.add_decayed_weights(settings.weight_decay, kernels), sgd)


def kernels(params: PyTree) -> PyTree:
    """True for the leaves that weight decay shrinks. Scales and biases, which have one axis, it would only cripple."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def init_state(
    settings: Settings,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    tx: optax.GradientTransformation | None = None,
) -> State:
    """The state before the first step. Copies, so that a donated state never takes the caller's arrays."""
    params, model_state, key = jax.tree.map(
        lambda leaf: jnp.array(leaf, copy=True), (params, model_state, key)
    )
    zero = jnp.zeros((), jnp.int32)
    return State(params, model_state, (tx or optimizer(settings)).init(params), key, zero, jnp.copy(zero))


def pull_to_anchor(params: PyTree, anchor: Anchor, strength: jax.Array) -> PyTree:
    r"""Proximal step of the :math:`\eta_r` term: stable for any strength, where a gradient step is not.

    Minimises :math:`\frac{1}{2 s} \lVert \theta - z \rVert^2 + \frac{\eta_r}{2} \sum_i \bar F_{ii}
    (\theta_i - \bar\theta_i)^2` over :math:`\theta`, with z = `params` and strength = s eta_r.
    """

    def leaf(z, anchored, curvature):
        weight = strength.astype(z.dtype) * curvature
        return (z + weight * anchored) / (1 + weight)

    return jax.tree.map(leaf, params, anchor.params, anchor.fisher_diagonal)


def with_gated_decay(gradient: PyTree, params: PyTree, gate: PyTree, strength: float) -> PyTree:
    """The gradient plus the weight decay of each leaf: `strength` times the part of it that its gate lets go."""

    def leaf(g: jax.Array, p: jax.Array, share: jax.Array | KernelGate) -> jax.Array:
        return g + strength * (share.part(p) if isinstance(share, KernelGate) else share * p)

    return jax.tree.map(leaf, gradient, params, gate)


def make_step(
    objective: Objective,
    settings: Settings,
    draw: DrawFn,
    penalty: Penalty = trace_of_fisher,
    tx: optax.GradientTransformation | None = None,
    rate: optax.Schedule | None = None,
) -> StepFn:
    """The compiled step `(state, anchor, data) -> (state, metrics)`; it consumes (donates) `state`.

    With `settings.axis` it runs on all devices, each of which draws the whole batch and takes its share.

    Args:
      objective: the network.
      settings: the method.
      draw: `(key, step, data) -> batch`, which picks and augments the batch of a step.
      penalty: what `eta_f` weighs.
      tx: an optimiser in the place of SGD, the same as for `init_state`.
      rate: its learning rate over the applied steps, for the metrics and the pull to the anchor.

    Returns:
      A function. A step whose loss or updated parameters are not finite changes nothing but the counters.
      `anchor` may be None unless `settings.eta_r`, `settings.gated` or `objective.ask_fn` uses it.
    """
    tx = tx or optimizer(settings)
    rate = rate or schedule(settings)

    def step(state: State, anchor: Anchor | None, data: PyTree) -> tuple[State, Metrics]:
        draw_key, step_key = jax.random.split(state.key)
        batch = parallel.share(draw(draw_key, state.step, data), settings.axis)
        if objective.ask_fn is not None:
            assert anchor is not None
            with jax.default_matmul_precision(settings.precision):
                batch = objective.ask_fn(anchor, batch)
        key = jax.random.fold_in(step_key, state.step)
        found = gradient(objective, settings, state.params, state.model_state, batch, key, penalty)
        total = found.total
        if settings.gated:
            assert anchor is not None
            total = with_gated_decay(total, state.params, anchor.gate, settings.weight_decay)
        updates, opt_state = tx.update(total, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        learning_rate = jnp.asarray(rate(state.step - state.num_skipped), found.loss.dtype)
        if settings.eta_r:
            assert anchor is not None
            # Momentum lengthens every step 1 / (1 - momentum) times; the same for the pull keeps the
            # minimiser of L a fixed point.
            params = pull_to_anchor(params, anchor, settings.eta_r * learning_rate / (1 - settings.momentum))
        finite = jnp.isfinite(found.loss) & all_finite((params, found.model_state))
        new = State(params, found.model_state, opt_state, state.key, state.step, state.num_skipped)
        kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        counted = kept._replace(
            step=state.step + 1, num_skipped=state.num_skipped + jnp.where(finite, 0, 1).astype(jnp.int32)
        )
        norm = optax.tree.norm(found.total)
        return counted, Metrics(found.loss, found.trace, found.limited, norm, learning_rate, finite)

    return parallel.Step(step, settings.axis)


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every entry of every floating-point leaf is finite, a scalar bool."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def steps_at_once(every: int, platform: str) -> int:
    """How many steps go to the device in one dispatch, where the host has a look at the state every so many.

    `platform` is that of the step, "cpu" or another. XLA's CPU convolutions are many times slower inside of a compiled
    loop; elsewhere the loop saves the host's time.
    """
    return 1 if platform == "cpu" else every


def run(
    step_fn: StepFn,
    state: State,
    anchor: Anchor | None,
    data: PyTree,
    num_steps: int,
    on_steps: OnSteps | None = None,
    at_once: int = 1,
) -> State:
    """Takes steps until `num_steps` have been taken in all, counting those that `state` already has.

    Args:
      step_fn: from `make_step`.
      state: the start, consumed.
      anchor: passed to every step.
      data: passed to every step as an argument, so that it is never compiled in.
      num_steps: total number of steps.
      on_steps: called after each dispatch with the number of steps taken, the state (to read, not to keep: the
        next step consumes it) and the metrics, which have a leading axis `[steps]` where it was more than one.
      at_once: steps in one dispatch; the last may have fewer, and so may the first, so that all end at multiples.

    Returns:
      The state after the last step, on one device.
    """
    taken = int(state.step)
    while taken < num_steps:
        count = min(at_once - taken % at_once, num_steps - taken)
        state, metrics = (step_fn if count == 1 else step_fn.several(count))(state, anchor, data)
        taken += count
        if on_steps is not None:
            on_steps(taken, state, metrics)
    return parallel.on_one(state)
