"""The families of networks against torchvision, timm and others: their answers, as `record_published.py` kept them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.interop.recognise import recognise
from fip_jax.interop.state_dict import from_torch
from fip_jax.models import abstract_model
from fip_jax.network import split_module

FILE = Path(__file__).with_name("published.json")
PUBLISHED = json.loads(FILE.read_text())


def drawn(shapes):
    """As in `record_published.py`, which needs torchvision to be imported."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in shapes.items():
        if len(shape) > 1 and "layer_scale" not in name:
            found[name] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("bias", "running_mean")):
            found[name] = rng.standard_normal(shape) * 0.3
        else:
            found[name] = rng.uniform(0.5, 1.5, shape)
    return {name: array.astype(np.float32) for name, array in found.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_those_of_the_libraries(name):
    case = PUBLISHED[name]
    shapes = {key: tuple(shape) for key, shape in case["shapes"].items()}
    known, options, names = recognise(shapes, case["size"])
    num_classes = options.pop("num_classes")
    assert num_classes == 7
    assert len(names) == len(shapes)
    network, *trees = split_module(abstract_model(known, num_classes, case["size"], **options))
    arrays = drawn(shapes)
    params, model_state = from_torch({our: arrays[key] for our, key in names.items()}, *trees)
    images = jnp.asarray(np.random.default_rng(1).random((4, case["size"], case["size"], 3), np.float32))

    @jax.jit
    def apply(params, model_state, images):
        return (
            network(params, model_state, images)[0],
            network(params, model_state, images, batch_statistics=True)[0],
        )

    for found, expected in zip(
        apply(params, model_state, images), (case["eval"], case["batch"]), strict=True
    ):
        expected = np.array(expected)
        scale = max(1.0, np.abs(expected).max())
        assert np.ptp(expected, axis=0).max() > 1e-3 * scale  # it depends on the images
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4 * scale)
