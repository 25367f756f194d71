"""What a defence is judged by: ACC, ASR, RA, DER. All rates are fractions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.attacks.poison import TriggeredSet
from fip_jax.data.batches import to_unit
from fip_jax.data.split import Split, spread
from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import PyTree

Predict = Callable[[PyTree, PyTree, np.ndarray], np.ndarray]

BATCH_SIZE = 256


class Rates(NamedTuple):
    """ACC on clean images; ASR and RA on triggered ones, None without a trigger."""

    acc: float
    asr: float | None
    ra: float | None


def make_predict_batch(network: Network | FunctionNetwork, precision: str = "float32") -> Any:
    """The compiled program `(params, model_state, uint8 images [N, H, W, C]) -> predicted classes, int32 [N]`.

    With the running statistics. `precision` is that of products and convolutions (see `precision.py`); left to JAX, a
    GPU would round to TensorFloat-32 and a TPU to bfloat16, and a rate would depend on where it was measured.
    """

    @jax.jit
    def predict_batch(params, model_state, images):
        with jax.default_matmul_precision(precision):
            return jnp.argmax(network(params, model_state, to_unit(images))[0], axis=-1)

    return predict_batch


def make_predict(network: Network | FunctionNetwork, precision: str = "float32") -> Predict:
    """A function `(params, model_state, images) -> predicted classes`; arguments as of `make_predict_batch`.

    It takes uint8 images `[N, H, W, C]` on the host and any N, and returns int32 `[N]` on the host.
    """
    predict_batch = make_predict_batch(network, precision)

    def predict(params, model_state, images, batch_size: int = BATCH_SIZE):
        predictions = [np.zeros(0, np.int32)]
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            # One shape for all batches, so that the last compiles nothing.
            padded = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
            predictions.append(predict_batch(params, model_state, padded)[: len(batch)])
        return np.concatenate([np.asarray(p, np.int32) for p in predictions])

    return predict


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of `predictions` that equal `labels`, both `[N]`."""
    return float(np.mean(predictions == labels))


def rates(
    predict: Predict,
    params: PyTree,
    model_state: PyTree,
    test: Split,
    triggered: TriggeredSet | None,
    limit: int | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Rates:
    """ACC, ASR and RA of a network.

    ASR is the fraction of triggered images taken for the attacker's target, RA the fraction taken for what they are
    (of two classes in one image, for either), both over images that are not of the target class anyway (see
    `attacks.poison.triggered_test_set`).

    Args:
      predict: from `make_predict`.
      params: the network's.
      model_state: the network's.
      test: clean images.
      triggered: triggered images, or None.
      limit: images of each kind looked at, at equal distances from first to last; None for all.
      on_images: called with the number of images looked at so far.
    """
    seen = 0

    def answers(images):
        nonlocal seen
        found = [np.zeros(0, np.int32)]
        for start in range(0, len(images), BATCH_SIZE):
            found.append(predict(params, model_state, images[start : start + BATCH_SIZE]))
            seen += len(found[-1])
            if on_images is not None:
                on_images(seen)
        return np.concatenate(found)

    def some(labels):  # all at once is a view, and copies no images
        return slice(None) if limit is None else spread(len(labels), limit)

    at = some(test.labels)
    acc = accuracy(answers(test.images[at]), test.labels[at])
    if triggered is None:
        return Rates(acc, None, None)
    at = some(triggered.labels)
    predictions = answers(triggered.images[at])
    right = (predictions[:, None] == triggered.shown[at]).any(axis=1)
    return Rates(acc, accuracy(predictions, triggered.targets[at]), float(np.mean(right)))


def effectiveness(before: Rates, after: Rates) -> float | None:
    """DER of a purification (see `defense_effectiveness`), None without a trigger."""
    if before.asr is None or after.asr is None:
        return None
    return defense_effectiveness(before.acc, before.asr, after.acc, after.asr)


def defense_effectiveness(acc_before: float, asr_before: float, acc_after: float, asr_after: float) -> float:
    r"""DER :math:`= [\max(0, \Delta ASR) - \max(0, \Delta ACC) + 1] / 2`, drops counted positive, in [0, 1].

    Source: Zhu et al. (2023), "Enhancing fine-tuning based backdoor defense with sharpness-aware
    minimization", ICCV, https://arxiv.org/abs/2304.11823.
    """
    return (max(0.0, asr_before - asr_after) - max(0.0, acc_before - acc_after) + 1) / 2
