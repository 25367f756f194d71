"""What becomes of damaged and hostile input: read right, or refused in one sentence, and nothing else.

    python -m benchmarks.fuzz --mutants=3000 --out=benchmarks/results/robustness

Each mutant is a whole input with a few bytes changed, a piece cut out, repeated or moved, a number made large, or a
file emptied, removed, or in the place of another. Writes OUT.json and OUT.md with the counts. What is neither
`read` nor `refused` is a fault, and ends with exit status 1.
"""

import argparse
import collections
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fip_jax import checkpoint, workdir
from fip_jax.data import own_images
from fip_jax.errors import UserError
from fip_jax.interop import backdoorbench, foreign, torch_writer
from fip_jax.progress import console
from fip_jax.workdir import write_json, write_whole

SLOW = 5.0  # seconds of the processor
NUMBERS = (0, 1, 127, 128, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes that were changed somewhere."""
    found = bytearray(data)
    if not found:
        return rng.bytes(8)
    at, other = (int(place) for place in rng.integers(0, len(found), 2))
    match int(rng.integers(7)):
        case 0:
            for place in rng.integers(0, len(found), rng.integers(1, 6)):
                found[place] ^= 1 << int(rng.integers(8))
        case 1:
            del found[at:]
        case 2:
            del found[min(at, other) : max(at, other)]
        case 3:
            found[at:at] = found[min(at, other) : max(at, other)]
        case 4:
            size = int(rng.choice([1, 2, 4, 8]))
            found[at : at + size] = (int(rng.choice(NUMBERS)) % (1 << 8 * size)).to_bytes(size, "little")
        case 5:
            found[at : at + 8] = rng.bytes(8)
        case _:
            digits = [place for place, byte in enumerate(found) if chr(byte).isdigit()] or [at]
            place = int(rng.choice(digits))
            found[place : place + 1] = str(int(rng.choice(NUMBERS))).encode()
    return bytes(found)


def damage(folder: Path, rng: np.random.Generator) -> None:
    """Changes one file of a folder, empties or removes it, or puts another in its place."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = files[rng.integers(len(files))]
    match int(rng.integers(8)):
        case 0:
            file.write_bytes(b"")
        case 1:
            file.unlink()
        case 2:
            shutil.copyfile(files[rng.integers(len(files))], folder / "copy")
            (folder / "copy").replace(file)
        case _:
            file.write_bytes(mutate(file.read_bytes(), rng))


def network_folder(folder: Path) -> Callable[[Path], object]:
    """A network as Orbax wrote it."""
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)},
        "b": np.ones(3, np.float32),
    }
    checkpoint.save_model(
        folder, params, {"norm": {"mean": np.ones(4, np.float32)}}, {"format": "x", "mean": [0.5]}
    )
    like = checkpoint.load_arrays(folder)

    def read(place: Path) -> None:
        same = checkpoint.load_description(place) == {"format": "x", "mean": [0.5]}
        found = checkpoint.load_model(place, like["params"], like["model_state"])
        if not same or any(map(np.any, map(np.not_equal, _leaves(found), _leaves(like)))):
            raise AssertionError("read as something else")

    return read


def _leaves(tree: object) -> list[np.ndarray]:
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple) else None
    return [np.asarray(tree)] if values is None else [leaf for part in values for leaf in _leaves(part)]


def arrays(folder: Path) -> Callable[[Path], object]:
    """An `.npz` of images, stored without compression, so that most of what is changed is read."""
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    names = np.array(["stop", "yield", "größe"])
    np.savez(folder / "own.npz", clean_images=images, clean_labels=np.arange(6) % 3, class_names=names)
    return lambda place: own_images.load(str(place / "own.npz"), 8, "auto")


def backdoorbench_folder(folder: Path) -> Callable[[Path], object]:
    """BackdoorBench's `attack_result.pt` with its images and a valid `info.pickle` beside it."""
    folder.mkdir()
    entries = {}
    for index in range(3):
        name = f"bd_test_dataset/1/{index}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / name)
        entries[str(index)] = {"path": f"/record/{name}", "other_info": [0, 1]}
    content = {
        "model_name": "net",
        "num_classes": 3,
        "model": {"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)},
        "bd_test": {
            "bd_data_container": {"save_folder_path": "/record/bd_test_dataset", "data_dict": entries}
        },
    }
    torch_writer.write(folder / "attack_result.pt", content)
    torch_writer.write(folder / "info.pickle", {"attack": "badnet", "pratio": 0.1, "epochs": 3})

    def read(place: Path) -> None:
        found = backdoorbench.read(foreign.read(place / "attack_result.pt"), 8)
        if (
            found is not None
            and found.triggered is not None
            and found.triggered.images.shape[1:] != (8, 8, 3)
        ):
            raise AssertionError("read as something else")

    return read


CONFIG = {"seed": 0, "dataset": {"name": "a"}, "victim": {"checkpoint": ""}}


def run_folder(folder: Path) -> Callable[[Path], object]:
    """The files of a run's own folder, a picture among them."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "figures").mkdir()
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "summary.json", {"mode": "purify", "victim": {"acc": 0.5}, "files": {}})
    write_json(
        folder / "checkpoints" / "results.json",
        {"seconds": {"total": 1.5, "compile": 0.5}, "victim": {"acc": 1}},
    )
    log = workdir.MetricsLog(folder / "metrics.jsonl")
    for step in range(4):
        log.append("purify", step, loss=step / 4, asr=None)

    def read(place: Path) -> None:
        held = workdir.Workdir(place, CONFIG)
        held.summary()
        try:
            held.begin()
            held.seconds()
            held.log_row("purify", 9, loss=1.0)
            held.save()
            log = workdir.MetricsLog(place / "metrics.jsonl")
            log.rewind("purify", 2)
            log.rows("purify")
        finally:
            held.close()

    return read


INPUTS = {
    "network in an Orbax folder": network_folder,
    "images in an .npz": arrays,
    "BackdoorBench folder": backdoorbench_folder,
    "a run's own files": run_folder,
}


def campaign(
    make: Callable[[Path], Callable[[Path], object]], count: int, seed: int, place: Path
) -> dict[str, int]:
    """Counts of the outcomes of so many mutants."""
    read = make(place / "whole")
    read(place / "whole")
    found: collections.Counter[str] = collections.Counter(read=0, refused=0)
    rng = np.random.default_rng(seed)
    for index in range(count):
        mutant = place / "mutant"
        shutil.rmtree(mutant, ignore_errors=True)
        shutil.copytree(place / "whole", mutant)
        damage(mutant, rng)
        begun = time.process_time()
        outcome = _outcome(read, mutant)
        if time.process_time() - begun > SLOW:
            outcome = "slow"
        found[outcome] += 1
        if outcome not in ("read", "refused"):
            console.print(f"{make.__name__}, mutant {index}: {outcome}", markup=False)
    return dict(found)


def _outcome(read: Callable[[Path], object], mutant: Path) -> str:
    try:
        read(mutant)
    except UserError as error:
        return "refused" if "\n" not in str(error) else "a sentence on several lines"
    except Exception as error:  # what must not happen is what is looked for
        return f"{type(error).__name__}: {str(error)[:100]}"
    return "read"


def main() -> int:
    """The whole campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=3000, help="of each input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    parser.add_argument("--inputs", nargs="*", default=list(INPUTS), help="names of inputs")
    options = parser.parse_args()
    found = {}
    for name in options.inputs:
        with tempfile.TemporaryDirectory(prefix="fip_jax_fuzz_") as place:
            found[name] = campaign(INPUTS[name], options.mutants, options.seed, Path(place))
            console.print(f"{name}: {found[name]}", markup=False)
    write_json(
        Path(f"{options.out}.json"), {"mutants": options.mutants, "seed": options.seed, "found": found}
    )
    lines = ["| input | mutants | read | refused in a sentence | anything else |", "|---|---|---|---|---|"]
    for name, counts in found.items():
        rest = sum(counts.values()) - counts["read"] - counts["refused"]
        lines.append(
            f"| {name} | {sum(counts.values()):,} | {counts['read']:,} | {counts['refused']:,} | {rest} |"
        )
    write_whole(Path(f"{options.out}.md"), ("\n".join(lines) + "\n").encode())
    return int(any(set(counts) - {"read", "refused"} for counts in found.values()))


if __name__ == "__main__":
    sys.exit(main())
