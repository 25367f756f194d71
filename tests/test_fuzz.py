"""A small campaign of `benchmarks.fuzz`: mutants are read right or refused in a sentence, and both happen."""

import numpy as np
import pytest

from benchmarks import fuzz


@pytest.mark.parametrize("name", fuzz.INPUTS)
def test_mutants_are_read_or_refused(name, tmp_path):
    found = fuzz.campaign(fuzz.INPUTS[name], 60, 1, tmp_path)
    assert found.keys() == {"read", "refused"}
    assert sum(found.values()) == 60 and min(found.values()) > 0


def test_what_is_neither_is_counted_as_it_is(tmp_path):
    def make(folder):
        folder.mkdir()
        (folder / "file").write_bytes(bytes(50))
        return lambda place: None if place.name == "whole" else 1 / 0

    assert fuzz.campaign(make, 5, 0, tmp_path) == {
        "read": 0,
        "refused": 0,
        "ZeroDivisionError: division by zero": 5,
    }


def test_mutants_differ():
    rng = np.random.default_rng(0)
    assert len({fuzz.mutate(b"0123456789" * 9, rng) for _ in range(50)}) > 40
