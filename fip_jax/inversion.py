r"""Triggers constructed from clean images alone, for many classes at once: a mask and a pattern for each.

For class c the pattern p and the mask m, both in [0, 1], that turn clean images x of other classes into c,

.. math:: \min_{m, p} \; \frac{1}{N} \sum_n \mathrm{CE}\bigl(f((1 - m) x_n + m p), c\bigr) + \lambda \lVert m \rVert_1 ,

with a price :math:`\lambda` that rises while enough images are turned and falls while too few are. A class that a patch
leads to has a much smaller mask than the others.

Source: Wang et al. (2019), "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", IEEE S&P,
equations 2 and 3 and section IV-A (anomaly index).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import PyTree

LEARNING_RATE = 0.1
FIRST_PRICE = 0.01
DEARER, CHEAPER = 1.15, 0.8
MEMORY = 0.8  # of the running mean of the success, from step to step
FEWEST, MOST = 5, 3  # classes to compare, classes to name


class Triggers(NamedTuple):
    """K constructed triggers.

    Attributes:
      mask: float32 `[K, H, W, 1]` in [0, 1].
      pattern: float32 `[K, H, W, C]` in [0, 1].
      target: int32 `[K]`, the class of each.
      success: float32 `[K]`, the share of clean images of other classes that it led to its class, over the last steps.
      size: float32 `[K]`, the sum of its mask, in pixels.
    """

    mask: jax.Array
    pattern: jax.Array
    target: jax.Array
    success: jax.Array
    size: jax.Array


def stamp(images: Any, mask: Any, pattern: Any) -> Any:
    """Images `[..., H, W, C]` in [0, 1] with a trigger on them; `mask` and `pattern` broadcast against them."""
    return images * (1 - mask) + pattern * mask


class _Search(NamedTuple):
    mask: jax.Array  # [K, H, W, 1], before the sigmoid
    pattern: jax.Array  # [K, H, W, C], before the sigmoid


class _State(NamedTuple):
    search: _Search
    opt_state: PyTree
    price: jax.Array
    success: jax.Array


def invert(
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    images: jax.Array,
    labels: jax.Array,
    targets: Sequence[int],
    key: jax.Array,
    *,
    steps: int,
    batch_size: int,
    success: float,
    on_step: Callable[[int], None] | None = None,
) -> Triggers:
    """A trigger for each of the targets, which may name a class several times, for several starts.

    Args:
      network: the network.
      params: its parameters.
      model_state: its BatchNorm statistics, which are used as they are.
      images: float `[N, H, W, C]` in [0, 1].
      labels: int32 `[N]`.
      targets: K classes.
      key: of the starts and batches.
      steps: of Adam.
      batch_size: images in a step, the same for all targets.
      success: share of images to turn; the mask shrinks while more are.
      on_step: called with the number of steps taken.
    """
    target = jnp.asarray(targets, jnp.int32)
    shape = (len(target), *images.shape[1:])
    start_key, pattern_key, batch_key = jax.random.split(key, 3)
    search = _Search(
        -1 + 0.1 * jax.random.normal(start_key, (*shape[:-1], 1)), jax.random.normal(pattern_key, shape)
    )
    many = jnp.full(len(target), FIRST_PRICE), jnp.zeros(len(target))
    state = _State(search, _optimizer().init(search), *many)
    size = min(batch_size, len(images))
    step = jax.jit(functools.partial(_step, network, size, success), donate_argnums=6)
    for index in range(steps):
        state = step(params, model_state, images, labels, target, jax.random.fold_in(batch_key, index), state)
        if on_step is not None:
            jax.block_until_ready(state.success)
            on_step(index + 1)
    mask, pattern = jax.nn.sigmoid(state.search.mask), jax.nn.sigmoid(state.search.pattern)
    return Triggers(mask, pattern, target, state.success, mask.sum((1, 2, 3)))


def _optimizer() -> optax.GradientTransformation:
    return optax.adam(LEARNING_RATE, b1=0.5, b2=0.9)


def _step(network, batch_size, wanted, params, model_state, images, labels, target, key, state):
    chosen = jax.random.choice(key, len(images), (batch_size,), replace=False)
    images, labels = images[chosen], labels[chosen]
    counted = (labels[None] != target[:, None]).astype(images.dtype)  # [K, B]
    counted /= jnp.maximum(counted.sum(1, keepdims=True), 1)

    def loss_fn(search: _Search):
        mask, pattern = jax.nn.sigmoid(search.mask), jax.nn.sigmoid(search.pattern)
        stamped = stamp(images[None], mask[:, None], pattern[:, None])
        logits, _ = network(params, model_state, stamped.reshape(-1, *images.shape[1:]))
        logits = logits.reshape(*counted.shape, -1)
        wanted_class = jnp.broadcast_to(target[:, None], counted.shape)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted_class)
        turned = jnp.where(logits.argmax(-1) == wanted_class, counted, 0).sum(1)
        priced = state.price * mask.sum((1, 2, 3))
        return ((losses * counted).sum(1) + priced).sum(), turned

    gradient, turned = jax.grad(loss_fn, has_aux=True)(state.search)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam takes a float to the power of an integer
        updates, opt_state = _optimizer().update(gradient, state.opt_state)
    success = MEMORY * state.success + (1 - MEMORY) * turned
    price = jnp.where(success > wanted, state.price * DEARER, state.price)
    price = jnp.where(success < wanted - 0.1, state.price * CHEAPER, price)
    return _State(optax.apply_updates(state.search, updates), opt_state, price, success)


def anomaly_index(sizes: np.ndarray) -> np.ndarray:
    """How many deviations each mask is smaller than the median one, `[K]`; negative for larger ones.

    The deviation is the median absolute one times 1.4826, as of a normal distribution, and at least a tenth of the
    median size.
    """
    sizes = np.asarray(sizes, np.float64)
    median = np.median(sizes)
    deviation = 1.4826 * np.median(np.abs(sizes - median))
    return (median - sizes) / max(deviation, median / 10, 1e-9)


def outstanding(first: Triggers, least_index: float, wanted: float) -> list[int]:
    """The classes that a patch leads to: of `first`, a trigger a class, those of a mask much smaller than the others.

    A mask counts if it turns most of the images that it should, is `least_index` deviations and at least half smaller
    than the median one. Most striking first, three at most, and none of fewer than `FEWEST` classes, where a median
    means nothing.
    """
    sizes, success = np.asarray(first.size, np.float64), np.asarray(first.success)
    if len(sizes) < FEWEST:
        return []
    index = anomaly_index(sizes)
    counts = (success > wanted - 0.25) & (index > least_index) & (sizes < np.median(sizes) / 2)
    order = np.argsort(-index, kind="stable")
    return [int(first.target[k]) for k in order if counts[k]][:MOST]


def search(
    options: ConfigDict,
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    key: jax.Array,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Triggers, Triggers | None]:
    """(a trigger of every class, several of each class that stands out, or None): see `outstanding`.

    Args:
      options: `steps`, `batch_size` and `success` of the search over all classes; `index`; `starts`, triggers of each
        class that stands out, which turn `unlearnt` of the images and are looked for over as many steps again.
      network: as of `invert`, which has the other arguments.
      params: as there.
      model_state: as there.
      images: as there.
      labels: as there.
      num_classes: of the network.
      key: of all draws.
      on_step: called with the steps taken, of twice `options.steps`.
    """
    of_all, of_some = jax.random.split(key)
    data = network, params, model_state, images, labels
    count = {"steps": options.steps, "batch_size": options.batch_size}
    first = invert(*data, range(num_classes), of_all, success=options.success, on_step=on_step, **count)
    chosen = [
        target for target in outstanding(first, options.index, options.success) for _ in range(options.starts)
    ]
    if not chosen:
        return first, None

    def later(taken: int) -> None:
        if on_step is not None:
            on_step(options.steps + taken)

    count["batch_size"] = min(2 * options.batch_size, len(images))
    return first, invert(*data, chosen, of_some, success=options.unlearnt, on_step=later, **count)
