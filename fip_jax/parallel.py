"""Several devices: each takes its share of every batch, all hold the same state. The only file that names `pmap`.

Written into the step are four small things: the share of a batch, a mean, a sum and a gathering over the devices. On
one device (`axis` None) they do nothing, so there is one step and not two.

One rule keeps gradients right. What a device differentiates is its own scalar; its gradient, averaged over the
devices by `mean`, is the gradient of the mean of these scalars. A mean or sum inside of the scalar (statistics of
BatchNorm over the whole batch, the gradient whose norm estimates Tr F) is differentiated through.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from fip_jax.errors import UserError

PyTree = Any

MODES = ("none", "pmap")
AXIS = "devices"


def axis_of(config: ConfigDict) -> str | None:
    """The axis over which the steps of a run are spread, None for one device."""
    return AXIS if config.parallel.mode == "pmap" else None


def check_divides(axis: str | None, **sizes: int | None) -> None:
    """Refuses numbers of examples that cannot be spread evenly.

    Args:
      axis: from `axis_of`.
      **sizes: the numbers, under their config keys with `__` for dots; None is passed over.

    Raises:
      UserError: names the key.
    """
    for key, size in sizes.items():
        if axis and size is not None and size % jax.device_count():
            raise UserError(
                f"{key.replace('__', '.')}: found {size} examples for {jax.device_count()} devices, expected a "
                "multiple of their number, or parallel.mode=none"
            )


def share(tree: PyTree, axis: str | None) -> PyTree:
    """This device's part `[N / devices, ...]` of arrays `[N, ...]` that every device holds whole.

    They are dealt like cards, so that the first k of all are the first k / devices of each share.

    Raises:
      ValueError: N is no multiple of the number of devices.
    """
    if axis is None:
        return tree
    parts = lax.axis_size(axis)

    def part(leaf):
        if leaf.shape[0] % parts:
            raise ValueError(f"expected a multiple of {parts} examples, found {leaf.shape[0]}")
        dealt = leaf.reshape(-1, parts, *leaf.shape[1:])
        return lax.dynamic_index_in_dim(dealt, lax.axis_index(axis), axis=1, keepdims=False)

    return jax.tree.map(part, tree)


def mean(tree: PyTree, axis: str | None) -> PyTree:
    """Mean over the devices."""
    return tree if axis is None else lax.pmean(tree, axis)


def total(tree: PyTree, axis: str | None) -> PyTree:
    """Sum over the devices."""
    return tree if axis is None else lax.psum(tree, axis)


def gather(x: jax.Array, axis: str | None) -> jax.Array:
    """The devices' shares `[N / devices, ...]` as the whole, `[N, ...]`, on each of them."""
    return x if axis is None else lax.all_gather(x, axis, axis=1).reshape(-1, *x.shape[1:])


def size(axis: str | None) -> int:
    """Number of devices, within a function that runs on all of them."""
    return 1 if axis is None else lax.axis_size(axis)


def local_size(axis: str | None) -> int:
    """Number of this host's devices that `map_shares` spreads examples over."""
    return 1 if axis is None else jax.local_device_count()


def own_key(key: jax.Array, axis: str | None) -> jax.Array:
    """A key for noise that has to differ between the devices (dropout)."""
    return key if axis is None else jax.random.fold_in(key, lax.axis_index(axis))


class Step:
    """A compiled step `(state, *others) -> (state, metrics)`, which consumes `state`; the form that `purify.run` takes.

    With an axis it runs on all devices at once. Every argument and result is then the same on all of them, without a
    leading axis: `replicate` arguments that come again and again.
    """

    def __init__(self, step: Callable[..., tuple[PyTree, PyTree]], axis: str | None):
        self._step, self._axis = step, axis
        self._one = self._compile(step)
        self._several: dict[int, Callable[..., tuple[PyTree, PyTree]]] = {}

    def __call__(self, state: PyTree, *others: PyTree) -> tuple[PyTree, PyTree]:
        """Takes one step."""
        return self._one(state, *others)

    def several(self, count: int) -> Callable[..., tuple[PyTree, PyTree]]:
        """The same for `count` steps in one dispatch; every metric has a leading axis `[count]`."""
        if count not in self._several:

            def steps(state, *others):
                return lax.scan(lambda carry, _: self._step(carry, *others), state, length=count)

            self._several[count] = self._compile(steps)
        return self._several[count]

    def _compile(self, steps: Callable[..., Any]) -> Callable[..., Any]:
        if self._axis is None:
            return jax.jit(steps, donate_argnums=0)

        def on_a_device(_, state, others):
            return steps(state, *others)

        mapped = jax.pmap(
            on_a_device, axis_name=self._axis, in_axes=(0, None, None), out_axes=None, donate_argnums=1
        )
        # Nothing else is mapped: what `pmap` counts its devices by.
        indices = np.arange(jax.local_device_count())
        return lambda state, *others: mapped(indices, replicate(state, self._axis), others)


def replicate(tree: PyTree, axis: str | None) -> PyTree:
    """A copy on every device; what is there already stays where it is."""
    if axis is None:
        return tree
    everywhere = NamedSharding(Mesh(np.asarray(jax.devices()), (axis,)), PartitionSpec())

    def put(leaf):
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == everywhere.device_set:
            return leaf
        if jax.process_count() == 1:
            return jax.device_put(leaf, everywhere)
        # Every host has it, so that nothing has to travel.
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, everywhere, lambda index: array[index])

    return jax.tree.map(put, tree)


def on_one(tree: PyTree) -> PyTree:
    """The same arrays on one device, for checkpoints and everything else that is not spread."""
    return jax.tree.map(
        lambda leaf: leaf if len(leaf.sharding.device_set) == 1 else leaf.addressable_data(0), tree
    )


def map_shares(
    fn: Callable[..., PyTree], axis: str | None, compiler_options: dict[str, Any] | None = None
) -> Callable[..., PyTree]:
    """Compiles `fn(batch, *others)`, a mean over the examples of `batch`, for all devices of this host.

    Each takes its share of the batch. The number of examples has to be a multiple of that of the devices; the result
    lies on one of them. `compiler_options` are for one device: `pmap` takes none.
    """
    if axis is None:
        return jax.jit(fn, compiler_options=compiler_options)
    devices = jax.local_devices()
    mapped = jax.pmap(
        lambda batch, others: lax.pmean(fn(batch, *others), axis),
        axis_name=axis,
        in_axes=(0, None),
        out_axes=None,
        devices=devices,
    )

    def on_all(batch, *others):
        shares = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)
        return on_one(mapped(shares, others))

    return on_all
