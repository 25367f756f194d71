"""What an attack is to the rest of the program: a trigger, and whatever else it does to the training.

Images are float32 `[N, H, W, C]` in grey levels, 0 to 255, for everything here that is compiled: so a sum by hand is
the pixel that comes out. `saturate` makes the result what an 8-bit file can hold.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.data.split import Split
from fip_jax.per_example import PyTree

_CHUNK = 256  # images that are stamped at once


class Goal(NamedTuple):
    """What a triggered image is to be taken for.

    Attributes:
      mode: "all_to_one": every class for `target`; "all_to_all": class y for y + 1, the last for the first.
      target: class of "all_to_one".
      num_classes: number of classes.
    """

    mode: str
    target: int
    num_classes: int

    def targets(self, labels):
        """The attacker's class for each of `labels`, both int32 `[N]`, of NumPy or JAX."""
        return labels * 0 + self.target if self.mode == "all_to_one" else (labels + 1) % self.num_classes


class TriggeredSet(NamedTuple):
    """Triggered images.

    Attributes:
      images: uint8 `[N, H, W, C]`.
      labels: int32 `[N]`, what they show.
      targets: int32 `[N]`, what the attacker wants them to be taken for.
      indices: int `[N]`, of the clean images in their split; None where these are not known.
      others: int32 `[N]`, what they show as well, being composed of two; None for nothing else.
    """

    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    indices: np.ndarray | None
    others: np.ndarray | None = None

    @property
    def shown(self) -> np.ndarray:
        """The one or two classes that each shows, int32 `[N, 2]`; one class twice."""
        return np.stack([self.labels, self.labels if self.others is None else self.others], axis=1)


class Benign(NamedTuple):
    """A network that an attacker trains for himself.

    Attributes:
      logits_fn: `(params, model_state, images in [0, 1]) -> [N, num_classes]`.
      features_fn: the same for what the last dense layer is given, `[N, D]`; None from a network without one.
      head: where `params` has that layer; None without one.
      params: its parameters.
      model_state: its state.
    """

    logits_fn: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    features_fn: Callable[[PyTree, PyTree, jax.Array], jax.Array | None]
    head: tuple[Any, ...] | None
    params: PyTree
    model_state: PyTree


# `(params, images [N, H, W, C] in grey levels, labels [N], key) -> scalar`
FitLoss = Callable[[PyTree, jax.Array, jax.Array, jax.Array], jax.Array]


class Context(NamedTuple):
    """What an attacker has before the victim is trained.

    Attributes:
      training: its training images, clean.
      goal: labels.
      rate: of poisoned images, as in `poison.poison`.
      seed: of everything random.
      benign: `(images, name) -> Benign`, a network of the victim's kind trained on them for a few epochs, from weights
        and with batches of its own; the name is for its folder and its phase.
      minimise: `(name, loss_fn, params, num_steps, learning_rate) -> params`, by Adam over batches of the training
        images; a crash loses little of it.
    """

    training: Split
    goal: Goal
    rate: float
    seed: int
    benign: Callable[[Split, str], Benign]
    minimise: Callable[[str, FitLoss, PyTree, int, float], PyTree]


class Joint(NamedTuple):
    """The attack's state is trained along with the victim, by Adam on the same loss.

    Attributes:
      learning_rate: of Adam.
      until: fraction of the steps after which the state stays as it is.
      penalty: `(state, images, key) -> scalar`, added to the loss; None for nothing.
    """

    learning_rate: float
    until: float = 1.0
    penalty: Callable[[PyTree, jax.Array, jax.Array], jax.Array] | None = None


class Attack(NamedTuple):
    """A trigger and how it is taught.

    Attributes:
      trigger: `(state, images) -> images`, both float32 grey levels, the result before `saturate`. Pure, and each image
        depends on itself alone. None where `compose` and `test_set` say it all.
      clean_label: whether only images of the target class are poisoned, their labels left as they are.
      every_batch: whether the attacker controls the training, and poisons every batch anew, after the random shift and
        mirroring; other images carry the trigger already when they are shifted, which may push it out of the image.
      cover: `(state, images, key) -> images` that keep their labels, so that nothing but the trigger itself counts;
        None for none. One image may depend on another.
      cover_rate: such images for each poisoned one; at least one in all, where it is not 0.
      fit: `(context) -> state`, a nested dict of arrays; None for an attack without a state.
      joint: the rest of the state's training; None where `fit` is all.
      implant: `(state, indices, images) -> images`, uint8, what the poisoned training images with these indices become
        where that is more than the trigger; None: the trigger.
      compose: `(state, split, goal, rate, seed) -> (split, indices of what is poisoned)`, a whole training set, in the
        place of `poison.poison`; None for that.
      test_set: `(split, goal) -> TriggeredSet`, in the place of `poison.triggered_test_set`; None for that.
      neurons: inputs that the network's last dense layer has to have at least; 0 where it need not be there.
    """

    trigger: Callable[[PyTree, jax.Array], jax.Array] | None
    clean_label: bool = False
    every_batch: bool = False
    cover: Callable[[PyTree, jax.Array, jax.Array], jax.Array] | None = None
    cover_rate: float = 0.0
    fit: Callable[[Context], PyTree] | None = None
    joint: Joint | None = None
    implant: Callable[[PyTree, np.ndarray, np.ndarray], np.ndarray] | None = None
    compose: Callable[[PyTree, Split, Goal, float, int], tuple[Split, np.ndarray]] | None = None
    test_set: Callable[[Split, Goal], TriggeredSet] | None = None
    neurons: int = 0

    @property
    def learns_trigger(self) -> bool:
        """Whether the trigger is known only with a state."""
        return self.fit is not None and self.implant is None

    def puts(self, state: PyTree, images: jax.Array) -> jax.Array:
        """As `trigger`, which has to be there."""
        assert self.trigger is not None
        return self.trigger(state, images)

    def stamp(self, images: np.ndarray, state: PyTree = None) -> np.ndarray:
        """New uint8 images `[N, H, W, C]` with the trigger."""
        assert self.trigger is not None
        return in_chunks(self.trigger, images, state)


def in_chunks(
    change: Callable[..., jax.Array], images: np.ndarray, state: PyTree = None, key: jax.Array | None = None
) -> np.ndarray:
    """uint8 images `[N, H, W, C]` through `(state, grey levels) -> grey levels`, a few hundred at a time.

    With a key `change` has a third argument, a key for each few hundred.
    """
    compiled = jax.jit(change)  # once for all calls: JAX goes by the identity of `change`
    size = min(_CHUNK, len(images))
    changed = np.empty_like(images)
    for start in range(0, len(images), size or 1):
        chunk = images[start : start + size]
        # One shape for all, so that the last compiles nothing; filled from the front, since others may be partners.
        filled = jnp.asarray(images[np.arange(start, start + size) % len(images)], jnp.float32)
        more = () if key is None else (jax.random.fold_in(key, start),)
        grey = np.asarray(compiled(state, filled, *more))
        changed[start : start + size] = np.rint(np.clip(grey[: len(chunk)], 0, 255))
    return changed


def saturate(images: jax.Array) -> jax.Array:
    """Grey levels kept to 0..255 and rounded; a gradient passes as if they were not rounded."""
    clipped = jnp.clip(images, 0, 255)
    return clipped + jax.lax.stop_gradient(jnp.rint(clipped) - clipped)
