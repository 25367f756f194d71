"""`attack_result.pt`: its triggered images from beside the file or inside of it, and nothing from elsewhere."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image
from torch_files import mapping, number, program, tensor, text, zipped

from fip_jax.errors import UserError
from fip_jax.interop import backdoorbench, foreign, torch_writer

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
FOLDER = "./record/some_run/bd_test_dataset"


def entry(index, label, target=0, path=None):
    return {"path": path or f"{FOLDER}/{label}/{index}.png", "other_info": [target, label]}


def content(data_dict, **changes):
    return {
        "model_name": "preactresnet18",
        "num_classes": 10,
        "model": {"conv1.weight": np.ones((2, 3, 3, 3), np.float32)},
        "img_size": (8, 8, 3),
        "clean_data": "cifar10",
        "bd_train": None,
        "bd_test": {
            "bd_data_container": {
                "save_folder_path": FOLDER,
                "data_dict": data_dict,
                "save_file_format": ".png",
            }
        },
    } | changes


def written(folder, data_dict, **changes):
    """An attack_result.pt with two images beside it, index 7 of class 3 and 9 of class 5."""
    for index, label, image in ((7, 3, IMAGES[0]), (9, 5, IMAGES[1])):
        path = folder / f"bd_test_dataset/{label}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    torch_writer.write(folder / "attack_result.pt", content(data_dict, **changes))
    return folder / "attack_result.pt"


def read(path):
    return backdoorbench.read(foreign.read(path), 8)


def test_images_are_found_beside_the_file(tmp_path):
    path = written(tmp_path, {"7": entry(7, 3), "9": entry(9, 5, target=6)})
    torch_writer.write(tmp_path / "info.pickle", {"attack": "badnet", "attack_target": 0})
    found = read(path)
    assert (found.model_name, found.num_classes, found.attack) == ("preactresnet18", 10, "badnet")
    np.testing.assert_array_equal(found.triggered.images, IMAGES[:2])
    np.testing.assert_array_equal(found.triggered.labels, [3, 5])
    np.testing.assert_array_equal(found.triggered.targets, [0, 6])
    assert found.triggered.indices is None


def test_images_of_the_target_class_do_not_count(tmp_path):
    assert read(written(tmp_path, {"7": entry(7, 3, target=3)})).triggered is None


def test_as_pytorch_and_backdoorbench_write_it(tmp_path):
    torch = pytest.importorskip("torch")
    # BackdoorBench's keys come from np.arange, and images can be pickled into the file.
    pictures = {
        index: (Image.fromarray(image), 0, np.int64(4))
        for index, image in zip(np.arange(3), IMAGES, strict=True)
    }
    result = content(pictures, model={"conv1.weight": torch.ones(2)})
    result["bd_test"] |= {"original_index_array": np.arange(3), "poison_indicator": np.ones(3)}
    torch.save(result, tmp_path / "attack_result.pt")
    torch.save(
        {"attack": "sig", "device": torch.device("cpu"), "lr": np.float64(0.1)}, tmp_path / "info.pickle"
    )
    found = read(tmp_path / "attack_result.pt")
    np.testing.assert_array_equal(found.triggered.images, IMAGES)
    np.testing.assert_array_equal(found.triggered.labels, [4, 4, 4])
    assert found.attack == "sig"


def opcodes(value):
    """The pickle of a value, as instructions within a larger pickle."""
    return pickle.dumps(value, 2)[2:-1]


def with_images(folder, data_dict, num_classes=10):
    """An attack_result.pt with images inside of it, made without PyTorch; `data_dict` are instructions."""
    container = mapping(save_folder_path=text(FOLDER), data_dict=data_dict)
    result = mapping(
        model_name=text("vgg19_bn"),
        num_classes=number(num_classes),
        model=mapping(a=tensor()),
        bd_test=mapping(bd_data_container=container),
    )
    (folder / "attack_result.pt").write_bytes(zipped(program(result)))
    return folder / "attack_result.pt"


def test_images_inside_of_the_file(tmp_path):
    grey = Image.fromarray(IMAGES[2]).convert("L")
    pictures = {
        np.int64(0): (Image.fromarray(IMAGES[0]), np.int64(1), np.int64(4)),
        np.int64(1): (Image.fromarray(IMAGES[1]), 2, 2),  # of the target class
        np.int64(2): (grey, 3, 5, "more"),
    }
    found = read(with_images(tmp_path, opcodes(pictures)))
    np.testing.assert_array_equal(found.triggered.images[0], IMAGES[0])
    np.testing.assert_array_equal(found.triggered.images[1], np.asarray(grey)[..., None].repeat(3, 2))
    np.testing.assert_array_equal(found.triggered.labels, [4, 5])
    np.testing.assert_array_equal(found.triggered.targets, [1, 3])


@pytest.mark.parametrize(
    ("picture", "part"),
    [
        (Image.new("RGBA", (8, 8)), "8-bit RGB or grey"),
        (Image.new("P", (8, 8)), "8-bit RGB or grey"),
        (Image.new("F", (8, 8)), "8-bit RGB or grey"),
        (Image.new("RGB", (4, 8)), "4 x 8 pixels"),
    ],
)
def test_images_of_another_kind_inside_of_the_file(picture, part, tmp_path):
    with pytest.raises(UserError, match=part):
        read(with_images(tmp_path, opcodes({0: (picture, 1, 2)})))


GREY = text("L")


def image_with(mode=GREY):
    """Instructions for an image of 8 x 8 pixels, whose mode can be anything."""
    data = b"c_codecs\nencode\n" + text("A" * 64) + text("latin1") + b"\x86R"
    return b"cPIL.Image\nImage\n)\x81](}" + mode + b"K\x08K\x08\x86N" + data + b"eb"


def doubled(start, wrap):
    """Instructions for a value that holds itself twice, in which each does, and so on: 2**60 parts."""
    return start + b"".join(b"q" + bytes([n]) + b"0" + wrap.replace(b"_", bytes([n])) for n in range(60))


ONE_TWO = number(1) + number(2)
PAIR, LIST = b"h_h_\x86", b"](h_h_e"
HOSTILE = {
    "a mode that hashes for ever": image_with(doubled(b")", PAIR)) + ONE_TWO + b"\x87",
    "a mode that cannot be hashed": image_with(b"]") + ONE_TWO + b"\x87",
    "a label that prints for ever": image_with() + doubled(b"]", LIST) + number(1) + b"\x87",
    "a deep label": image_with() + b"]" * 100_000 + b"a" * 99_999 + number(1) + b"\x87",
    "a label on several lines": image_with() + text("a\n\x1b[2J") + number(1) + b"\x87",
    "a label beyond the classes": image_with() + number(2**40) + number(1) + b"\x87",
    "a pipe": mapping(path=text(f"{FOLDER}/pipe.png"), other_info=b"(" + ONE_TWO + b"t"),
    "a link that leads out": mapping(path=text(f"{FOLDER}/link.png"), other_info=b"(" + ONE_TWO + b"t"),
    "a path on several lines": mapping(path=text(f"{FOLDER}/a\n\x1b[2J"), other_info=b"(" + ONE_TWO + b"t"),
    "a path without end": mapping(path=text(f"{FOLDER}/{'x' * 100_000}"), other_info=b"(" + ONE_TWO + b"t"),
    "a path with a zero": mapping(path=text(f"{FOLDER}/a\0.png"), other_info=b"(" + ONE_TWO + b"t"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_entries_that_mean_harm(name, tmp_path):
    folder = tmp_path / "run/bd_test_dataset"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe.png")
    Image.fromarray(IMAGES[0]).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError) as caught:
        read(with_images(tmp_path / "run", mapping(a=HOSTILE[name])))
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400


def test_one_image_named_a_million_times(tmp_path):
    names = b"".join(text(str(n)) + b"h\x00" for n in range(100_000))
    entries = b"}(" + text("a") + image_with() + ONE_TWO + b"\x87q\x00" + names + b"u"
    path = with_images(tmp_path, entries)
    with pytest.raises(UserError, match="found 100001 images in bd_test"):
        backdoorbench.read(foreign.read(path), 224)


@pytest.mark.parametrize("count", [0, -1, 2**40])
def test_numbers_of_classes_that_no_network_has(count, tmp_path):
    with pytest.raises(UserError, match="model_name and num_classes"):
        read(with_images(tmp_path, mapping(a=image_with() + ONE_TWO + b"\x87"), count))


def test_the_folder_of_images_can_be_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    path = written(tmp_path / "run", {"7": entry(7, 3)})
    (tmp_path / "run/bd_test_dataset").rename(tmp_path / "elsewhere")
    (tmp_path / "run/bd_test_dataset").symlink_to(tmp_path / "elsewhere")
    np.testing.assert_array_equal(read(path).triggered.images, IMAGES[:1])


def test_other_files_are_not_backdoorbenchs(tmp_path):
    torch_writer.write(tmp_path / "x.pt", {"model": {"w": np.ones(2, np.float32)}})
    assert read(tmp_path / "x.pt") is None


@pytest.mark.parametrize(
    "stored",
    [
        "../../secret.png",
        "/etc/passwd",
        f"{FOLDER}/../../secret.png",
        f"{FOLDER}/3/../../../secret.png",
        "bd_test_dataset\\..\\..\\secret.png",
        "",
    ],
)
def test_paths_do_not_lead_out_of_the_folder(stored, tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "secret.png")
    (tmp_path / "run").mkdir()
    path = written(tmp_path / "run", {"7": {"path": stored, "other_info": [0, 3]}})
    with pytest.raises(UserError, match=r"expected one inside of|no such image"):
        read(path)


@pytest.mark.parametrize(
    ("data_dict", "part"),
    [
        ({"1": entry(1, 3)}, "found no such image"),
        ({"7": entry(7, 3, target=10)}, "found a label 10"),
        ({"7": entry(7, 3, target=-1)}, "found a label -1"),
        ({"7": entry(7, 3, target="0")}, "found a label 0"),
        ({"7": entry(7, 3) | {"other_info": [1]}}, "without labels"),
        ({"7": 5}, "that is no image"),
        ({"7": (1, 2, 3)}, "that is no image"),
    ],
)
def test_what_does_not_fit_is_named(data_dict, part, tmp_path):
    with pytest.raises(UserError, match=part):
        read(written(tmp_path, data_dict))


def test_files_of_another_kind_are_named(tmp_path):
    path = written(tmp_path, {"7": entry(7, 3)})
    with pytest.raises(UserError, match=r"8 x 8 pixels, expected dataset\.image_size = 32"):
        backdoorbench.read(foreign.read(path), 32)
    image = tmp_path / "bd_test_dataset/3/7.png"
    whole = image.read_bytes()
    for damaged in (b"<html>", whole[:40], whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:]):
        image.write_bytes(damaged)
        with pytest.raises(UserError, match="expected a PNG image"):
            read(path)
    with pytest.raises(UserError, match="bd_data_container"):
        read(written(tmp_path, {}, bd_test={"x": 1}))
    with pytest.raises(UserError, match="model_name and num_classes"):
        read(written(tmp_path, {}, num_classes="ten"))
