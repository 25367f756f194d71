"""What a data set is to the rest of the program: arrays in memory."""

import hashlib
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Images uint8 `[N, H, W, 3]`, labels int32 `[N]`, tracks int32 `[N]` or None, and where they were taken from.

    Images of one track show one object and belong on one side of every split; below 0, the track is not known.
    `origin`, int64 `[N]`, are the indices in the split that these were taken from first; None of what is whole.
    """

    images: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray | None = None
    origin: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray:
        """`origin`, where it is there, or the numbers from 0; int64 `[N]`."""
        return np.arange(len(self.labels)) if self.origin is None else self.origin

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at `indices`."""
        tracks = None if self.tracks is None else self.tracks[indices]
        return Split(self.images[indices], self.labels[indices], tracks, self.places[indices])

    def spread(self, count: int) -> "Split":
        """`count` examples at equal distances from first to last, or all where there are fewer."""
        return self.take(spread(len(self.labels), count))


def spread(total: int, count: int) -> np.ndarray:
    """`count` indices at equal distances from 0 to `total` - 1, or all where there are fewer; int64."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def digest(*splits: Split) -> str:
    """SHA-256 of all images and labels, in hexadecimal digits."""
    found = hashlib.sha256()
    for split in splits:
        for array in (split.images, split.labels):
            found.update(repr((array.shape, str(array.dtype))).encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class DataSet(NamedTuple):
    """The splits of a data set, None where it has none, and the names of the classes.

    Attributes:
      train: images to train a network on, out of which clean ones can be held out.
      test: test images.
      class_names: names of the classes.
      clean: images that are the defender's as a whole.
      own: whether these are a user's own images, of which some classes may have none.
      unlabeled: images uint8 `[M, H, W, 3]` of the defender's whose classes are not known.
    """

    train: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    clean: Split | None = None
    own: bool = False
    unlabeled: np.ndarray | None = None
