"""The bridge from a Flax NNX module to pure functions over plain pytrees; only this file crosses it."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fip_jax.objective import Objective
from fip_jax.per_example import PyTree


class Frozen(nnx.Variable):
    """A weight that is not trained.

    It travels with the BatchNorm statistics: as an argument of every compiled function, never as a constant in one.
    """


# Of red, green and blue, ITU-R BT.601: what Pillow makes a grey image of. They sum to 1.
_LUMINANCE = (0.299, 0.587, 0.114)

Path = tuple[Any, ...]  # of a module in another: attributes and indices
_CARRIED = nnx.Any(nnx.BatchStat, Frozen)

# Arguments by which the call of somebody's module is told that it is trained, and that it is not.
_TRAINED = ("train", "training", "is_training")
_NOT_TRAINED = ("deterministic", "use_running_average", "inference", "eval")


def arguments_of(call: Callable[..., Any], trained: bool, rngs: Any = None) -> dict[str, Any]:
    """The arguments of a module's call besides its input, of those that its signature names."""
    values = dict.fromkeys(_TRAINED, trained) | dict.fromkeys(_NOT_TRAINED, not trained) | {"rngs": rngs}
    names = inspect.signature(call).parameters
    return {name: value for name, value in values.items() if name in names}


class Network(NamedTuple):
    """A network without its weights.

    Attributes:
      graphdef: the module's structure.
      rest: its variables that are neither parameters nor BatchNorm statistics nor frozen.
      mean: per channel, subtracted from images in [0, 1].
      std: per channel, divides what is left.
      convolve: the convolution, with the signature of `jax.lax.conv_general_dilated`.
      grey: whether the module takes images of one channel: the luminance of those of three.
      axis: of the devices over whose shares together BatchNorm takes the statistics of a batch (see `parallel`).
    """

    graphdef: Any
    rest: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    convolve: Callable[..., jax.Array] = jax.lax.conv_general_dilated
    grey: bool = False
    axis: str | None = None

    def with_axis(self, axis: str | None) -> "Network":
        """The same network for batches that are spread over several devices."""
        return self._replace(axis=axis)

    def with_convolution(self, convolve: Callable[..., jax.Array]) -> "Network":
        """The same network with another implementation of the convolution."""
        return self._replace(convolve=convolve)

    def __call__(
        self,
        params: PyTree,
        model_state: PyTree,
        images: jax.Array,
        *,
        batch_statistics: bool = False,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, PyTree]:
        """Logits of images.

        Args:
          params: nested dict of the parameters.
          model_state: nested dict of the BatchNorm statistics, and of frozen weights.
          images: `[N, H, W, C]`, floating point in [0, 1], not yet normalised.
          batch_statistics: normalise by the batch and update the running statistics; otherwise use these.
          dropout_key: key of the dropout masks; None switches dropout off.

        Returns:
          (logits `[N, num_classes]`, model state).
        """
        module = self._module(params, model_state, batch_statistics, dropout_key is None)
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        logits = module(self._normalised(images), **arguments_of(module.__call__, batch_statistics, rngs))
        return logits, nnx.to_pure_dict(nnx.state(module, _CARRIED))

    def features(self, params: PyTree, model_state: PyTree, images: jax.Array) -> jax.Array | None:
        """What the last dense layer is given, with the running statistics and without dropout.

        Args:
          params: as above.
          model_state: as above.
          images: as above.

        Returns:
          `[N, D]`, or None for a network without a dense layer (`nnx.Linear`).
        """
        given = self._given_to_dense_layers(params, model_state, images)
        return given[-1][1].reshape(len(images), -1) if given else None

    def head(self, params: PyTree, model_state: PyTree, image_shape: tuple[int, ...]) -> Path | None:
        """Where the module has the dense layer (`nnx.Linear`) that is called last; None without one.

        Args:
          params: as above.
          model_state: as above.
          image_shape: `[H, W, C]`.
        """
        paths: list[Path] = []

        def noting(images: jax.Array) -> None:
            paths.extend(path for path, _ in self._given_to_dense_layers(params, model_state, images))

        dtype = jnp.result_type(*jax.tree.leaves(params))
        jax.eval_shape(noting, jax.ShapeDtypeStruct((1, *image_shape), dtype))
        return paths[-1] if paths else None

    def _given_to_dense_layers(
        self, params: PyTree, model_state: PyTree, images: jax.Array
    ) -> list[tuple[Path, jax.Array]]:
        """The path and the input of every dense layer, in the order of their calls."""
        given: list[tuple[Path, jax.Array]] = []
        module = self._module(params, model_state, False, True)
        for path, part in nnx.iter_modules(module):
            if isinstance(part, nnx.Linear):
                part.dot_general = _noting_inputs(part.dot_general, given, path)
        module(self._normalised(images), **arguments_of(module.__call__, False))
        return given

    def _module(
        self, params: PyTree, model_state: PyTree, batch_statistics: bool, deterministic: bool
    ) -> nnx.Module:
        module = nnx.merge(self.graphdef, params, model_state, self.rest)
        module = nnx.view(
            module,
            use_running_average=not batch_statistics,
            deterministic=deterministic,
            raise_if_not_found=False,
        )
        for _, part in nnx.iter_modules(module):
            if isinstance(part, nnx.Conv):
                part.conv_general_dilated = self.convolve
            elif isinstance(part, nnx.BatchNorm):
                part.axis_name = self.axis
            elif isinstance(part, nnx.Dropout) and deterministic:
                part.rate = 0.0  # the module's own call may say otherwise
        return module

    def _normalised(self, images: jax.Array) -> jax.Array:
        shape = (1, 1, 1, len(self.mean))
        shift = jnp.asarray(self.mean, images.dtype).reshape(shape)
        scale = jnp.asarray(self.std, images.dtype).reshape(shape)
        normalised = (images - shift) / scale
        if not self.grey or images.shape[-1] == 1:
            return normalised
        return normalised @ jnp.asarray(_LUMINANCE, images.dtype)[:, None]


def _noting_inputs(
    dot_general: Callable[..., jax.Array], given: list[tuple[Path, jax.Array]], path: Path
) -> Callable[..., jax.Array]:
    def noting(inputs, *rest, **options):
        given.append((path, inputs))
        return dot_general(inputs, *rest, **options)

    return noting


class FunctionNetwork(NamedTuple):
    """A plain function in the place of a `Network`, without dropout.

    Attributes:
      apply_fn: `(params, images float32 [N, H, W, C] in [0, 1]) -> logits [N, num_classes]`; or, if `stateful`,
        `(params, model_state, images, trained) -> (logits, model_state)`, where a BatchNorm normalises by the batch and
        moves its statistics while `trained` is True.
      stateful: whether there is a state.
    """

    apply_fn: Callable[..., Any]
    stateful: bool = False

    def with_axis(self, axis: str | None) -> "FunctionNetwork":
        """Itself: it takes no statistics of a batch."""
        return self

    def with_convolution(self, convolve: Callable[..., jax.Array]) -> "FunctionNetwork":
        """Itself: the function brings its own convolutions."""
        return self

    def __call__(
        self,
        params: PyTree,
        model_state: PyTree,
        images: jax.Array,
        *,
        batch_statistics: bool = False,
        **_: Any,
    ) -> tuple[jax.Array, PyTree]:
        """As `Network`."""
        if not self.stateful:
            return self.apply_fn(params, images), model_state
        logits, moved = self.apply_fn(params, model_state, images, batch_statistics)
        return logits, moved if batch_statistics else model_state


class RelativeNetwork(NamedTuple):
    """A network with the relative changes u of its weights, theta = centre * (1 + u), in the place of the weights.

    At u = 0 the Fisher matrix in u is diag(theta) F diag(theta). Where a normalisation follows a layer, F grows as its
    weights shrink, though the function stays the same; this one does not.

    Source: Kwon et al. (2021), "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
    Networks", ICML: their operator diag(|theta|).

    Attributes:
      network: the network in its own weights.
    """

    network: Network | FunctionNetwork

    def with_convolution(self, convolve: Callable[..., jax.Array]) -> "RelativeNetwork":
        """The same with another implementation of the convolution."""
        return self._replace(network=self.network.with_convolution(convolve))

    def __call__(
        self, params: PyTree, model_state: PyTree, images: jax.Array, **options: Any
    ) -> tuple[jax.Array, PyTree]:
        """As `Network`, with u as `params` and `{"centre": weights, "model_state": theirs}` as `model_state`."""
        weights = jax.tree.map(lambda centre, u: centre * (1 + u), model_state["centre"], params)
        return self.network(weights, model_state["model_state"], images, **options)

    @staticmethod
    def at(params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
        """(params, model_state) of this at given weights, where u = 0."""
        return jax.tree.map(jnp.zeros_like, params), {"centre": params, "model_state": model_state}


def split_module(
    module: nnx.Module, mean: tuple[float, ...] = (0.0,) * 3, std: tuple[float, ...] = (1.0,) * 3
) -> tuple[Network, PyTree, PyTree]:
    """(network, params, model_state) of a module; `mean` and `std` normalise images in [0, 1]."""
    graphdef, *states = nnx.split(module, nnx.Param, _CARRIED, ...)
    params, carried, rest = states
    return Network(graphdef, rest, mean, std), nnx.to_pure_dict(params), nnx.to_pure_dict(carried)


def make_log_probs_fn(
    network: Network | FunctionNetwork | RelativeNetwork,
) -> Callable[[PyTree, PyTree, PyTree], jax.Array]:
    """`(params, model_state, batch) -> log p(label | image) [N]`, with the running statistics.

    A batch is `{"image": [N, H, W, C] in [0, 1], "label": [N]}`.
    """

    def log_probs_fn(params, model_state, batch):
        logits, _ = network(params, model_state, batch["image"])
        return -optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

    return log_probs_fn


def make_objective(network: Network | FunctionNetwork, *, batch_statistics: bool, dropout: bool) -> Objective:
    """Cross-entropy and log-likelihood of a network, for batches `{"image": [N, H, W, C], "label": [N]}`.

    Args:
      network: from `split_module`.
      batch_statistics: whether the loss normalises by the batch (and moves the running statistics). The
        log-likelihood, and with it everything Fisher, always uses the running statistics.
      dropout: whether the loss drops units.
    """

    def loss_fn(params, model_state, batch, key):
        logits, model_state = network(
            params,
            model_state,
            batch["image"],
            batch_statistics=batch_statistics,
            dropout_key=key if dropout else None,
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), model_state

    def logits_fn(params, model_state, batch):
        return network(params, model_state, batch["image"])[0]

    return Objective(loss_fn, make_log_probs_fn(network), logits_fn)
