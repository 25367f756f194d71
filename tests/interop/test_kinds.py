"""Every kind of file that people take for a network has a sentence of its own, with the way out."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from fip_jax.errors import UserError
from fip_jax.interop import foreign


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


def written(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44715678\n"
FILES = {
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5, perhaps of Keras.*tf2onnx"),
    "LFS": (POINTER, "a Git LFS pointer.*git lfs pull"),
    "picture": (written(lambda f: Image.new("RGB", (9, 9)).save(f, "PNG")), "a picture.*attack.pattern.file"),
    "array": (written(lambda f: np.save(f, np.zeros(3))), "a NumPy array"),
    "arrays": (written(lambda f: np.savez(f, a=np.zeros(3))), r"NumPy arrays \(\.npz\)"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(600), "TFLite"),
    "page": (b"<!DOCTYPE html><html>", "perhaps a web page.*Download raw file"),
    "JSON": (json.dumps({"weight_map": {"a": "model-00001.safetensors"}}).encode(), "JSON"),
    "text": (b"import torch\nmodel = torch.nn.Linear(1, 1)\n", "found text"),
    "licence": (b"MIT License\n\nCopyright (c) 2020\n", "found text"),
    "empty": (b"", "an empty file.*download or copy it again"),
    "msgpack": (b"\x81\xa6params\x81\xa1a\x01", "msgpack.*purify_function"),
    "gzip": (gzip.compress(bytes(99)), "a gzip archive.*unpack it"),
    "zip of weights": (zipped("a/model.pth", "a/readme.txt"), "a zip archive with a/model.pth.*unpack it"),
    "zip": (zipped("a.txt"), "a zip archive without weights"),
    "Keras": (zipped("metadata.json", "config.json", "model.weights.h5"), r"a network of Keras \(\.keras\)"),
    "frozen graph": (b"\x0a\x1f\x0a\x05input\x12\x0bPlaceholder" + bytes(99), "a frozen graph of TensorFlow"),
    "zeros": (bytes(4096), "an unknown kind .*00 00.*ONNX"),
    "quantised": (
        b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.",
        "quantised weights.*before it was quantised",
    ),
    "scikit-learn": (b"\x80\x03csklearn.svm\nSVC\n.", "a model of scikit-learn"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_it_is_and_the_way_out(kind, tmp_path):
    data, words = FILES[kind]
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        foreign.read(tmp_path / "x.pth")
    assert len(str(caught.value)) < 600
    assert str(tmp_path / "x.pth") in str(caught.value)
