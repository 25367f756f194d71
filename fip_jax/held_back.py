"""What the clean images that a purification held back say of it: the defender's own measure of harm."""

from typing import NamedTuple

import numpy as np

from fip_jax.data.split import Split
from fip_jax.evaluate import accuracy, make_predict
from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import PyTree


class Held(NamedTuple):
    """ACC on the images held back, and the fraction of them that get the suspicious network's answer."""

    held_acc: float
    held_agreement: float


class HeldBack:
    """Images that were held back, with what the suspicious network says of them.

    Args:
      network: the network.
      params: the suspicious ones.
      model_state: the suspicious network's BatchNorm statistics.
      images: those held back.
    """

    def __init__(
        self, network: Network | FunctionNetwork, params: PyTree, model_state: PyTree, images: Split
    ):
        self._predict, self._images = make_predict(network), images
        self._suspicious = self._answers(params, model_state)

    def __call__(self, params: PyTree, model_state: PyTree) -> Held:
        """What the network with these weights says of them."""
        answers = self._answers(params, model_state)
        return Held(accuracy(answers, self._images.labels), accuracy(answers, self._suspicious))

    def _answers(self, params: PyTree, model_state: PyTree) -> np.ndarray:
        return self._predict(params, model_state, self._images.images)
