"""How far weights moved, by hand."""

import jax.numpy as jnp
import pytest

from fip_jax.change import change


def test_change_by_hand():
    before = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([[4.0]])}  # norm 5
    after = {"a": jnp.asarray([3.0, 0.5]), "b": jnp.asarray([[4.0]])}
    assert change(before, after) == pytest.approx({"relative_change": 0.1, "norm_ratio": (25.25**0.5) / 5})
    assert change(before, before) == {"relative_change": 0.0, "norm_ratio": 1.0}
