"""Features of networks, and where the picture of them puts what belongs together."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from oracles import conv_net, drawn_model

from fip_jax.attacks.attack import TriggeredSet
from fip_jax.data.split import Split
from fip_jax.errors import UserError
from fip_jax.material import Material
from fip_jax.network import split_module
from fip_jax.report import figures, html, representations
from fip_jax.report.representations import (
    STYLES,
    Points,
    choose,
    describe,
    draw,
    embed,
    features_of,
    neighbours,
)
from fip_jax.suspect import Suspect

CLEAN, TARGET, TRIGGERED = STYLES


def material(num=12, targets=None):
    """Images whose pixel values are their numbers, of three classes in turn; the last half also triggered."""
    images = np.arange(num, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 6, 3), np.uint8)
    test = Split(images, (np.arange(num) % 3).astype(np.int32))
    where, triggered = np.arange(num // 2, num), None
    if targets is not None:
        triggered = TriggeredSet(
            images[where] + 100, test.labels[where], np.asarray(targets, np.int32), where
        )
    return Material(None, test, test, triggered, ("a", "b", "c"))


def suspect():
    network, params, model_state, _ = conv_net(dtype=np.float32)
    return Suspect(network, params, model_state, {})


def test_features_are_what_the_last_dense_layer_is_given():
    found = suspect()
    images = material().test.images
    features = features_of(found, images)
    assert features.shape == (12, 4)
    logits, _ = found.network(found.params, found.model_state, jnp.asarray(images / 255, np.float32))
    layer = found.params["linear"]
    np.testing.assert_allclose(features @ layer["kernel"] + layer["bias"][None], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, length",
    [
        ("preact_resnet18", 16),  # channels of the last stage
        ("resnet18", 16),
        ("small_vgg", 8 * 16),  # at 4 x 4 positions
        ("vgg19_bn", 16),
        ("vit_small", 6),  # the class token
        ("wrn_16_1", 64),
    ],
)
def test_every_network_has_features(name, length):
    width = {"wrn_16_1": 16, "vit_small": 6}.get(name, 2)
    network, *trees = split_module(drawn_model(name, 5, 32, width=width))
    images = jax.ShapeDtypeStruct((3, 32, 32, 3), np.float32)
    assert jax.eval_shape(network.features, *trees, images).shape == (3, length)


class NoDense(nnx.Module):
    def __init__(self, *, rngs):
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)

    def __call__(self, x, rngs=None):
        return self.conv(x).mean(axis=(1, 2))


def test_networks_without_features_have_none():
    found = suspect()
    images = material().test.images
    assert features_of(Suspect(*split_module(NoDense(rngs=nnx.Rngs(0))), {}), images) is None
    spoilt = jax.tree.map(lambda leaf: leaf * jnp.nan, found.params)
    assert features_of(found._replace(params=spoilt), images) is None


def test_points_are_spread_and_marked():
    points = choose(material(targets=[1] * 6), 4)
    # Of the test images 0 to 11 those at 0, 4, 7 and 11; of the triggered ones 6 to 11 those at 0, 2, 3 and 5.
    assert points.images[:, 0, 0, 0].tolist() == [0, 4, 7, 11, 106, 108, 109, 111]
    assert points.shown.tolist() == [[label] * 2 for label in (0, 1, 1, 2, 0, 2, 0, 2)]
    assert points.targets.tolist() == [False, True, True, False]
    assert points.kinds.tolist() == [CLEAN, TARGET, TARGET, CLEAN, *[TRIGGERED] * 4]


@pytest.mark.parametrize("targets, num", [(None, 4), ([0, 1, 2, 0, 1, 2], 8)])
def test_no_class_is_marked_where_there_is_not_one_target(targets, num):
    points = choose(material(targets=targets), 4)
    assert len(points.images) == num
    assert TARGET not in points.kinds


def shown(labels):
    return np.array([labels, labels]).T


def test_nearest_clean_images_by_hand():
    kinds = np.array([CLEAN, TARGET, *[TRIGGERED] * 3])
    points = Points(np.zeros((5, 1)), kinds, np.array([False, True]), shown([0, 1, 0, 0, 0]))
    # Clean images at (0, 0) and (10, 0), of classes 0 and 1: two of the three triggered ones are nearer to the second.
    features = np.array([[0, 0], [10, 0], [9, 3], [6, -1], [4, 0]], np.float32)
    assert neighbours(features, points) == (1 / 3, 2 / 3)
    assert neighbours(features[:2], points._replace(images=points.images[:2])) is None
    assert neighbours(features, points._replace(targets=np.array([False, False]))) == (1 / 3, None)
    # The last of the two that lie with class 1 is composed of both.
    both = points._replace(shown=np.array([[0, 0], [1, 1], [0, 0], [0, 1], [0, 0]]))
    assert neighbours(features, both) == (2 / 3, 2 / 3)
    words = describe(points, [features], ("before purification",))
    assert "1 clean, other classes, 1 clean, target class, 3 triggered" in words
    assert "Before purification, the clean image that is nearest to a triggered one" in words
    assert "of its own class for 33.3 % of them, 66.7 % of the target class." in words


def clusters():
    """Two far clusters of twenty points in eight dimensions."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(40, 8)) + 50 * (np.arange(40) < 20)[:, None]).astype(np.float32)


def test_the_plane_keeps_clusters_apart_and_the_seed_fixes_it():
    pytest.importorskip("sklearn", reason="scikit-learn is optional")
    first, again = embed(clusters(), 0), embed(clusters(), 0)
    np.testing.assert_array_equal(first, again)
    centres = first[:20].mean(axis=0), first[20:].mean(axis=0)
    nearer = [np.argmin([np.linalg.norm(point - centre) for centre in centres]) for point in first]
    assert nearer == [0] * 20 + [1] * 20


@pytest.mark.parametrize(
    "features", [np.zeros((9, 4)), np.arange(9.0)[:, None], 1e-30 * np.eye(9), 1e15 * np.eye(9)]
)
def test_odd_features_can_be_embedded(features):
    pytest.importorskip("sklearn", reason="scikit-learn is optional")
    found = embed(features.astype(np.float32), 0)
    assert found.shape == (9, 2)
    assert np.isfinite(found).all()


def test_every_kind_has_its_colour_and_shape():
    kinds = np.array([CLEAN, TARGET, TRIGGERED, TRIGGERED])
    points = Points(np.zeros((4, 1)), kinds, np.array([False, True]), shown([0] * 4))
    places = np.array([[0.0, 0], [1, 0], [2, 0], [3, 1]])
    figure = draw(points, [places, places + 1], ("before", "after"))
    FigureCanvasAgg(figure).draw()
    assert [axis.get_title() for axis in figure.axes] == ["before", "after"]
    drawn = figure.axes[1].collections
    assert [found.get_offsets().tolist() for found in drawn] == [[[1, 1]], [[2, 1]], [[3, 1], [4, 2]]]
    colours = [to_hex(found.get_facecolor()[0]) for found in drawn]
    assert colours == [style["color"] for style in STYLES.values()]
    assert len({style["marker"] for style in STYLES.values()}) == 3
    assert [found.get_text() for found in figure.legends[0].texts] == list(STYLES)


def test_the_picture_is_saved_with_its_words(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is optional")
    (tmp_path / "figures").mkdir()
    figures.draw_representations(tmp_path, material(targets=[1] * 6), (suspect(), suspect()), 6, 0)
    (found,) = html.pictures(tmp_path / "figures")
    assert found.title == "Representations"
    assert re.search(
        r"Before purification, .*[\d.]+ % of the target class. After purification, .*[\d.]+ %",
        found.description,
    )


@pytest.mark.parametrize("reason", ["scikit-learn", "too few", "not finite"])
def test_what_cannot_be_drawn_is_said_and_ends_nothing(tmp_path, capsys, monkeypatch, reason):
    (tmp_path / "figures").mkdir()
    shown, found, expected = material(), suspect(), "no finite features"
    if reason == "scikit-learn":
        monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
        expected = "optional and needs scikit-learn (pip install scikit-learn"
    elif reason == "too few":
        shown, expected = material(4), "found 4 test images, expected 8 or more"
    else:
        found = found._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, found.params))
    figures.draw_representations(tmp_path, shown, (found,), 12, 0)
    said = capsys.readouterr().out
    assert said.startswith("the figure of representations is left out: ")
    assert "report.representations" in said
    assert expected in " ".join(said.split())
    assert list((tmp_path / "figures").iterdir()) == []
    with pytest.raises(UserError):
        representations.make(shown, (found,), 12, 0, ("before",))


def test_nothing_is_drawn_where_nothing_is_wanted(tmp_path):
    figures.draw_representations(tmp_path, material(), (), 0, 0)
    assert list(tmp_path.iterdir()) == []
