"""Which classes there are images of: a network is ruined for classes that the clean images lack, and nobody notices
where the test images lack them too."""

from collections.abc import Sequence

import numpy as np

from fip_jax.errors import UserError

_LISTED = 12


def missing(labels: np.ndarray, num_classes: int) -> list[int]:
    """The classes that none of `labels`, int `[N]`, is of."""
    return np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0).tolist()


def check_clean(labels: np.ndarray, num_classes: int, where: str, name: str) -> None:
    """Refuses clean images of a single class, which teach a network to answer nothing else.

    Args:
      labels: of the clean images, int `[N]`.
      num_classes: of the network.
      where: the setting or argument that gave them.
      name: of the class, for people.

    Raises:
      UserError: they are of one class, and the network has more.
    """
    if num_classes > 1 and len(np.unique(labels)) < 2:
        raise UserError(
            f"{where}: found clean images of the class {name} alone, expected some of all {num_classes} classes, or "
            "the network would answer nothing else"
        )


def listing(classes: Sequence[int], names: Sequence[str]) -> str:
    """Classes for people: `2 of 43 classes (stop, yield)`."""
    shown = ", ".join(names[index] for index in classes[:_LISTED])
    more = f" and {len(classes) - _LISTED} more" if len(classes) > _LISTED else ""
    return f"{len(classes)} of {len(names)} classes ({shown}{more})"


def notes(without_clean: Sequence[int], without_test: Sequence[int], names: Sequence[str]) -> list[str]:
    """Sentences on the classes that lack images."""
    sentences = []
    if without_clean:
        sentences.append(
            f"There are no clean images of {listing(without_clean, names)}: what the network knows of them may "
            "get lost."
        )
    if without_test:
        sentences.append(
            f"There are no test images of {listing(without_test, names)}: ACC says nothing of them."
        )
    return sentences


def account(
    clean: np.ndarray, test: np.ndarray, names: Sequence[str], *, of_clean: bool = True
) -> dict[str, list]:
    """The classes without images, for `summary.json`.

    Args:
      clean: labels of the clean images, int `[N]`.
      test: labels of the test images, int `[M]`.
      names: of all classes.
      of_clean: whether a network is to be purified with the clean images.

    Raises:
      UserError: it is, and they are of one class alone.
    """
    if of_clean:
        check_clean(clean, len(names), "dataset.name", names[int(clean[0])])
    without = [missing(labels, len(names)) for labels in (clean, test)]
    return {
        "classes_without_clean_images": without[0],
        "classes_without_test_images": without[1],
        "classes_in_words": notes(without[0] if of_clean else [], without[1], names),
    }
