"""ONNX in and out: answers against NumPy, the same file with other numbers, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx_files import listed, model, node
from scipy.signal import correlate2d

import fip_jax
from fip_jax import suspect
from fip_jax.checkpoint import save_model
from fip_jax.config import default_config
from fip_jax.errors import UserError
from fip_jax.export import export
from fip_jax.interop import onnx_file

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


TENSORS = {
    "k": drawn(4, 3, 3, 3),
    "kb": drawn(4),
    "scale": np.float32(RNG.uniform(0.5, 1.5, 4)),
    "shift": drawn(4),
    "mean": drawn(4),
    "var": np.float32(RNG.uniform(0.5, 1.5, 4)),
    "w": drawn(64, 6),
    "wb": drawn(6),
    "v": drawn(5, 6),
    "vb": drawn(5),
}
NODES = [
    node("Conv", ["x", "k", "kb"], ["a"], pads=(1, 1, 1, 1), strides=(1, 1), kernel_shape=(3, 3)),
    node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["b"], epsilon=1e-5),
    node("Relu", ["b"], ["c"]),
    node("MaxPool", ["c"], ["d"], kernel_shape=(2, 2), strides=(2, 2)),
    node("Constant", [], ["shape"], value=np.array([1, -1], np.int64)),
    node("Reshape", ["d", "shape"], ["e"]),
    node("MatMul", ["e", "w"], ["f"]),
    node("Add", ["f", "wb"], ["g"]),
    node("Tanh", ["g"], ["h"]),
    node("Gemm", ["h", "v", "vb"], ["i"], transB=1),
    node("Softmax", ["i"], ["y"], axis=1),
]
INPUT = [("x", (1, 3, 8, 8))]


def by_hand(images, tensors):
    """The logits in float64."""
    t = {name: np.float64(array) for name, array in tensors.items()}
    found = []
    for image in np.float64(images):
        a = [
            sum(correlate2d(image[..., c], t["k"][o, c], "same") for c in range(3)) + t["kb"][o]
            for o in range(4)
        ]
        a = (np.stack(a) - t["mean"][:, None, None]) / np.sqrt(t["var"] + 1e-5)[:, None, None]
        a = np.maximum(a * t["scale"][:, None, None] + t["shift"][:, None, None], 0)
        pooled = a.reshape(4, 4, 2, 4, 2).max(axis=(2, 4))
        hidden = np.tanh(pooled.reshape(-1) @ t["w"] + t["wb"])
        found.append(t["v"] @ hidden + t["vb"])
    return np.array(found)


def loaded(path, nodes=NODES, tensors=None, inputs=INPUT, output="y", size=8):
    path.write_bytes(model(nodes, TENSORS if tensors is None else tensors, inputs, output))
    config = default_config()
    config.victim.checkpoint, config.dataset.image_size = str(path), size
    return suspect.load(config)


def logits(network, images):
    answer = jax.jit(lambda p, s, x: network.network(p, s, x)[0])
    return np.asarray(answer(network.params, network.model_state, jnp.asarray(images, jnp.float32)))


def test_logits_are_those_by_hand_and_the_softmax_is_left_out(tmp_path):
    network = loaded(tmp_path / "x.onnx")
    assert network.num_classes == 5
    images = RNG.random((3, 8, 8, 3), np.float32)
    np.testing.assert_allclose(logits(network, images), by_hand(images, TENSORS), atol=1e-4)


def test_batch_norm_is_live(tmp_path):
    network = loaded(tmp_path / "x.onnx")
    images = jnp.asarray(RNG.random((3, 8, 8, 3), np.float32))
    _, moved = network.network(network.params, network.model_state, images, batch_statistics=True)
    assert np.abs(np.asarray(moved["layers"]["1"]["mean"]) - TENSORS["mean"]).max() > 1e-3


def test_the_same_file_comes_out_with_other_numbers(tmp_path):
    network = loaded(tmp_path / "x.onnx")
    before = (tmp_path / "x.onnx").read_bytes()
    changed = network._replace(params=jax.tree.map(lambda leaf: leaf * 0.5, network.params))
    (tmp_path / "out").mkdir()
    export(tmp_path / "out", network)
    assert (tmp_path / "out" / "purified.onnx").read_bytes() == before
    export(tmp_path / "out", changed)
    after = onnx_file.read(tmp_path / "out" / "purified.onnx")
    assert after.nodes[:4] == onnx_file.read(tmp_path / "x.onnx").nodes[:4]
    tensors = {name: tensor.array for name, tensor in after.tensors.items()}
    assert tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        factor = 1 if name in ("mean", "var") else 0.5
        np.testing.assert_allclose(tensors[name], factor * array, rtol=1e-6)
    images = RNG.random((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(logits(changed, images), by_hand(images, tensors), atol=1e-4)


def test_a_folder_of_a_graph_is_read_back(tmp_path):
    network = loaded(tmp_path / "x.onnx")
    save_model(tmp_path / "folder", network.params, network.model_state, network.description)
    config = default_config()
    config.victim.checkpoint, config.dataset.image_size = str(tmp_path / "folder"), 8
    again = suspect.load(config)
    images = RNG.random((2, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(logits(again, images), logits(network, images))


def test_networks_from_tensorflow_have_their_channels_last(tmp_path):
    nodes = [node("Transpose", ["x"], ["t"], perm=(0, 3, 1, 2)), *NODES[1:]]
    nodes.insert(1, node("Conv", ["t", "k", "kb"], ["a"], auto_pad="SAME_UPPER", strides=(1, 1)))
    network = loaded(tmp_path / "x.onnx", nodes, inputs=[("x", (0, 8, 8, 3))])
    images = RNG.random((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(logits(network, images), by_hand(images, TENSORS), atol=1e-4)


def test_one_channel_is_the_luminance(tmp_path):
    tensors = {"k": np.ones((1, 1, 1, 1), np.float32), "w": np.eye(64, dtype=np.float32)}
    nodes = [
        node("Conv", ["x", "k"], ["a"], kernel_shape=(1, 1)),
        node("Flatten", ["a"], ["b"]),
        node("MatMul", ["b", "w"], ["y"]),
    ]
    network = loaded(tmp_path / "x.onnx", nodes, tensors, [("x", (0, 1, 8, 8))])
    image = np.zeros((1, 8, 8, 3), np.float32)
    image[0, 0, 0], image[0, 0, 1] = (1, 0, 0), (0.5, 0.5, 0.5)
    np.testing.assert_allclose(logits(network, image)[0, :3], [0.299, 0.5, 0], atol=1e-6)


def test_lengths_are_worked_out_and_images_may_be_many(tmp_path):
    # What PyTorch makes of x.view(x.size(0), -1), and of x.clamp(0, 6).
    nodes = [
        *NODES[:1],
        node("Clip", ["a"], ["c"], min=0.0, max=6.0),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Shape", ["p"], ["s"]),
        node("Constant", [], ["zero"], value=np.array(0, np.int64)),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n"], ["n1"], axes=(0,)),
        node("Constant", [], ["rest"], value=np.array([-1], np.int64)),
        node("Concat", ["n1", "rest"], ["shape"], axis=0),
        node("Reshape", ["p", "shape"], ["y"]),
    ]
    network = loaded(tmp_path / "x.onnx", nodes, {key: TENSORS[key] for key in ("k", "kb")})
    images = RNG.random((3, 8, 8, 3), np.float32)
    t = {key: np.float64(TENSORS[key]) for key in ("k", "kb")}
    expected = [
        [
            np.clip(
                sum(correlate2d(image[..., c], t["k"][o, c], "same") for c in range(3)) + t["kb"][o], 0, 6
            ).mean()
            for o in range(4)
        ]
        for image in np.float64(images)
    ]
    np.testing.assert_allclose(logits(network, images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": [node("Loop", ["x"], ["y"])]}, "found the operations Loop"),
        ({"nodes": [node("QLinearConv", ["x"], ["y"])]}, "before it was quantised"),
        ({"inputs": [("x", (1, 3, 8, 8)), ("z", (1,))]}, "found 2 inputs"),
        ({"inputs": [("x", (1, 64))]}, r"shape \[1, 64\], expected images"),
        ({"inputs": [("x", (1, 3, 28, 28))]}, "set dataset.image_size = 28"),
        ({"inputs": [("x", (1, 4, 8, 8))]}, "images of 4 channels"),
        ({"tensors": TENSORS | {"w": drawn(63, 6)}}, "cannot be run on images of 8 pixels"),
        ({"tensors": TENSORS | {"k": listed(TENSORS["k"], "k")}}, "as they are in memory"),
        ({"tensors": {}}, "without weights"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        loaded(tmp_path / "x.onnx", **change)


def test_damaged_files_are_refused(tmp_path):
    whole = model(NODES, TENSORS, INPUT, "y")
    for cut in range(20, len(whole), 97):
        (tmp_path / "x.onnx").write_bytes(whole[:cut])
        with pytest.raises(UserError):
            fip_jax.load(tmp_path / "x.onnx", image_size=8)


def test_onnxruntime_answers_what_we_do(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    network = loaded(tmp_path / "x.onnx", output="i")
    images = RNG.random((1, 8, 8, 3), np.float32)
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"))
    expected = session.run(None, {"x": images.transpose(0, 3, 1, 2)})[0]
    np.testing.assert_allclose(logits(network, images), expected, atol=1e-4)
