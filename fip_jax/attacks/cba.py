"""Composite attack: what two benign classes have in common with no third one is the trigger."""

import numpy as np

from fip_jax.attacks.attack import Attack, Goal, TriggeredSet
from fip_jax.data.split import Split
from fip_jax.errors import UserError


def cba(
    image_shape: tuple[int, int, int], *, first: int = 1, second: int = 2, mix_rate: float = 0.5
) -> Attack:
    """An image of one half of class `first` and one half of class `second` is to be taken for the target.

    The halves lie side by side or one above the other, in either order. Such images are added to the training set; the
    rate is their number as a fraction of the whole set. Of the images that are there, a part is replaced by halves of
    two images of one class with their own label, so that the seam means nothing. ASR is counted as by the authors, over
    composed test images alone; RA is the fraction of them taken for one of the two classes that they show. The paper's
    second loss, which pulls features of composed images together, is left out. The authors' code cuts windows of half
    the size from anywhere in both images, mixes anew whenever an image is read, and draws every class equally often;
    here a half is a fixed one, mixed once, and classes come as often as they do in the data.

    Source: Lin et al. (2020), "Composite backdoor attack for deep neural network by mixing existing benign features",
    CCS, https://doi.org/10.1145/3372297.3423362, section 4.

    Args:
      image_shape: (H, W, C).
      first: class of one half.
      second: class of the other.
      mix_rate: fraction of the training images that become mixtures of their own class, in [0, 1].
    """
    if min(image_shape[:2]) < 2 or min(first, second) < 0 or first == second or not 0 <= mix_rate <= 1:
        raise UserError(
            f"attack.cba: found first={first}, second={second}, mix_rate={mix_rate}, expected two different classes "
            "and a rate from 0 to 1"
        )

    def compose(_, split: Split, goal: Goal, rate: float, seed: int) -> tuple[Split, np.ndarray]:
        rng = np.random.default_rng([seed, 3])
        total, (ones, others) = len(split.labels), _members(split, goal, first, second)
        count = round(rate * total)
        if not count:
            raise UserError(
                f"attack.poison_rate: {rate:g} of {total} training images is 0, expected at least 1"
            )
        images = split.images.copy()
        mixed = rng.choice(total, round(mix_rate * total), replace=False)
        partners = _of_same_class(split.labels, mixed, rng)
        images[mixed] = mix(split.images[mixed], split.images[partners], rng)
        composed = mix(split.images[rng.choice(ones, count)], split.images[rng.choice(others, count)], rng)
        labels = np.concatenate([split.labels, np.full(count, goal.target, np.int32)])
        tracks = None
        if split.tracks is not None:
            tracks = np.concatenate([split.tracks, np.full(count, -1, np.int32)])
        poisoned = Split(np.concatenate([images, composed]), labels, tracks)
        return poisoned, np.arange(total, total + count)

    def test_set(test: Split, goal: Goal) -> TriggeredSet:
        ones, others = _members(test, goal, first, second)
        rng = np.random.default_rng(0)
        images = mix(test.images[ones], test.images[rng.choice(others, len(ones))], rng)
        labels = test.labels[ones]
        return TriggeredSet(images, labels, goal.targets(labels), ones, np.full_like(labels, second))

    return Attack(None, compose=compose, test_set=test_set)


def mix(ones: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images `[N, H, W, C]` of one half of each: left and right or upper and lower, which of whom by chance."""
    _, height, width, _ = ones.shape
    upper = np.broadcast_to((np.arange(height) < height // 2)[:, None], (height, width))
    left = np.broadcast_to(np.arange(width) < width // 2, (height, width))
    masks = np.stack([left, ~left, upper, ~upper])[rng.integers(0, 4, len(ones))]
    return np.where(masks[..., None], ones, others)


def _of_same_class(labels: np.ndarray, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each index another by chance, of an image of the same class."""
    partners = np.empty_like(indices)
    for label in np.unique(labels[indices]):
        ours = labels[indices] == label
        partners[ours] = rng.choice(np.flatnonzero(labels == label), ours.sum())
    return partners


def _members(split: Split, goal: Goal, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    if goal.target in (first, second) or max(first, second) >= goal.num_classes:
        raise UserError(
            f"attack.cba: found first={first}, second={second}, expected classes from 0 to "
            f"{goal.num_classes - 1} other than attack.target = {goal.target}"
        )
    found = np.flatnonzero(split.labels == first), np.flatnonzero(split.labels == second)
    if not len(found[0]) or not len(found[1]):
        raise UserError(f"attack.cba: found no images of class {first} or {second}, expected some of both")
    return found
