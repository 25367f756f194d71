"""Classes without images are named; clean images of one class alone are refused."""

import numpy as np
import pytest

from fip_jax.data import coverage
from fip_jax.errors import UserError

NAMES = tuple("abcd")


def test_missing():
    assert coverage.missing(np.array([1, 1, 3], np.int32), 4) == [0, 2]
    assert coverage.missing(np.arange(4), 4) == []


def test_one_class_alone():
    with pytest.raises(
        UserError, match=r"^dataset.name: found clean images of the class b alone, expected .* all 4"
    ):
        coverage.check_clean(np.array([1, 1]), 4, "dataset.name", "b")
    coverage.check_clean(np.array([1, 2]), 4, "dataset.name", "b")
    coverage.check_clean(np.array([0]), 1, "dataset.name", "a")


def test_sentences():
    assert coverage.notes([], [], NAMES) == []
    clean, test = coverage.notes([0, 2], [3], NAMES)
    assert clean.startswith("There are no clean images of 2 of 4 classes (a, c): ")
    assert test == "There are no test images of 1 of 4 classes (d): ACC says nothing of them."
    assert coverage.listing(range(14), ["x"] * 20).endswith("x, x and 2 more)")
