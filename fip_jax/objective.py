r"""What a step descends: the loss, the trace of the Fisher matrix, and the distance from the suspicious network.

.. math:: L(\theta) = \mathrm{CE}(\theta) + \eta_F \mathrm{Tr} F(\theta)
          + \frac{\eta_r}{2} \sum_i \bar F_{ii} (\theta_i - \bar\theta_i)^2

with the anchor :math:`\bar\theta` (the suspicious network) and the diagonal :math:`\bar F` of its Fisher matrix. All
terms but CE zero: fine-tuning (FT). A radius: FT-SAM. The Fisher terms: FIP.

Where SAM and `trace_limit` are in use, the step follows no gradient of L itself: it takes the gradients of loss and
trace where SAM looks, and shortens the latter to a multiple of the former.

Source: Karim et al. (2024), ACM CCS, https://arxiv.org/abs/2409.00863.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fip_jax import fisher, parallel, sam
from fip_jax.per_example import PyTree, of_one_example


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes one method of the step.

    Attributes:
      learning_rate: peak learning rate of SGD.
      momentum: of SGD (heavy ball), in [0, 1).
      weight_decay: L2 coefficient, for leaves of more than one axis: kernels, and no biases or scales.
      gated: whether the decay of each weight is multiplied by `Anchor.gate`, which then says what decays as well.
      num_steps: length of the run; the schedule ends there.
      warmup: fraction of the steps over which the learning rate rises linearly from zero.
      eta_f: weight of the trace of the Fisher matrix.
      trace_limit: largest norm of the trace term's gradient, as a multiple of the norm of the loss's.
      eta_r: weight of the pull towards the anchor.
      radius: SAM radius; 0 switches SAM off.
      adaptive: adaptive SAM.
      num_probes: probes of the trace estimate in each step; 0 for the exact trace.
      trace_batch_size: examples of each batch that the trace is estimated on; None for all.
      true_fisher: whether the labels in the Fisher terms are drawn from the network, in place of the data's.
      axis: of the devices that each batch is spread over (see `parallel`); None for one device.
      precision: of the loss and the estimated trace (see `precision`); an exact trace is always float32.
    """

    learning_rate: float
    num_steps: int
    momentum: float = 0.9
    weight_decay: float = 0.0
    gated: bool = False
    warmup: float = 0.0
    eta_f: float = 0.0
    trace_limit: float = math.inf
    eta_r: float = 0.0
    radius: float = 0.0
    adaptive: bool = False
    num_probes: int = 1
    trace_batch_size: int | None = None
    true_fisher: bool = False
    axis: str | None = None
    precision: str = "float32"


class Objective(NamedTuple):
    """The network as the step sees it.

    Attributes:
      loss_fn: `(params, model_state, batch, key) -> (scalar, model_state)`, the mean loss of a batch.
      log_probs_fn: `(params, model_state, batch) -> [N]`, the log-likelihood of each example's label, with the running
        statistics of `model_state`; each depends on its own example alone.
      logits_fn: `(params, model_state, batch) -> [N, num_classes]`, with the running statistics; for
        `true_fisher`, whose batches have to be dicts with the key "label".
      ask_fn: `(anchor, batch) -> batch`, the batch with what the suspicious network says of it, for `loss_fn`; None
        where that is not asked.
    """

    loss_fn: Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]
    log_probs_fn: Callable[[PyTree, PyTree, PyTree], jax.Array]
    logits_fn: Callable[[PyTree, PyTree, PyTree], jax.Array] | None = None
    ask_fn: Callable[["Anchor", PyTree], PyTree] | None = None

    def logits(self, params: PyTree, model_state: PyTree, batch: PyTree) -> jax.Array:
        """As `logits_fn`, which has to be there."""
        assert self.logits_fn is not None
        return self.logits_fn(params, model_state, batch)

    def with_drawn_labels(
        self, params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array, axis: str | None = None
    ) -> dict[str, Any]:
        """The batch with labels drawn from the network's own probabilities: those of the true Fisher matrix."""
        logits = jax.lax.stop_gradient(self.logits(params, model_state, batch))
        # Of the whole batch at once, so that the labels do not depend on how it is spread.
        drawn = parallel.share(jax.random.categorical(key, parallel.gather(logits, axis)), axis)
        return {**batch, "label": drawn.astype(batch["label"].dtype)}


class Anchor(NamedTuple):
    """The suspicious network: constant over a run, and an argument of every step.

    Attributes:
      params: its parameters.
      fisher_diagonal: of its Fisher matrix, a pytree like `params`; for `eta_r`, else None.
      model_state: its BatchNorm statistics; for a teacher.
      gate: what the decay of each weight is multiplied by (see `gate.gates`), for `gated`, else None.
    """

    params: PyTree
    fisher_diagonal: PyTree = None
    model_state: PyTree = None
    gate: PyTree = None


# `(objective, settings, params, model_state, examples, key) -> scalar`; over several devices (`settings.axis`) their
# mean counts.
Penalty = Callable[[Objective, Settings, PyTree, PyTree, PyTree, jax.Array], jax.Array]


def trace_of_fisher(
    objective: Objective,
    settings: Settings,
    params: PyTree,
    model_state: PyTree,
    examples: PyTree,
    key: jax.Array,
) -> jax.Array:
    """Tr F over some examples, exact or estimated, scalar."""
    if settings.true_fisher:
        key, label_key = jax.random.split(key)
        examples = objective.with_drawn_labels(params, model_state, examples, label_key, settings.axis)

    def log_probs_fn(params, batch):
        return objective.log_probs_fn(params, model_state, batch)

    if not settings.num_probes:
        return fisher.trace(of_one_example(log_probs_fn), params, examples)
    return fisher.estimate_trace(log_probs_fn, params, examples, key, settings.num_probes, settings.axis)


class Gradient(NamedTuple):
    """The gradient with what came up on the way: loss and trace (scalars), whether the trace's was shortened."""

    total: PyTree
    loss: jax.Array
    trace: jax.Array
    limited: jax.Array
    model_state: PyTree


def gradient(
    objective: Objective,
    settings: Settings,
    params: PyTree,
    model_state: PyTree,
    batch: PyTree,
    key: jax.Array,
    penalty: Penalty = trace_of_fisher,
) -> Gradient:
    """Gradient of the loss and the trace term, both at the SAM point where there is a radius.

    The loss and the model state come from the unperturbed parameters, so that BatchNorm statistics never see perturbed
    weights. Over several devices `batch` is each device's share.
    """
    loss_key, probe_key = jax.random.split(key)
    loss_key = parallel.own_key(loss_key, settings.axis)

    def loss_fn(params):
        found = jax.value_and_grad(lambda p: objective.loss_fn(p, model_state, batch, loss_key), has_aux=True)
        with jax.default_matmul_precision(settings.precision):
            return parallel.mean(found(params), settings.axis)

    (loss, new_state), result = loss_fn(params)
    if settings.radius:
        away = sam.perturbation(params, result, settings.radius, settings.adaptive)
        params = jax.tree.map(jnp.add, params, away)
        _, result = loss_fn(params)
    if not settings.eta_f:
        return Gradient(result, loss, jnp.zeros_like(loss), jnp.zeros((), bool), new_state)

    count = settings.trace_batch_size and settings.trace_batch_size // parallel.size(settings.axis)
    examples = jax.tree.map(lambda leaf: leaf[:count], batch)
    found = jax.value_and_grad(lambda p: penalty(objective, settings, p, model_state, examples, probe_key))
    # Rounding is far below the noise of a probe (docs/benchmarks.md); an exact trace has none.
    with jax.default_matmul_precision(settings.precision if settings.num_probes else "float32"):
        trace, smoothing = parallel.mean(found(params), settings.axis)
    result, limited = add_smoothing(result, smoothing, settings)
    return Gradient(result, loss, trace, limited, new_state)


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
