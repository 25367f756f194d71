"""Numbers that no training ends in are the file's fault, and not that of a learning rate."""

import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.errors import UserError
from fip_jax.network import FunctionNetwork
from fip_jax.plausible import check_answers, check_numbers

GOOD = (
    {"conv": {"kernel": jnp.ones((2, 2))}},
    {"norm": {"mean": jnp.asarray([-3.0]), "var": jnp.asarray([0.0])}},
)
IMAGES = np.full((3, 8, 8, 3), 255, np.uint8)


def test_what_is_plausible():
    check_numbers("f", *GOOD)
    check_numbers("f", {"kernel": jnp.asarray([1e15, -1e15])}, {})
    check_numbers("f", [jnp.ones(2)], {})
    check_numbers("f", {"empty": jnp.ones((0, 2)), "half": jnp.ones(2, jnp.bfloat16)}, {})


@pytest.mark.parametrize(
    ("params", "state", "part"),
    [
        (
            {"conv": {"kernel": jnp.asarray([[1e19]])}},
            {},
            "numbers up to 1e\\+19 in conv.kernel, expected weights up to 1e",
        ),
        ({"conv": {"kernel": jnp.asarray([-2e15])}}, {}, "conv.kernel"),
        ({"conv": {"kernel": jnp.asarray([jnp.nan])}}, {}, "conv.kernel"),
        (
            {},
            {"norm": {"var": jnp.asarray([1.0, -0.5])}},
            "a running variance of -0.5 in norm.var, expected none below 0",
        ),
        ({}, {"norm": {"mean": jnp.asarray([jnp.inf])}}, "norm.mean"),
    ],
)
def test_what_is_not(params, state, part):
    with pytest.raises(
        UserError, match=f"^the file: found {part}" if "found" not in part and " " in part else part
    ):
        check_numbers("the file", params, state)


def test_answers_are_looked_at_before_anything_is_changed():
    network = FunctionNetwork(lambda params, images: images.reshape(len(images), -1)[:, :2] * params["w"])
    check_answers("f", network, {"w": jnp.asarray(1e30)}, {}, IMAGES)
    with pytest.raises(
        UserError, match=r"^f: found answers to clean images that are not finite before anything"
    ):
        check_answers("f", network, {"w": jnp.asarray(jnp.inf)}, {}, IMAGES)
