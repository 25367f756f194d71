"""The few clean images of the defender, held out from the victim's training."""

import numpy as np

from fip_jax.data.split import Split
from fip_jax.errors import UserError


def hold_out(
    split: Split, num_classes: int, fraction: float, max_per_track: int, seed: int, own: bool = False
) -> tuple[Split, Split]:
    """Splits training images into (the victim's, the defender's clean ones), or test images in the same way.

    The defender gets this fraction of each class. No track is on both sides: a track that gives a clean image
    gives no image to the victim. Images of unknown track count as a track each. With the same seed a smaller
    fraction gives a part of the clean images of a larger one.

    Args:
      split: the images.
      num_classes: number of classes.
      fraction: clean images as a fraction of all, in (0, 1).
      max_per_track: clean images taken from one track. Fewer give a more varied clean set and cost the victim
        more of its tracks.
      seed: of the choice.
      own: whether a class may have no images at all.

    Raises:
      UserError: a class would come out empty on one side.
    """
    tracks = _tracks(split)
    clean, given = [], np.zeros(len(split.labels), bool)
    for label in range(num_classes):
        members = np.flatnonzero(split.labels == label)
        if not len(members) and own:
            continue
        quota = int(fraction * len(members) + 0.5)
        if not quota:
            raise UserError(
                f"clean.fraction: {fraction:g} gives no clean image of class {label} ({len(members)} "
                f"images), expected a larger fraction"
            )
        rng = np.random.default_rng([seed, 1, label])
        for track in rng.permutation(np.unique(tracks[members])):
            frames = members[tracks[members] == track]
            order = np.random.default_rng([seed, 1, label, int(track)]).permutation(frames)
            chosen = order[: min(quota, max_per_track)]
            clean.append(chosen)
            given[tracks == track] = True
            quota -= len(chosen)
            if not quota:
                break
        if quota or given[members].all():
            raise UserError(
                f"clean.fraction: {fraction:g} takes every track of class {label} ({len(members)} "
                f"images), expected a smaller fraction"
            )
    return split.take(np.flatnonzero(~given)), split.take(np.sort(np.concatenate(clean)))


def _tracks(split: Split) -> np.ndarray:
    """The track of each image, one of its own where it is not known."""
    own = np.arange(len(split.labels))
    if split.tracks is None:
        return own
    return np.where(split.tracks < 0, own + 1 + split.tracks.max(initial=0), split.tracks)


def keep_back(clean: Split, fraction: float, seed: int, key: str = "dataset.name") -> tuple[Split, Split]:
    """Splits clean images into (what purification gets, what it is measured with).

    Args:
      clean: the defender's images.
      fraction: of each class that is kept back, in (0, 1): to the nearest, at least one image of a class that has two
        or more, and never all of them.
      seed: of the choice.
      key: the setting to name where it cannot be done.

    Raises:
      UserError: no class has two images.
    """
    kept = np.zeros(len(clean.labels), bool)
    for label in np.unique(clean.labels):
        members = np.flatnonzero(clean.labels == label)
        count = min(max(1, int(fraction * len(members) + 0.5)), len(members) - 1)
        order = np.random.default_rng([seed, 2, int(label)]).permutation(members)
        kept[order[:count]] = True
    if not kept.any():
        raise UserError(
            f"{key}: found one clean image of each class, expected more, so that some can be kept back"
        )
    return clean.take(np.flatnonzero(~kept)), clean.take(np.flatnonzero(kept))
