"""Files of PyTorch without PyTorch, compared with PyTorch's own reading and writing where it is installed."""

import argparse
import collections
import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from torch_files import legacy, mapping, program, tensor, text, zipped

from fip_jax.errors import UserError
from fip_jax.interop import foreign, torch_file, torch_writer
from fip_jax.interop.pickled import read as read_pickle
from fip_jax.interop.pickled_values import PickleError

NUMBERS = np.arange(6, dtype="<f4")
CONTAINERS = {
    "zip": lambda content: zipped(content, [("0", NUMBERS.tobytes())]),
    "legacy": lambda content: legacy(content, [("0", NUMBERS)]),
}


def saved(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("container", CONTAINERS)
def test_tensors_are_views_of_the_file(container, tmp_path):
    content = mapping(
        net=mapping(
            a=tensor(),
            transposed=tensor(shape=(3, 2), strides=(1, 3)),
            part=tensor(offset=4, shape=(2,), strides=(1,)),
        ),
        scalar=tensor(offset=5, shape=(), strides=()),
        empty=tensor(shape=(0, 3)),
        best=b"G" + b"@\x0c" + bytes(6),  # 3.5
    )
    file = torch_file.read(saved(tmp_path / "x.pth", CONTAINERS[container](program(content))))
    net = file.content["net"]
    np.testing.assert_array_equal(file.array(net["a"]), NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(file.array(net["transposed"]), NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(file.array(net["part"]), [4, 5])
    assert file.array(file.content["scalar"]) == 5
    assert file.array(file.content["empty"]).shape == (0, 3)
    assert file.content["best"] == 3.5
    with pytest.raises(ValueError, match="read-only"):
        file.array(net["a"])[0, 0] = 1


@pytest.mark.parametrize("container", CONTAINERS)
def test_other_numbers_at_the_same_places(container, tmp_path):
    content = program(mapping(net=mapping(a=tensor(), b=tensor(offset=1, shape=(2,), strides=(1,)))))
    data = CONTAINERS[container](content)
    file = torch_file.read(saved(tmp_path / "x.pth", data))
    a = file.content["net"]["a"]
    assert file.replaced([(a, file.array(a))]) == data
    changed = file.replaced([(a, -file.array(a).astype(np.float64))])
    again = torch_file.read(saved(tmp_path / "y.pth", changed))
    np.testing.assert_array_equal(again.array(again.content["net"]["a"]), -NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(again.array(again.content["net"]["b"]), [-1, -2])
    assert len(changed) == len(data)
    if container == "zip":
        assert zipfile.ZipFile(io.BytesIO(changed)).testzip() is None


def test_tensors_that_share_numbers_stay_the_same_or_are_refused(tmp_path):
    file = torch_file.read(saved(tmp_path / "x.pth", zipped(program(mapping(a=tensor(), b=tensor())))))
    a, b = file.content.values()
    ones, twos = (np.full((2, 3), value, np.float32) for value in (1, 2))
    assert file.replaced([(a, ones), (b, ones)]).count(ones.tobytes()) == 1
    with pytest.raises(UserError, match="found tensors that share their numbers"):
        file.replaced([(a, ones), (b, twos)])


def test_parts_of_storages_in_old_files(tmp_path):
    view = b"(" + text("1") + b"K\x02K\x03t"  # three numbers from the second on
    content = program(mapping(net=mapping(a=tensor(shape=(3,), strides=(1,), view=view))))
    file = torch_file.read(saved(tmp_path / "x.pth", legacy(content)))
    np.testing.assert_array_equal(file.array(file.content["net"]["a"]), [2, 3, 4])


class Unseekable:
    """A file to which zip entries are written with their checksum after them, as PyTorch does."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data)
        return len(data)

    def flush(self):
        pass


def test_checksums_after_the_numbers_are_renewed(tmp_path):
    file = Unseekable()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (("data.pkl", program(mapping(a=tensor()))), ("data/0", NUMBERS.tobytes())):
            archive.writestr(f"archive/{name}", data)
    assert b"PK\x07\x08" in file.data
    found = foreign.read(saved(tmp_path / "x.pth", file.data))
    changed = found.rewritten(found.with_network({"a": np.ones((2, 3))}))
    assert len(changed) == len(file.data)
    assert zipfile.ZipFile(io.BytesIO(changed)).testzip() is None
    assert (foreign.read(saved(tmp_path / "y.pth", changed)).arrays["a"] == 1).all()


def test_stored_values_are_numbered_from_0_or_1():
    for first in (0, 1):
        a, b = bytes([first]), bytes([first + 1])
        assert read_pickle(b"\x80\x02N\x85q" + a + b"0]q" + b + b"h" + a + b"h" + b + b"\x87.")[0][1:] == (
            (None,),
            [],
        )
    for bad in (b"q\x02", b"q\x00q\x02", b"q\x01h\x00", b"h\x00", b"q\x00h\x01"):
        with pytest.raises(PickleError, match="stored"):
            read_pickle(b"\x80\x02N" + bad + b"\x86.")


def test_copies_that_honest_pickles_make():
    # A pickle of protocol 2 has bytes, sets and ordered dictionaries made by calls.
    value = [
        [bytes([n % 256]) * (n % 4) for n in range(1000)],
        [{n} for n in range(300)] + [set(range(n)) for n in range(30)],
        [collections.OrderedDict(a=1, b=n) for n in range(100)],
        [np.float32(0.5)] * 3 + [np.int8(n) for n in range(100)],
        b"\xff" * 10_000,
    ]
    found, _ = read_pickle(pickle.dumps(value, 2))
    assert found[0] == value[0]
    assert found[1] == [list(each) for each in value[1]]
    assert found[2:] == value[2:]


def test_plain_values_of_a_pickle():
    value = {
        "a": [1, -(2**40), 2.5, None, True],
        "b": ("x", b"\x00\xff"),
        "deep": {"er": (1, 2, 3, 4)},
        "s": {1},
    }
    for protocol in (2, 3, 4, 5):
        data = pickle.dumps(value, protocol)
        found, end = read_pickle(b"??" + data + b"rest", 2)
        assert found == value | {"s": [1]}
        assert end == len(data) + 2


def test_numpy_numbers_are_numbers():
    value = {"a": [np.int64(7), np.float32(0.5), np.bool_(True)], "array": np.arange(3)}
    found, _ = read_pickle(pickle.dumps(value, 2))
    assert found["a"] == [7, 0.5, True]
    assert [type(number) for number in found["a"]] == [int, float, bool]


def test_keys_are_text():
    # The hashes of numbers are not random: see test_hostile.py.
    value = {np.int64(7): 1, 2.5: 2, None: 3, True: 4, "8": 5, b"9": 6}
    found, _ = read_pickle(pickle.dumps(value, 2))
    assert found == {"7": 1, "2.5": 2, "None": 3, "True": 4, "8": 5, b"9": 6}


def test_a_network_is_found_wherever_it_is_kept(tmp_path):
    names = ["module.a.weight", "module.b.weight"]
    for place in ("net", "state_dict", "model", "netC"):
        content = mapping(**{"epoch": b"K\x05", place: mapping(**dict.fromkeys(names, tensor()))})
        found = foreign.read(saved(tmp_path / "x.pth", zipped(program(content))))
        assert found.keys == {name.removeprefix("module."): name for name in names}
        assert not found.copies
    bare = mapping(**{"a.weight": tensor(), "b.weight": tensor()})
    found = foreign.read(saved(tmp_path / "x.pth", zipped(program(bare))))
    assert found.keys == {"a.weight": "a.weight", "b.weight": "b.weight"}
    weights = mapping(a=tensor())
    found = foreign.read(
        saved(tmp_path / "x.pth", zipped(program(mapping(ema=weights, net=weights, x=mapping()))))
    )
    assert found.copies == ("'ema'",)
    with pytest.raises(UserError, match="found 'epoch', expected a state_dict"):
        foreign.read(saved(tmp_path / "x.pth", zipped(program(mapping(epoch=b"K\x05")))))


def test_other_copies_of_the_weights_are_named(tmp_path):
    """Averages come under other names, below other keys, in lists, with more beside them or without statistics."""
    vector = tensor(shape=(3,), strides=(1,))
    turned = tensor(shape=(3, 2), strides=(2, 1))
    weights = mapping(**{"a.weight": tensor(), "b.weight": turned, "c.weight": turned, "bias": vector})
    averaged = mapping(
        step=b"K\x05", **{"module.a.weight": tensor(), "module.b.weight": turned, "module.c.weight": turned}
    )
    content = mapping(
        model=weights,
        model_ema=averaged,
        best=mapping(net=averaged),
        ema=mapping(shadow_params=b"](" + tensor() + turned + vector + turned + b"e"),
        states=b"]" + weights + b"a",
        optimizer=mapping(
            state=mapping(**{"0": mapping(m=tensor()), "1": mapping(m=turned), "2": mapping(m=turned)})
        ),
        lacking=mapping(**{"a.weight": tensor(), "b.weight": turned, "bias": vector}),
    )
    found = foreign.read(saved(tmp_path / "x.pth", zipped(program(content))))
    assert set(found.copies) == {"'model_ema'", "'best.net'", "'ema.shadow_params'", "'states.0'"}


def test_a_counter_of_averages_keeps_no_wrapper_in_place(tmp_path):
    averaged = mapping(
        n_averaged=tensor(shape=(), strides=()), **{"module.a.w": tensor(), "module.b.w": tensor()}
    )
    found = foreign.read(saved(tmp_path / "x.pth", zipped(program(averaged))))
    assert found.keys == {"a.w": "module.a.w", "b.w": "module.b.w", "n_averaged": "n_averaged"}


def test_what_is_written_is_read(tmp_path):
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "h": np.array([0.5], np.float16),
        "n": np.array(3, np.int64),
        "e": np.zeros((0, 2), np.float32),
    }
    content = {
        "name": "nét",
        "count": -3,
        "big": 2**40,
        "rate": 0.5,
        "none": None,
        "yes": True,
        "l": [1, (2,)],
    }
    torch_writer.write(tmp_path / "x.pt", content | {"model": arrays})
    file = torch_file.read(tmp_path / "x.pt")
    found = dict(file.content)
    for key, ref in found.pop("model").items():
        np.testing.assert_array_equal(file.array(ref), arrays[key])
        assert file.array(ref).dtype == arrays[key].dtype
    assert found == content
    with pytest.raises(TypeError, match="cannot be written"):
        torch_writer.write(tmp_path / "y.pt", {"object": object()})
    for kind in (np.complex64, ">f4", np.uint16, "O"):
        with pytest.raises(TypeError, match="numbers of type"):
            torch_writer.write(tmp_path / "y.pt", {"w": np.zeros(2, kind)})


def everything(torch):
    """(module, what to save): tensors of all kinds, and what programs keep beside them."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    matrix = torch.randn(4, 6)
    return module, {
        "state_dict": module.state_dict(),
        "epoch": 3,
        "best": np.float64(3.5),
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("x"), device=torch.device("cpu")),
        "array": np.arange(5),
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "view": matrix.t()[1:3],
        "same": matrix,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "optimizer": torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9).state_dict(),
        "size": matrix.size(),
        "type": torch.float32,
    }


@pytest.mark.parametrize("zip_container", [True, False])
def test_pytorch_reads_what_was_changed(zip_container, tmp_path):
    torch = pytest.importorskip("torch")
    module, content = everything(torch)
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zip_container)
    file = torch_file.read(path)
    state = file.content["state_dict"]
    for key, value in module.state_dict().items():
        np.testing.assert_array_equal(file.array(state[key]), value.numpy())
    np.testing.assert_array_equal(file.array(file.content["view"]), content["view"].numpy())
    np.testing.assert_array_equal(
        file.array(file.content["bfloat"]).astype(np.float32), content["bfloat"].float().numpy()
    )
    assert (file.content["best"], file.content["size"]) == (3.5, (4, 6))
    assert file.replaced([(ref, file.array(ref)) for ref in state.values()]) == path.read_bytes()

    changes = [(ref, file.array(ref) + np.float32(1)) for ref in state.values()]
    changes.append((file.content["view"], np.full((2, 4), 7.0)))
    back = torch.load(io.BytesIO(file.replaced(changes)), weights_only=False)
    for key, value in module.state_dict().items():
        assert torch.equal(back["state_dict"][key], (value + torch.tensor(1.0)).to(value.dtype))
        assert back["state_dict"][key].dtype == value.dtype
    assert (back["same"][:, 1:3] == 7).all()
    assert torch.equal(back["same"][:, 3:], content["same"][:, 3:])
    assert back["args"] == content["args"]
    module.load_state_dict(back["state_dict"], strict=True)


def test_pytorch_reads_what_was_written(tmp_path):
    torch = pytest.importorskip("torch")
    module, _ = everything(torch)
    arrays = {key: value.numpy() for key, value in module.state_dict().items()}
    torch_writer.write(tmp_path / "x.pt", {"model_name": "x", "model": arrays})
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    assert found["model_name"] == "x"
    module.load_state_dict(found["model"], strict=True)


def test_whole_modules_and_scripts_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear, expected .* state_dict\(\)"):
        torch_file.read(tmp_path / "module.pth")
