"""What a defence is judged by: ACC, ASR, RA, DER. All rates are fractions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.data.batches import to_unit
from fip_jax.network import Network


def make_predict(network: Network) -> Callable[..., np.ndarray]:
    """A function `(params, model_state, images) -> predicted classes`, with the running statistics.

    It takes uint8 images `[N, H, W, C]` on the host and any N, and returns int32 `[N]` on the host.
    """

    @jax.jit
    def predict_batch(params, model_state, images):
        return jnp.argmax(network(params, model_state, to_unit(images))[0], axis=-1)

    def predict(params, model_state, images, batch_size: int = 256):
        predictions = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            # One shape for all batches, so that the last compiles nothing.
            padded = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
            predictions.append(predict_batch(params, model_state, padded)[: len(batch)])
        return np.concatenate([np.asarray(p, np.int32) for p in predictions])

    return predict


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of `predictions` that equal `labels`, both `[N]`: ACC on clean images, RA on triggered ones."""
    return float(np.mean(predictions == labels))


def attack_success_rate(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Fraction of predictions on triggered images that equal the attacker's targets, both `[N]`: ASR.

    The caller leaves out images whose true label is the target already (see `attacks.triggered_test_set`).
    """
    return accuracy(predictions, targets)


def defense_effectiveness(acc_before: float, asr_before: float, acc_after: float, asr_after: float) -> float:
    r"""DER :math:`= [\max(0, \Delta ASR) - \max(0, \Delta ACC) + 1] / 2`, drops counted positive, in [0, 1].

    Source: Zhu et al. (2023), "Enhancing fine-tuning based backdoor defense with sharpness-aware
    minimization", ICCV, https://arxiv.org/abs/2304.11823.
    """
    return (max(0.0, asr_before - asr_after) - max(0.0, acc_before - acc_after) + 1) / 2
