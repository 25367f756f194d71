"""Which tensors of a file are the network's, and the same file with other numbers in them."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from torch_files import legacy, mapping, number, program, tensor, text, zipped

from fip_jax.errors import UserError
from fip_jax.interop import foreign, torch_writer

NUMBERS = np.arange(6, dtype="<f4")
W = np.arange(6, dtype=np.float32).reshape(2, 3)


def saved(path, data):
    path.write_bytes(data)
    return foreign.read(path)


def zipped_numbers(content):
    return zipped(program(content), [("0", NUMBERS.tobytes())])


def test_numbers_are_those_of_the_file(tmp_path):
    data = zipped_numbers(mapping(a=tensor()))
    found = saved(tmp_path / "x.pth", data)
    assert found.path == tmp_path / "x.pth"
    np.testing.assert_array_equal(found.network()["a"], W)


@pytest.mark.parametrize("place", ["net", "state_dict", "model", "netC", "classifier"])
def test_tensors_beside_a_state_dict_are_not_its_own(place, tmp_path):
    # WaNet keeps the grids of its warp beside `netC`.
    content = mapping(**{"noise_grid": tensor(), place: mapping(a=tensor()), "epoch": number(5)})
    assert saved(tmp_path / "x.pth", zipped_numbers(content)).keys == {"a": "a"}


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["module._orig_mod.a"], ["a"]),
        (["model.a.w", "model.b.w"], ["a.w", "b.w"]),
        (["1.a.w", "1.b.w"], ["a.w", "b.w"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["module.a", "modules.b"], ["module.a", "modules.b"]),
        (["module."], [""]),
        (["a.b.c.d.e.f"], ["e.f"]),
    ],
)
def test_names_are_rid_of_what_wrappers_put_before_them(names, plain, tmp_path):
    found = saved(tmp_path / "x.pth", zipped_numbers(mapping(**dict.fromkeys(names, tensor()))))
    assert found.keys == dict(zip(plain, names, strict=True))
    assert list(found.network()) == plain


def test_the_order_of_the_file_is_kept(tmp_path):
    names = ["z", "a", "m"]
    found = saved(tmp_path / "x.pth", zipped_numbers(mapping(**dict.fromkeys(names, tensor()))))
    assert list(found.arrays) == names


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_numbers_that_two_tensors_share_are_changed_for_both(container, tmp_path):
    # The old numbers of `tied` must not be written over the new ones of `a`.
    content = mapping(a=tensor(), tied=tensor(shape=(6,), strides=(1,)))
    data = zipped_numbers(content) if container == "zip" else legacy(program(content), [("0", NUMBERS)])
    found = saved(tmp_path / "x.pth", data)
    assert found.rewritten(found.with_network({})) == data
    assert found.rewritten(found.with_network({"a": W})) == data
    again = saved(tmp_path / "y.pth", found.rewritten(found.with_network({"a": -W})))
    np.testing.assert_array_equal(again.arrays["a"], -W)
    np.testing.assert_array_equal(again.arrays["tied"], -NUMBERS)


def test_types_of_the_file_are_kept(tmp_path):
    kinds = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int16, np.int8]
    arrays = {np.dtype(kind).name: np.arange(4).astype(kind) for kind in [*kinds, np.uint8, np.bool_]}
    torch_writer.write(tmp_path / "x.pt", {"state_dict": arrays, "epoch": 3})
    (tmp_path / "x.safetensors").write_bytes(foreign.to_safetensors(arrays))
    for name in ("x.pt", "x.safetensors"):
        found = foreign.read(tmp_path / name)
        ones = found.with_network({key: np.full(4, 1.0, np.float32) for key in arrays})
        again = saved(tmp_path / f"y{name}", found.rewritten(ones))
        assert {key: array.dtype for key, array in again.arrays.items()} == {
            key: array.dtype for key, array in arrays.items()
        }
        assert all((array == 1).all() for array in again.arrays.values())


def test_safetensors_keep_their_metadata(tmp_path):
    arrays = {"module.w": W, "module.h": np.array(0.5, np.float16)}
    data = safetensors.numpy.save(arrays, {"format": "pt", "author": "me"})
    found = saved(tmp_path / "x.safetensors", data)
    assert found.keys == {"w": "module.w", "h": "module.h"}
    (tmp_path / "y.safetensors").write_bytes(found.rewritten(found.with_network({"w": -W})))
    with safetensors.safe_open(tmp_path / "y.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt", "author": "me"}
        np.testing.assert_array_equal(file.get_tensor("module.w"), -W)
        assert file.get_tensor("module.h") == 0.5


def test_what_is_found_instead_of_weights_is_named(tmp_path):
    with pytest.raises(UserError, match="'b' of type str among the weights"):
        saved(tmp_path / "x.pth", zipped_numbers(mapping(net=mapping(a=tensor(), b=text("x")))))
    with pytest.raises(UserError, match="found a list, expected a state_dict"):
        saved(tmp_path / "x.pth", zipped_numbers(b"]"))
    with pytest.raises(UserError, match="found text, perhaps a web page"):
        saved(tmp_path / "x.pth", b"\n <html>")
    with pytest.raises(UserError, match="found an empty file"):
        saved(tmp_path / "x.pth", b"")


def test_numbers_that_are_small_in_another_type_are_finite(tmp_path):
    # 65504 is the largest of float16, 3e38 nearly that of float32 and bfloat16.
    arrays = {"h": np.array([65504], np.float16), "b": np.array([3e38], ml_dtypes.bfloat16)}
    torch_writer.write(tmp_path / "x.pt", arrays | {"d": np.array([1e-300])})
    assert foreign.read(tmp_path / "x.pt").arrays["d"] == 1e-300
    for kind in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        torch_writer.write(tmp_path / "x.pt", {"w": np.array([0, np.inf], kind)})
        with pytest.raises(UserError, match="found w with numbers that are not finite"):
            foreign.read(tmp_path / "x.pt")


def checkpoint(torch):
    """(model, what a program of PyTorch saves of it in the middle of training)."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    model[2].weight.data = model[2].weight.data.double()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [100, 150])
    return model, {
        "netC": torch.nn.DataParallel(model).state_dict(),
        "optimizerC": optimizer.state_dict(),
        "schedulerC": scheduler.state_dict(),
        "identity_grid": torch.rand(1, 8, 8, 2),
        "best": (np.float64(0.5), np.zeros(0), np.zeros((2, 0), np.int64)),
    }


@pytest.mark.parametrize("zip_container", [True, False])
def test_a_checkpoint_of_pytorch_is_rewritten(zip_container, tmp_path):
    torch = pytest.importorskip("torch")
    model, content = checkpoint(torch)
    path = tmp_path / "x.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=zip_container)
    found = foreign.read(path)
    assert found.keys == {key: f"module.{key}" for key in model.state_dict()}
    for key, array in found.network().items():
        np.testing.assert_array_equal(array, model.state_dict()[key].numpy())
    assert found.rewritten(found.with_network(found.network())) == path.read_bytes()

    data = found.rewritten(found.with_network({"2.weight": np.full((2, 4), 0.1)}))
    back = torch.load(io.BytesIO(data), weights_only=False)
    assert (back["netC"].pop("module.2.weight").numpy() == 0.1).all()
    for key, value in back["netC"].items():
        assert torch.equal(value, content["netC"][key])
    assert torch.equal(back["identity_grid"], content["identity_grid"])
    assert back["schedulerC"]["milestones"] == content["schedulerC"]["milestones"]
    if zip_container:
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


@pytest.mark.parametrize("zip_container", [True, False])
def test_pytorch_loads_changed_weights_as_weights_only(zip_container, tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.t()[1:3],
        "rows": base[::2],
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "count": torch.tensor(7),
        "half": torch.ones(3).half(),
        "bfloat": torch.ones(3).bfloat16(),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "mask": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(tensors, tmp_path / "x.pt", _use_new_zipfile_serialization=zip_container)
    found = foreign.read(tmp_path / "x.pt")
    assert found.rewritten(found.arrays) == (tmp_path / "x.pt").read_bytes()
    for key, array in found.arrays.items():
        np.testing.assert_array_equal(array.astype(np.float64), tensors[key].detach().double().numpy())
    for key in tensors:
        new = np.asarray(found.arrays[key]).astype(np.float64) * 0 + 1
        back = torch.load(io.BytesIO(found.rewritten(found.with_network({key: new}))), weights_only=True)
        assert back.keys() == tensors.keys()
        assert (back[key] == 1).all()
        for other in tensors.keys() - {key, "transposed", "rows"}:
            assert torch.equal(back[other], tensors[other])


def test_safetensors_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load, save

    found = saved(tmp_path / "x.safetensors", save({"w": torch.ones(2, 3).bfloat16()}))
    assert found.arrays["w"].dtype == ml_dtypes.bfloat16
    back = load(found.rewritten(found.with_network({"w": W})))
    assert torch.equal(back["w"], torch.arange(6).reshape(2, 3).bfloat16())


def test_the_same_network_is_the_same_safetensors():
    metadata = {name: name * 2 for name in "abcdefghij"} | {"größe": '"\\n'}
    arrays = {"b": np.ones((2, 3), np.float32), "a": np.arange(3)}
    written = {foreign.to_safetensors(arrays, metadata) for _ in range(20)}
    assert len(written) == 1
    (data,) = written
    assert int.from_bytes(data[:8], "little") % 8 == 0
    found = safetensors.numpy.load(data)
    assert {key: value.tolist() for key, value in found.items()} == {"a": [0, 1, 2], "b": [[1.0] * 3] * 2}
