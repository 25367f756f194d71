"""Data sets by name: sizes, colours, labels, tracks, and one sentence where there is nothing to load."""

import io
import re
import socket
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from fip_jax.data import source
from fip_jax.data.rendered_signs import CLASS_NAMES, builder, example
from fip_jax.errors import UserError

SIZES = {"train": 7, "test": 4}


def image_of(split, index, channels=3):
    """Image `index` of the tiny sets, 10 x 14."""
    rng = np.random.default_rng([len(split), index])
    return rng.integers(0, 256, (10, 14, channels), dtype=np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


# TFDS finds these by the names of the classes in snake case.
class TinyColourSet(tfds.core.GeneratorBasedBuilder):
    """Colour images of three classes, with tracks."""

    VERSION = tfds.core.Version("1.0.0")
    CHANNELS = 3
    SPLITS = ("train", "test")
    LABEL = tfds.features.ClassLabel(names=["one", "two", "three"])

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, self.CHANNELS), encoding_format="png"),
            "track": tfds.features.Scalar(np.int32),
        }
        if self.LABEL is not None:
            features["label"] = self.LABEL
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        for index in range(SIZES.get(split, 4)):
            found = {"image": png(image_of(split, index, self.CHANNELS)), "track": 100 + index // 2}
            yield index, found if self.LABEL is None else {**found, "label": index % 3}


class TinyGreySet(TinyColourSet):
    """Grey images, and a validation split in place of a test split."""

    CHANNELS = 1
    SPLITS = ("train", "validation")


class TinyHiddenSet(TinyColourSet):
    """A test split whose labels were not published, and a validation split."""

    SPLITS = ("test", "train", "validation")

    def _generate_examples(self, split):
        for index, found in super()._generate_examples(split):
            yield index, found | ({"label": -1} if split == "test" else {})


class TinyHiddenTestSet(TinyHiddenSet):
    """The same without one."""

    SPLITS = ("train", "test")


class TinySquareSet(TinyColourSet):
    """Images of one size."""

    def _info(self):
        image = tfds.features.Image(shape=(8, 8, 3), encoding_format="png")
        features = tfds.features.FeaturesDict({"image": image, "label": self.LABEL})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _generate_examples(self, split):
        for index in range(3):
            yield index, {"image": png(np.full((8, 8, 3), index, np.uint8)), "label": index}


class TinyUnlabelledSet(TinyColourSet):
    """Images alone."""

    LABEL = None


class TinyRegressionSet(TinyColourSet):
    """Labels that are not classes."""

    LABEL = tfds.features.Scalar(np.int32)


class TinyTrainSet(TinyColourSet):
    """Nothing to test on."""

    SPLITS = ("train",)


class TinyUnreachableSet(TinyColourSet):
    """A download that fails."""

    def _split_generators(self, dl_manager):
        raise ConnectionError("example.org does not answer\nand much more")


class TinyNeedsTensorflowSet(TinyColourSet):
    """A preparation that imports what is not there."""

    def _split_generators(self, dl_manager):
        raise ModuleNotFoundError("No module named 'tensorflow'")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def refusal(name, path):
    """The one sentence with which `name` is refused."""
    with pytest.raises(UserError) as caught:
        source.load(name, data_dir=str(path))
    message = str(caught.value)
    assert message.startswith("dataset.name: ")
    assert "\n" not in message
    return message


def test_images_are_resized_and_come_with_labels_and_tracks(tmp_path):
    data = source.load("tiny_colour_set", data_dir=str(tmp_path), image_size=6)
    assert data.class_names == ("one", "two", "three")
    for split, found in (("train", data.train), ("test", data.test)):
        assert found.images.shape == (SIZES[split], 6, 6, 3)
        assert [column.dtype for column in found[:3]] == [np.uint8, np.int32, np.int32]
        np.testing.assert_array_equal(found.labels, np.arange(SIZES[split]) % 3)
        np.testing.assert_array_equal(found.tracks, 100 + np.arange(SIZES[split]) // 2)
        for index, image in enumerate(found.images):
            expected = Image.fromarray(image_of(split, index)).resize((6, 6), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(image, np.asarray(expected))


def test_the_centred_square_is_what_is_resized(tmp_path):
    data = source.load("tiny_colour_set", data_dir=str(tmp_path), image_size=6, crop="center")
    for index, image in enumerate(data.train.images):
        square = Image.fromarray(image_of("train", index)[:, 2:12])  # of 14 columns
        np.testing.assert_array_equal(image, np.asarray(square.resize((6, 6), Image.Resampling.BILINEAR)))


def test_a_prepared_set_is_not_prepared_again(tmp_path, monkeypatch):
    first = source.load("tiny_colour_set", data_dir=str(tmp_path))
    monkeypatch.setattr(TinyColourSet, "_generate_examples", None)
    again = source.load("tiny_colour_set", data_dir=str(tmp_path))
    np.testing.assert_array_equal(first.train.images, again.train.images)


def test_grey_images_get_three_equal_channels_and_validation_serves_as_test(tmp_path):
    data = source.load("tiny_grey_set", data_dir=str(tmp_path), image_size=10)
    assert data.train.images.shape == (7, 10, 10, 3)
    assert len(data.test.labels) == 4
    for channel in (1, 2):
        np.testing.assert_array_equal(data.train.images[..., channel], data.train.images[..., 0])
    picture = Image.fromarray(image_of("validation", 3, 1).squeeze(-1))
    expected = picture.resize((10, 10), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.test.images[3, ..., 0], np.asarray(expected))


def test_a_test_split_without_labels_is_passed_over(tmp_path):
    data = source.load("tiny_hidden_set", data_dir=str(tmp_path), image_size=10)
    assert len(data.test.labels) == 4  # the validation split
    assert data.test.labels.min() == 0


def test_images_that_are_kept_smaller_are_said_to_be_enlarged(tmp_path, capsys):
    for size in (8, 16):
        capsys.readouterr()
        source.load("tiny_square_set", data_dir=str(tmp_path), image_size=size)
        words = " ".join(capsys.readouterr().out.split())
        assert ("is kept at 8 pixels and enlarged to dataset.image_size = 16" in words) == (size == 16)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("size", [32, 16])
def test_rendered_signs(tmp_path, monkeypatch, size):
    monkeypatch.setattr(builder, "SPLIT_SIZES", {"train": 50, "test": 45})
    data = source.load("rendered_signs", data_dir=str(tmp_path), image_size=size)
    assert data.class_names == CLASS_NAMES
    assert data.train.images.shape == (50, size, size, 3)
    assert data.train.tracks is None
    for index in (0, 44):
        image, label = example("test", index)
        assert data.test.labels[index] == label
        if size == 16:
            image = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(data.test.images[index], image)


@pytest.mark.usefixtures("no_network")
def test_two_processes_may_prepare_a_set_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SPLIT_SIZES", {"train": 50, "test": 45})
    others = []
    generate = builder.RenderedSigns._split_generators

    def while_another_comes_first(self, downloads):
        if not others:
            others.append(None)
            others[0] = source.load("rendered_signs", data_dir=str(tmp_path))
        return generate(self, downloads)

    monkeypatch.setattr(builder.RenderedSigns, "_split_generators", while_another_comes_first)
    data = source.load("rendered_signs", data_dir=str(tmp_path))
    np.testing.assert_array_equal(data.train.images, others[0].train.images)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "name",
    [
        "no_such_set",
        "somebody:no_such_set",
        # What follows is not a name, or not a configuration or version that the set has.
        "",
        "No such set!",
        "a/b/c",
        "tiny_colour_set/no_such_config",
        "tiny_colour_set:9.9.9",
        "rendered_signs/no_such_config",
    ],
)
def test_unknown_names_are_refused_at_once(tmp_path, name):
    start = time.monotonic()
    message = refusal(name, tmp_path)
    assert time.monotonic() - start < 1
    assert repr(name) in message
    assert "rendered_signs" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, reason",
    [
        ("tiny_unreachable_set", "could not be downloaded.*: example.org does not answer$"),
        ("tiny_needs_tensorflow_set", "needs TensorFlow.*dataset.data_dir"),
        ("tiny_unlabelled_set", "has no features 'image' and 'label'"),
        ("tiny_regression_set", "labels of tiny_regression_set are not classes"),
        ("tiny_train_set", "has splits train, expected 'train' and 'test'"),
        ("tiny_hidden_test_set", "has splits train, test, expected .* with labels"),
    ],
)
def test_sets_that_do_not_serve_are_refused_with_the_reason(tmp_path, name, reason):
    message = refusal(name, tmp_path)
    assert name in message
    assert re.search(reason, message)


def test_a_full_disk_is_not_the_fault_of_the_set(tmp_path, monkeypatch):
    def fail(self, split):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(TinyColourSet, "_generate_examples", fail)
    assert "No space left" in refusal("tiny_colour_set", tmp_path)
    monkeypatch.undo()
    # Nothing half-made is left to be taken for the set.
    assert len(source.load("tiny_colour_set", data_dir=str(tmp_path)).train.labels) == 7


def test_take():
    split = source.Split(np.arange(12, dtype=np.uint8).reshape(4, 1, 1, 3), np.arange(4), np.arange(4) * 10)
    found = split.take(np.array([2, 0]))
    assert [column.tolist() for column in found[1:]] == [[2, 0], [20, 0], [2, 0]]
    assert found.take(np.array([1])).places.tolist() == [0]  # of the whole
    assert split.places.tolist() == [0, 1, 2, 3]
    assert found.images[:, 0, 0, 0].tolist() == [6, 0]
    assert split._replace(tracks=None).take(np.array([1])).tracks is None


def test_nobody_is_told_of_downloads_of_sets_that_are_drawn(capsys):
    stream = source._WithoutAnnouncement(sys.stdout)
    print(
        "\x1b[1mDownloading and preparing dataset Unknown size (download: Unknown size) to /x...\x1b[0m",
        file=stream,
    )
    print("kept", file=stream)
    assert capsys.readouterr().out.split() == ["kept"]
    assert not stream.isatty()
    source._WithoutAnnouncement(None).write("nobody listens")
