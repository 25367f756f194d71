"""Shows every attack: test images clean, triggered, and the difference ten times as large; writes `docs/attacks.md`.

    python -m benchmarks.gallery --config=configs/quickstart.py --workdir=runs/gallery --out=docs

An attack that learns its trigger is trained in a folder of its own in the workdir, with its victim, unless
`WORKDIR/NAME/attack` of an earlier run is there. SSIM, PSNR and l-infinity are means over the triggered test images.
With `--attacks` the others are as `OUT/attacks/likeness.json` has them from before.
"""

import argparse
import inspect
import re
import runpy
import textwrap
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from fip_jax import compiled, suspect
from fip_jax.attacks import ATTACKS, create_attack
from fip_jax.attacks.attack import Goal, TriggeredSet
from fip_jax.attacks.poison import triggered_test_set
from fip_jax.attacks.similarity import largest_change, psnr, ssim
from fip_jax.attacks.storage import load_state
from fip_jax.config import check_config
from fip_jax.data.split import Split
from fip_jax.description import describe
from fip_jax.implant import implant
from fip_jax.material import prepare
from fip_jax.progress import console
from fip_jax.version import __version__
from fip_jax.workdir import Workdir, read_json, write_json

NAMES = tuple(sorted(set(ATTACKS) - {"pattern"}))  # which is whatever the user gives
SHOWN = 6  # images in a figure
EARLIER = Path("attacks") / "likeness.json"
MEASURED = 512  # triggered images that the similarities are taken over


class Likeness(NamedTuple):
    """Means over images: SSIM, PSNR in dB, and the largest change of a pixel in grey levels."""

    ssim: float
    psnr: float
    largest: float


def likeness(clean: np.ndarray, triggered: np.ndarray) -> Likeness:
    """How much a trigger shows on uint8 images `[N, H, W, C]`."""
    structure = ssim(jnp.asarray(clean, jnp.float32), jnp.asarray(triggered, jnp.float32))
    return Likeness(
        float(structure.mean()),
        float(psnr(clean, triggered).mean()),
        float(largest_change(clean, triggered).mean()),
    )


def amplified(clean: np.ndarray, triggered: np.ndarray) -> np.ndarray:
    """uint8 images: mid-grey plus ten times the difference, saturated."""
    return np.clip(127 + 10 * (triggered.astype(int) - clean), 0, 255).astype(np.uint8)


def triggered_images(config: ConfigDict, name: str, test: Split, goal: Goal, workdir: Path) -> TriggeredSet:
    """Triggered test images of an attack, which is trained in `workdir/name` if it has to learn."""
    attack = create_attack(name, test.images.shape[1:], config.attack[name])
    assert attack is not None
    state = None
    if attack.learns_trigger:
        folder = workdir / name
        if not (folder / "attack").exists():
            _train(config, name, folder)
        made = config.attack.copy_and_resolve_references()
        made.name = name
        state = load_state(folder / "attack", made, test.images.shape[1:])
    return triggered_test_set(test, attack, goal, state)


def _train(config: ConfigDict, name: str, folder: Path) -> None:
    config = config.copy_and_resolve_references()
    config.attack.name = name
    check_config(config)
    material = prepare(config)
    fresh = suspect.build(describe(config, len(material.class_names)), config.seed)
    workdir = Workdir(folder, config.to_dict())
    workdir.begin()
    try:
        implant(config, fresh, material, workdir, lambda *_: {})
    finally:
        workdir.close()


def draw(name: str, clean: np.ndarray, triggered: np.ndarray, path: Path) -> None:
    """Writes a figure of three rows: clean, triggered, and the amplified difference."""
    rows = {"clean": clean, "triggered": triggered, "difference x 10": amplified(clean, triggered)}
    figure = Figure(figsize=(1.1 * len(clean) + 0.3, 3.5), layout="constrained")
    axes = figure.subplots(len(rows), len(clean), squeeze=False)
    for (title, images), row in zip(rows.items(), axes, strict=True):
        for image, axis in zip(images, row, strict=True):
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(title, fontsize=9)
    words = f"{len(clean)} test images clean, with the trigger of {name}, and ten times the difference."
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Title": name, "Description": words})


def page(found: dict[str, Likeness], command: str, dataset: str, count: int) -> str:
    """The page as Markdown: a table and figures of the attacks in `found`, and the definitions of all."""
    words = (
        f"Written by `{command}` with fip_jax {__version__}. Means over {count} triggered test images of `{dataset}`, "
        "or all that there are, at the default options; PSNR in dB, l-infinity in grey levels of 255. SSIM hardly sees "
        "the corners, which few of its windows reach."
    )
    lines = ["# Attacks", "", *textwrap.wrap(words, 120, break_on_hyphens=False), ""]
    lines += ["| attack | SSIM | PSNR | l-infinity |", "|---|---|---|---|"]
    for name, row in found.items():
        lines.append(f"| [{name}](#{name}) | {row.ssim:.3f} | {row.psnr:.1f} | {row.largest:.0f} |")
    for name in NAMES:
        definition = (inspect.getdoc(ATTACKS[name]) or "").split("\nArgs:")[0].strip()
        # Formulas hold asterisks and bars that Markdown would take for its own, but not in code.
        parts = definition.split("`")
        parts[::2] = [re.sub(r"[|*_]", r"\\\g<0>", text) for text in parts[::2]]
        words = "`".join(parts)
        figure = [f"![{name}](attacks/{name}.png)", ""] if name in found else []
        lines += ["", f"## {name}", "", *figure, words]
    return "\n".join(lines) + "\n"


def earlier(out: Path, dataset: str) -> dict[str, Likeness]:
    """What is known of attacks on a data set from before."""
    path = out / EARLIER
    content = read_json(path) if path.exists() else {}
    if content.get("dataset") != dataset:
        return {}
    return {name: Likeness(**row) for name, row in content["likeness"].items()}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.py"))
    parser.add_argument("--workdir", type=Path, required=True, help="folder for what attacks learn")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page")
    parser.add_argument("--attacks", nargs="+", choices=NAMES, default=list(NAMES))
    options = parser.parse_args(arguments)
    compiled.set_up()
    config = runpy.run_path(str(options.config))["get_config"]()
    config.attack.name = "none"
    material = prepare(config)
    goal = Goal(config.attack.mode, config.attack.target, len(material.class_names))
    found = earlier(options.out, config.dataset.name)
    for name in options.attacks:
        console.print(f"attack {name}")
        triggered = triggered_images(config, name, material.test, goal, options.workdir)
        assert triggered.indices is not None  # these are our own test images
        clean = material.test.images[triggered.indices]
        found[name] = likeness(clean[:MEASURED], triggered.images[:MEASURED])
        figure = options.out / "attacks" / f"{name}.png"
        draw(name, clean[:SHOWN], triggered.images[:SHOWN], figure)
    found = {name: found[name] for name in NAMES if name in found}
    rows = {name: row._asdict() for name, row in found.items()}
    write_json(options.out / EARLIER, {"dataset": config.dataset.name, "likeness": rows})
    command = f"python -m benchmarks.gallery --config={options.config} --workdir=FOLDER --out={options.out}"
    text = page(found, command, config.dataset.name, MEASURED)
    (options.out / "attacks.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
