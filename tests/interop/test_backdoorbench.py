"""`attack_result.pt`: its triggered images from beside the file or inside of it, and nothing from elsewhere."""

import numpy as np
import pytest
from PIL import Image

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
