"""Several devices: each takes its share of every batch, all hold the same state. The only file that knows how.

The mode is called pmap, after what it does; what does it is `jax.shard_map` under `jax.jit`, over a mesh of one axis.

Written into the step are four small things: the share of a batch, a mean, a sum and a gathering over the devices. On
one device (`axis` None) they do nothing, so there is one step and not two.

One rule keeps gradients right. What a device differentiates is its own scalar; its gradient, averaged over the
devices by `mean`, is the gradient of the mean of these scalars. A mean or sum inside of the scalar (statistics of
BatchNorm over the whole batch, the gradient whose norm estimates Tr F) is differentiated through.

The rule holds because `jax.shard_map` is told not to keep account of which values differ between the devices
(`check_vma=False`). If it did, it would sum the gradients of parameters that are the same on all devices by itself,
and `mean` would leave them as many times too large as there are devices. What it would have checked in return, that
all devices leave a step with the same state, is a test's to check.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from ml_collections import ConfigDict

from fip_jax.errors import UserError

PyTree = Any

MODES = ("none", "pmap")
AXIS = "devices"
SAME = PartitionSpec()  # on all devices


def axis_of(config: ConfigDict) -> str | None:
    """The axis over which the steps of a run are spread, None for one device."""
    return AXIS if config.parallel.mode == "pmap" else None


def platform_of(axis: str | None) -> str:
    """The platform that programs of this process run on: "cpu", "gpu", "tpu".

    That of all devices where there is an axis, otherwise that of the one which JAX computes on by default.
    """
    chosen = None if axis else jax.config.values["jax_default_device"]
    if isinstance(chosen, str):  # JAX takes a platform's name for one of its devices
        chosen = jax.devices(chosen)[0]
    return (chosen or jax.devices()[0]).platform


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
    """Sum over the devices, of which every device makes the same scalar.

    Then the derivative by the sum is the same on all of them as well, and to sum it over the devices, as `lax.psum`
    would, is to multiply it by their number: an exchange as large as the parameters is saved.
    """
    return tree if axis is None else _total(tree, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _total(tree: PyTree, axis: str) -> PyTree:
    return lax.psum(tree, axis)


_total.defvjp(
    lambda tree, axis: (lax.psum(tree, axis), None),
    lambda axis, _, cotangent: (jax.tree.map(lambda leaf: leaf * lax.axis_size(axis), cotangent),),
)


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
        self._programs: dict[int, Callable[..., tuple[PyTree, PyTree]]] = {}

    @property
    def platform(self) -> str:
        """The platform that it runs on."""
        return platform_of(self._axis)

    def __call__(self, state: PyTree, *others: PyTree) -> tuple[PyTree, PyTree]:
        """Takes one step."""
        return self.several(1)(state, *others)

    def several(self, count: int) -> Callable[..., tuple[PyTree, PyTree]]:
        """The same for `count` steps in one dispatch; of more than one, every metric has a leading axis `[count]`."""
        if count not in self._programs:
            mesh = None if self._axis is None else _mesh(jax.devices(), self._axis)
            self._programs[count] = self._program(count, mesh)
        program = self._programs[count]
        return lambda *arguments: program(*replicate(arguments, self._axis))

    def lower(
        self,
        devices: Sequence[jax.Device],
        state: PyTree,
        *others: PyTree,
        count: int = 1,
        platform: str | None = None,
    ) -> jax.stages.Lowered:
        """The program of `count` steps for given devices, which need not be here (`jax.experimental.topologies`).

        Nothing is computed and nothing compiled.

        Args:
          devices: all of one platform; without an axis the first alone counts.
          state: arrays, or `jax.ShapeDtypeStruct` in their place.
          *others: as `state`.
          count: steps in one dispatch.
          platform: to lower for, "cpu", "cuda" or "tpu", where that is not the platform of the devices; such a
            program can be read, but not compiled.
        """
        mesh = None if self._axis is None else _mesh(devices, self._axis)
        where = SingleDeviceSharding(devices[0]) if mesh is None else NamedSharding(mesh, SAME)
        arguments = abstract((state, *others), where)
        traced = self._program(count, mesh).trace(*arguments)
        return traced.lower(lowering_platforms=None if platform is None else (platform,))

    def _program(self, count: int, mesh: Mesh | None) -> Any:
        steps = self._step
        if count > 1:

            def steps(state, *others):
                return lax.scan(lambda carry, _: self._step(carry, *others), state, length=count)

        return jax.jit(steps if mesh is None else _everywhere(steps, mesh), donate_argnums=0)


def _mesh(devices: Sequence[jax.Device], axis: str) -> Mesh:
    return Mesh(np.asarray(devices), (axis,))


def _everywhere(fn: Callable[..., Any], mesh: Mesh, in_specs: Any = SAME) -> Callable[..., Any]:
    """`fn` on every device of a mesh; results, and by default arguments, are the same on all."""
    return jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=SAME, check_vma=False)


def abstract(tree: PyTree, where: Sharding) -> PyTree:
    """Shapes and dtypes of arrays, as if they lay elsewhere."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)


def replicate(tree: PyTree, axis: str | None) -> PyTree:
    """A copy on every device; what is there already stays where it is."""
    if axis is None:
        return tree
    everywhere = NamedSharding(_mesh(jax.devices(), axis), SAME)

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


def _of_this_host(tree: PyTree) -> PyTree:
    """What other hosts hold as well, on one device of this one."""
    return jax.tree.map(lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), tree)


def map_shares(
    fn: Callable[..., PyTree], axis: str | None, compiler_options: dict[str, Any] | None = None
) -> Callable[..., PyTree]:
    """Compiles `fn(batch, *others)`, a mean over the examples of `batch`, for all devices of this host.

    Each takes its share of the batch. The number of examples has to be a multiple of that of the devices; the result
    lies on one of them.
    """
    if axis is None:
        return jax.jit(fn, compiler_options=compiler_options)
    mesh = _mesh(jax.local_devices(), axis)
    spread = PartitionSpec(axis)

    def mean_of_shares(batch, others):
        return mean(fn(batch, *others), axis)

    mapped = jax.jit(
        _everywhere(mean_of_shares, mesh, in_specs=(spread, SAME)), compiler_options=compiler_options
    )

    def on_all(batch, *others):
        shares = jax.device_put(batch, NamedSharding(mesh, spread))
        return on_one(mapped(shares, jax.device_put(_of_this_host(others), NamedSharding(mesh, SAME))))

    return on_all
