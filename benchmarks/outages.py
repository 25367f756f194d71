"""Runs that are killed, and files that a power cut took: the next start goes on, mends, or names the file.

    python -m benchmarks.outages --kills=50 --out=benchmarks/results/outages

A small run is killed (-9) at random moments and begun again until it ends; its numbers have to be those of a run that
nobody disturbed. Then every file of a finished run and of one that was stopped half-way is emptied or cut in half, one
at a time. Writes OUT.json and OUT.md, and leaves out a part that OUT.json has; anything else than going on, mending and
naming ends with exit status 1.
"""

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fip_jax import experiment
from fip_jax.config import default_config
from fip_jax.errors import UserError
from fip_jax.progress import console
from fip_jax.workdir import write_json, write_whole

SETTINGS = {
    "dataset.image_size": 16,
    "model.width": 2,
    "victim.epochs": 2,
    "victim.batch_size": 32,
    "clean.fraction": 0.2,
    "attack.target": 1,
    "defense.name": "ft",
    "defense.steps": 8,
    "defense.batch_size": 16,
    "defense.inversion.steps": 4,
    "smoothness.max_iterations": 2,
    "smoothness.num_images": 16,
    "smoothness.over_time.num_images": 0,
    "report.representations": 0,
    "report.eval_every": 4,
    "report.eval_images": 16,
    "report.checkpoint_seconds": 0.0,
}
UNLIKE = ("seconds", "files", "versions", "hardware")


def images(path: Path) -> None:
    """Random images of five classes, which is enough for numbers to differ."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 160), ("test", 40)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 5
    np.savez(path, **arrays)


def numbers(folder: Path) -> dict[str, Any]:
    """`summary.json` without times and places."""
    summary = json.loads((folder / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in UNLIKE}


def start(folder: Path, data: Path) -> subprocess.Popen:
    """The run as a program of its own."""
    flags = [f"--config.{key}={value}" for key, value in {**SETTINGS, "dataset.name": data}.items()]
    command = [sys.executable, "-m", "fip_jax.main", "--config=configs/quickstart.py", f"--workdir={folder}"]
    return subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kills(count: int, place: Path) -> dict[str, int]:
    """Outcomes of so many kills; every other one waits for the report or the summary to be written."""
    moments, found = random.Random(0), collections.Counter[str]()
    # The first compiles; the second takes as long as those that are killed.
    for name in ("compiled", "straight"):
        begun = time.monotonic()
        _, message = (whole := start(place / name, place / "own.npz")).communicate()
        if whole.returncode:
            raise UserError(message)
    length, attempt = time.monotonic() - begun, 0
    folder = place / "broken 0"
    while sum(found[key] for key in ("killed", "killed at the report")) < count:
        run, late = start(folder, place / "own.npz"), moments.random() < 0.5
        until = time.monotonic() + (2 if late else moments.uniform(0.1, 1)) * length
        while run.poll() is None and time.monotonic() < until and not (late and _writing(folder)):
            time.sleep(0.001)
        if run.poll() is None:
            found["killed at the report" if late and _writing(folder) else "killed"] += 1
            run.kill()
        _, message = run.communicate()
        if run.returncode == 0:
            found["ended with the same numbers" if _same(folder, place) else "ended with OTHER numbers"] += 1
            attempt += 1
            folder = place / f"broken {attempt}"
        elif run.returncode != -9:
            found[f"FAILED: {message[-200:]}"] += 1
            attempt += 1
            folder = place / f"broken {attempt}"
    last = start(folder, place / "own.npz")
    last.communicate()
    found["ended with the same numbers" if _same(folder, place) else "ended with OTHER numbers"] += 1
    return dict(found)


def _writing(folder: Path) -> bool:
    return any(folder.glob(".report.html.draft")) or any(folder.glob(".summary.json.draft"))


def _same(folder: Path, place: Path) -> bool:
    return numbers(folder) == numbers(place / "straight")


def cuts(place: Path, finished: bool) -> dict[str, int]:
    """Outcomes of starts after each file of a run was emptied or cut in half, by turns."""
    config = default_config()
    config.update_from_flattened_dict({**SETTINGS, "dataset.name": str(place / "own.npz")})
    whole = place / f"whole {finished}"
    experiment.run(config, whole)
    expected = numbers(whole)
    if not finished:
        for lost in ("summary.json", "report.html", "purified.safetensors"):
            (whole / lost).unlink()
        shutil.rmtree(whole / "purified")
        last = max((whole / "checkpoints" / "purify").glob("[0-9]*"), key=lambda path: int(path.name))
        shutil.rmtree(last)
    found: collections.Counter[str] = collections.Counter()
    for index, file in enumerate(sorted(file for file in whole.rglob("*") if file.is_file())):
        name = file.relative_to(whole)
        folder = place / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        content = file.read_bytes()
        (folder / name).write_bytes(b"" if index % 2 else content[: len(content) // 2])
        outcome = _outcome(config, folder, expected)
        found[outcome] += 1
        if outcome.isupper() or ":" in outcome:
            console.print(f"{name}: {outcome}", markup=False)
    return dict(found)


def _outcome(config: Any, folder: Path, expected: dict[str, Any]) -> str:
    try:
        experiment.run(config, folder)
    except UserError as error:
        return "named" if str(folder) in str(error) else f"UNCLEAR: {error}"
    except Exception as error:  # what must not happen is what is looked for
        return f"FAILED: {type(error).__name__}: {str(error)[:100]}"
    return "went on or mended" if numbers(folder) == expected else "OTHER NUMBERS"


def main() -> int:
    """Kills and power cuts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    out = Path(f"{options.out}.json")
    found = json.loads(out.read_text()) if out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="fip_jax_outages_") as folder:
        place = Path(folder)
        images(place / "own.npz")
        # The same programs are compiled in every run.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        jax.config.update("jax_compilation_cache_dir", folder)
        parts: dict[str, Callable[[], dict[str, int]]] = {
            "power cut, finished run": lambda: cuts(place, True),
            "kill -9": lambda: kills(options.kills, place),
            "power cut, unfinished run": lambda: cuts(place, False),
        }
        for name, part in parts.items():
            if name not in found:
                found[name] = part()
                write_json(out, found)
    lines = ["| what happened | outcome | times |", "|---|---|---|"]
    lines += [
        f"| {what} | {outcome} | {times} |"
        for what, counts in found.items()
        for outcome, times in counts.items()
    ]
    write_whole(Path(f"{options.out}.md"), ("\n".join(lines) + "\n").encode())
    return int(
        any(
            word in outcome
            for counts in found.values()
            for outcome in counts
            for word in ("OTHER", "FAILED", "UNCLEAR")
        )
    )


if __name__ == "__main__":
    sys.exit(main())
