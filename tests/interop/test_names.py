"""What names tell: a layer that normalises, pruning, wrappers; and files in which they occur, there and back."""

import numpy as np
import pytest

from fip_jax import suspect
from fip_jax.config import default_config
from fip_jax.errors import UserError
from fip_jax.export import export
from fip_jax.interop import foreign, torch_writer
from fip_jax.interop.names import parts_of
from fip_jax.interop.state_dict import expected_shapes, to_torch
from fip_jax.models import abstract_model
from fip_jax.network import split_module

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def weights(name="resnet18", prefix="", **options):
    rng = np.random.default_rng(0)
    _, *trees = split_module(abstract_model(name, 3, 32, width=2, **options))
    return {
        prefix + key: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for key, shape in expected_shapes(*trees).items()
    }


def load(tmp_path, arrays, **settings):
    torch_writer.write(tmp_path / "in.pth", {"state_dict": arrays})
    config = default_config()
    config.victim.checkpoint = str(tmp_path / "in.pth")
    config.dataset.update(settings)
    return suspect.load(config)


@pytest.mark.parametrize(
    ("mean", "std", "prefix", "shape"),
    [
        ("0.mean", "0.std", "1.", (3,)),
        ("normalize.mean", "normalize.std", "model.", (1, 3, 1, 1)),
        ("module.normalizer.new_mean", "module.normalizer.new_std", "module.model.", (3, 1, 1)),
        ("mean", "std", "net.", (3,)),
    ],
)
def test_a_layer_that_normalises_gives_mean_and_std(mean, std, prefix, shape, tmp_path, capsys):
    arrays = {key: np.float32(v).reshape(shape) for key, v in ((mean, MEAN), (std, STD))}
    network = load(tmp_path, arrays | weights(prefix=prefix))
    np.testing.assert_allclose(network.network.mean, MEAN, rtol=1e-6)
    np.testing.assert_allclose(network.description["std"], STD, rtol=1e-6)
    assert "from its first layer" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "out").mkdir()
    export(tmp_path / "out", network)
    assert (tmp_path / "out" / "purified.pth").read_bytes() == (tmp_path / "in.pth").read_bytes()
    with pytest.raises(UserError, match=r"dataset\.mean: found .* expected none, since the network"):
        load(tmp_path, arrays | weights(prefix=prefix), mean=(0.1, 0.2, 0.3))
    load(tmp_path, arrays | weights(prefix=prefix), mean=MEAN)


def test_the_statistics_of_batch_norm_normalise_no_images():
    assert parts_of({"bn.running_mean": np.zeros(3), "bn.running_var": np.ones(3)}).mean == ()
    assert parts_of({"a.mean": np.zeros(64, np.float32), "a.std": np.ones(64, np.float32)}).mean == ()


def test_what_is_pruned_stays_so(tmp_path, capsys):
    arrays, key = weights(), "layer1.0.conv1.weight"
    mask = np.float32(np.arange(arrays[key].size).reshape(arrays[key].shape) % 2)
    kernel = arrays.pop(key)
    pruned = arrays | {f"{key}_orig": kernel, f"{key}_mask": mask}
    network = load(tmp_path, pruned)
    assert "1 tensors are pruned" in " ".join(capsys.readouterr().out.split())
    np.testing.assert_array_equal(to_torch(network.params, {})[key], kernel * mask)
    conv = network.params["layer1"][0]["conv1"]
    conv["kernel"] = conv["kernel"] + 1
    (tmp_path / "out").mkdir()
    export(tmp_path / "out", network)
    again = foreign.read(tmp_path / "out" / "purified.pth")
    np.testing.assert_array_equal(again.arrays[f"{key}_mask"], mask)
    np.testing.assert_allclose(again.network()[key], (kernel + 1) * mask, rtol=1e-6)
    assert again.arrays[f"{key}_orig"].flat[0] == kernel.flat[0]  # what counts for nothing is left alone


def test_one_channel(tmp_path):
    network = load(tmp_path, weights(channels=1))
    assert network.network.grey
    assert network.description["model"]["channels"] == 1
    images = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
    grey = images @ np.float32([[0.299], [0.587], [0.114]])
    found, _ = network.network(network.params, network.model_state, images)
    expected, _ = network.network(network.params, network.model_state, np.repeat(grey, 3, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["zip", "legacy", "script"])
def test_whole_modules_are_read_for_their_tensors(kind, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential()
    net.features = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
    )
    net.flatten, net.classifier = torch.nn.Flatten(), torch.nn.Linear(512, 3)
    path = tmp_path / "whole.pth"
    if kind == "script":
        torch.jit.save(torch.jit.script(net), str(path))
    else:
        torch.save({"model": net, "epoch": 3}, path, _use_new_zipfile_serialization=kind == "zip")
    config = default_config()
    config.victim.checkpoint = str(path)
    network = suspect.load(config)
    images = np.random.default_rng(0).random((4, 32, 32, 3)).astype(np.float32)
    found, _ = network.network(network.params, network.model_state, images)
    with torch.no_grad():
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    words = " ".join(capsys.readouterr().out.split())
    assert ("TorchScript" if kind == "script" else "torch.nn.modules.container.Sequential") in words
    (tmp_path / "out").mkdir()
    export(tmp_path / "out", network)
    before = net.classifier.weight.detach().clone()
    net.load_state_dict(torch.load(tmp_path / "out" / "purified.pth", weights_only=True), strict=True)
    assert torch.equal(net.classifier.weight, before)
