"""How sharp a network's minimum is: products, eigenvalues, traces and spectra of its Fisher matrix and its Hessian."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from fip_jax import compiled, convolution, eigen, fisher, hessian, parallel, spectrum
from fip_jax.network import FunctionNetwork, Network, RelativeNetwork, make_log_probs_fn
from fip_jax.per_example import PyTree, num_examples, of_one_example, per_example_gradients
from fip_jax.precision import in_float32

Matrix = Literal["fisher", "hessian"]


def chunks(batch: PyTree, chunk_size: int, devices: int = 1) -> Iterator[PyTree]:
    """Consecutive parts of `batch` of nearly equal size, at most `chunk_size` each for every device.

    All but a last one of fewer examples than devices are multiples of the number of devices.

    A loop over these on the host, where `per_example.sum_over_chunks` loops on the device: XLA's CPU
    convolutions are many times slower inside of a compiled loop.
    """
    total = num_examples(batch)
    shares = total // devices
    parts = -(-shares // chunk_size)
    edges = [shares * part // parts * devices for part in range(parts + 1)] if parts else [0]
    if edges[-1] < total:
        edges.append(total)
    for start, end in itertools.pairwise(edges):
        yield jax.tree.map(lambda leaf, start=start, end=end: leaf[start:end], batch)


def mean_over_chunks(fn: Any, batch: PyTree, chunk_size: int, devices: int = 1) -> PyTree:
    """Mean over examples of `fn(chunk)`, itself a mean over the examples of a chunk (see `chunks`)."""
    total, result = num_examples(batch), None
    for chunk in chunks(batch, chunk_size, devices):
        share = num_examples(chunk) / total
        part = jax.tree.map(lambda leaf, share=share: share * leaf, fn(chunk))
        result = part if result is None else jax.tree.map(jax.numpy.add, result, part)
    return result


class FisherSpectrum(NamedTuple):
    """The Fisher matrix over a few examples, whole.

    Attributes:
      values: float64 `[N]`, rising: its eigenvalues that are not zero, or all zeros of examples beyond its rank.
      vector: unit eigenvector of the last of `values`, a pytree like the parameters; not finite where that is zero.
    """

    values: np.ndarray
    vector: PyTree


class Smoothness:
    """The Fisher matrix and the Hessian of a network over given examples, with their compiled parts.

    The Hessian is that of the mean cross-entropy, with the running BatchNorm statistics.

    Args:
      network: the network.
      batch: `{"image": float32 [N, H, W, C] in [0, 1], "label": int32 [N]}`.
      chunk_size: examples whose gradients a device holds at once.
      axis: to spread the examples over this host's devices (see `parallel`); None for one device.
    """

    def __init__(
        self,
        network: Network | FunctionNetwork | RelativeNetwork,
        batch: PyTree,
        chunk_size: int,
        axis: str | None = None,
    ):
        self._batch, self._chunk_size, self._axis = batch, chunk_size, axis
        platform = parallel.platform_of(axis)
        for_gradients = network.with_convolution(convolution.for_per_example_gradients(platform))
        for_batches = make_log_probs_fn(network.with_convolution(convolution.for_batches(platform)))

        @in_float32
        def of_examples(quantity, chunk, params, model_state, *rest):
            log_probs_fn = make_log_probs_fn(for_gradients)
            of_one = of_one_example(lambda p, batch: log_probs_fn(p, model_state, batch))
            return quantity(of_one, params, chunk, *rest)

        @in_float32
        def of_product(quantity, chunk, params, model_state, vector):
            log_probs_fn = make_log_probs_fn(network)
            of_one = of_one_example(lambda p, batch: log_probs_fn(p, model_state, batch))
            return quantity(
                of_one,
                params,
                chunk,
                vector,
                log_probs_fn=lambda p, batch: for_batches(p, model_state, batch),
            )

        @in_float32
        def of_loss(quantity, chunk, params, model_state, *rest):
            return quantity(lambda p, batch: -for_batches(p, model_state, batch).mean(), params, chunk, *rest)

        self._of_examples, self._of_product, self._of_loss = of_examples, of_product, of_loss

        @functools.cache
        def compiled_parts(of_chunk, quantity, axis):
            # Products are taken hundreds of times, what is asked of the examples' gradients a few times.
            options = compiled.with_little_effort(platform) if of_chunk is of_examples else None
            return parallel.map_shares(functools.partial(of_chunk, quantity), axis, options)

        self._compiled = compiled_parts

    def _mean(self, of_chunk: Any, quantity: Any, *arguments: PyTree) -> PyTree:
        devices = parallel.local_size(self._axis)

        def mean(chunk):
            axis = self._axis if num_examples(chunk) % devices == 0 else None
            return self._compiled(of_chunk, quantity, axis)(chunk, *arguments)

        return mean_over_chunks(mean, self._batch, self._chunk_size, devices)

    def loss(self, params: PyTree, model_state: PyTree) -> float:
        """Mean cross-entropy."""
        return float(self._mean(self._of_loss, _value, params, model_state))

    def trace(self, params: PyTree, model_state: PyTree) -> float:
        """Exact trace of the Fisher matrix (a mean over the examples)."""
        return float(self._mean(self._of_examples, fisher.trace, params, model_state))

    def diagonal(self, params: PyTree, model_state: PyTree) -> PyTree:
        """Diagonal of the Fisher matrix, a pytree like `params`."""
        return self._mean(self._of_examples, fisher.diagonal, params, model_state)

    def fisher_spectrum(self, params: PyTree, model_state: PyTree) -> FisherSpectrum:
        """All eigenvalues of the Fisher matrix, exact, on one device; holds the gradients of all examples at once.

        Raises:
          FloatingPointError: a gradient is not finite.
        """
        parts = [
            self._compiled(self._of_examples, per_example_gradients, None)(chunk, params, model_state)
            for chunk in chunks(self._batch, self._chunk_size)
        ]
        total = num_examples(self._batch)
        gram = np.block([[np.asarray(_gram(a, b), np.float64) for b in parts] for a in parts]) / total
        if not np.isfinite(gram).all():
            raise FloatingPointError("a gradient is not finite")
        values, vectors = np.linalg.eigh((gram + gram.T) / 2)
        edges = np.cumsum([num_examples(part) for part in parts])[:-1]
        sums = [
            _combined(part, np.asarray(weights, jax.tree.leaves(part)[0].dtype))
            for part, weights in zip(parts, np.split(vectors[:, -1], edges), strict=True)
        ]
        length = np.sqrt(max(values[-1], 0.0) * total)
        vector = jax.tree.map(lambda *leaves: sum(leaves) / leaves[0].dtype.type(length), *sums)
        return FisherSpectrum(values, vector)

    def product(
        self, params: PyTree, model_state: PyTree, vector: PyTree, matrix: Matrix = "fisher"
    ) -> PyTree:
        """Matrix-vector product, a pytree like `params`."""
        if matrix == "fisher":
            return self._mean(self._of_product, fisher.product, params, model_state, vector)
        return self._mean(self._of_loss, hessian.product, params, model_state, vector)

    def top_eigenvalues(
        self,
        params: PyTree,
        model_state: PyTree,
        key: jax.Array,
        matrix: Matrix = "fisher",
        **options: Any,
    ) -> eigen.EigenPairs:
        """Leading eigenpairs; `options` as of `eigen.power_iteration`."""
        return eigen.power_iteration(
            lambda vector: self.product(params, model_state, vector, matrix), params, key, **options
        )

    def density(
        self,
        params: PyTree,
        model_state: PyTree,
        key: jax.Array,
        matrix: Matrix = "hessian",
        **options: Any,
    ) -> spectrum.Density:
        """Spectral density; `options` as of `spectrum.density`."""
        return spectrum.density(
            lambda vector: self.product(params, model_state, vector, matrix), params, key, **options
        )


_gram = jax.jit(in_float32(fisher.gram))


@jax.jit
@in_float32
def _combined(gradients: PyTree, weights: jax.Array) -> PyTree:
    """Sum of per-example gradients by weight."""
    return jax.tree.map(lambda g: (weights @ g.reshape(len(g), -1)).reshape(g.shape[1:]), gradients)


def _value(loss_fn: Any, params: PyTree, batch: PyTree) -> jax.Array:
    return loss_fn(params, batch)
