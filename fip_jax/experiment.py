"""The story of a run: data, a suspicious network, a look at it, its purification, another look, a report."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fip_jax import constructed, export, finished, given, implant, over_time, purify, suspect
from fip_jax.analysis import Analysis
from fip_jax.attacks.export import export_poisoned
from fip_jax.change import change
from fip_jax.config import check_config
from fip_jax.data import coverage
from fip_jax.data.own_images import is_path
from fip_jax.defend import check_sizes
from fip_jax.description import describe
from fip_jax.errors import UserError
from fip_jax.evaluate import Predict, Rates, effectiveness, make_predict, rates
from fip_jax.interop.state_dict import listing
from fip_jax.inversion import Triggers
from fip_jax.material import Material, for_export, prepare
from fip_jax.over_time import OverTime
from fip_jax.phase import Measure, Row
from fip_jax.plausible import check_answers
from fip_jax.progress import Task, console
from fip_jax.purification import purify_suspect
from fip_jax.report import figures, html, tensorboard, text, verdict
from fip_jax.suspect import Suspect
from fip_jax.version import __version__
from fip_jax.workdir import Workdir, write_json

_POISONED = "poisoned"  # the folder of `attack.export`
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def run(config: ConfigDict, workdir_path: Path, command: str | None = None) -> dict[str, Any]:
    """Does what a config asks for, from wherever an earlier start in the same folder was stopped.

    Args:
      config: as from `config.default_config`.
      workdir_path: the run's folder.
      command: the command line that asked for it, for the report; None for a run from Python.

    Returns:
      The content of `summary.json`.

    Raises:
      UserError: something the user can put right.
    """
    check_config(config)
    watch = _watching(config)
    workdir = Workdir(workdir_path, config.to_dict(), watch)
    done = _whole_summary(workdir)
    if done is not None and not _to_export(config, workdir):
        console.print("this run was finished before")
        given.check_finished(config, done.get("given", {}))
        done = _judged(done, config)
        report = workdir.path / "report.html"
        if not report.exists() or not report.stat().st_size:
            html.write(workdir.path, done, command)
        watch(workdir.path)
        text.print_summary(done, workdir.path)
        return done
    loaded = suspect.load(config) if config.victim.checkpoint else None
    material = _with_delivered(prepare(config, loaded.num_classes if loaded else None), loaded)
    fresh = loaded or suspect.build(describe(config, len(material.class_names)), config.seed)
    _check_classes(config, fresh, material)
    for sentence in _classes(config, material)["classes_in_words"]:
        console.print(sentence, markup=False)
    implant.check(config, fresh, material)
    if fresh.foreign is not None and config.clean.source == "train" and not is_path(config.dataset.name):
        console.print(
            f"nothing says which images {fresh.foreign.path.name} was trained on; if on those of "
            f"{config.dataset.name}, give --config.clean.source=test",
            markup=False,
        )
    if loaded is not None:
        trees = loaded.params, loaded.model_state
        if config.mode == "purify":
            export.check(loaded)
        check_answers(config.victim.checkpoint, loaded.network, *trees, material.clean.images)
    if config.mode == "purify":
        check_sizes(config, len(material.clean.labels))
    workdir.begin()
    try:
        return _story(config, workdir, material, fresh, command)
    finally:
        workdir.close()


def _whole_summary(workdir: Workdir) -> dict[str, Any] | None:
    """The summary of a finished run that still has all that it wrote, else None."""
    summary = workdir.summary()
    lost = finished.damaged(workdir.path, summary) if summary is not None else []
    if lost:
        names = listing(lost)
        console.print(
            f"missing or damaged since this run was finished, and made again: {names}", markup=False
        )
    return None if lost else summary


def _to_export(config: ConfigDict, workdir: Workdir) -> bool:
    return config.attack.export and not (workdir.path / _POISONED).exists()


def _watching(config: ConfigDict) -> Callable[[Path], None]:
    """What is to be done with the folder after every row."""
    if not config.report.tensorboard:
        return lambda _: None
    tensorboard.check()
    return tensorboard.write


def _with_delivered(material: Material, loaded: Suspect | None) -> Material:
    """The data with the triggered test images that came with the network, where no attack is named."""
    if loaded is None or loaded.backdoorbench is None or material.triggered is not None:
        return material
    return material._replace(triggered=loaded.backdoorbench.triggered)


def _check_classes(config: ConfigDict, network: Suspect, material: Material) -> None:
    if network.num_classes != len(material.class_names):
        raise UserError(
            f"victim.checkpoint: {config.victim.checkpoint} has {network.num_classes} classes, expected "
            f"{len(material.class_names)}, as in the data set {config.dataset.name}"
        )


def _classes(config: ConfigDict, material: Material) -> dict[str, Any]:
    parts = material.clean.labels, material.test.labels
    return coverage.account(*parts, material.class_names, of_clean=config.mode == "purify")


def _judged(summary: dict[str, Any], config: ConfigDict) -> dict[str, Any]:
    """The summary with its verdict, a word of `grades.GRADES`, and the same in a sentence."""
    found = verdict.judge(summary, config.to_dict())
    return summary | {"verdict": found.grade, "headline": found.headline}


def _story(
    config: ConfigDict, workdir: Workdir, material: Material, fresh: Suspect, command: str | None
) -> dict[str, Any]:
    was_given = given.check(config, material, workdir)
    predict = make_predict(fresh.network, config.report.eval_precision)
    sharpness = OverTime(config, fresh, material.test, workdir)

    def measure(state: Suspect | purify.State, material: Material = material) -> Row:
        return _rates(predict, state, material, config.report.eval_images) | sharpness(state)

    victim = fresh
    if not config.victim.checkpoint:
        victim, material = implant.implant(config, fresh, material, workdir, measure)
    if _to_export(config, workdir):
        export_poisoned(workdir.path / _POISONED, for_export(material, config), victim)
    done = _whole_summary(workdir)
    if done is not None:  # begun again for the export alone
        text.print_summary(done, workdir.path)
        return done
    analysis = Analysis(config, fresh, material.test)
    before = workdir.once("victim", lambda: _all_rates(predict, victim, material))
    text.print_rates(before, "suspicious network")
    summary = _begun_summary(config, material, victim, before) | {"given": was_given}
    if config.mode == "inspect":
        _, told = _constructed(config, workdir, material, victim)
        if told:
            summary["constructed"] = told["classes"]
        summary["smoothness"] = {"before": analysis.whole(victim, workdir)}
        figures.draw_inspection(workdir.path, material, victim, predict, summary["smoothness"]["before"])
        shown: tuple[Suspect, ...] = (victim,)
    else:
        found, purified = _purify(
            config,
            workdir,
            material,
            victim,
            before,
            _sparing(config, predict, material, sharpness),
            analysis,
        )
        summary |= found
        shown = (victim, purified)
    figures.draw_representations(workdir.path, material, shown, config.report.representations, config.seed)
    if measured := over_time.account(workdir):
        summary["over_time"] = measured
    summary["seconds"] = over_time.seconds(workdir) | summary.get("seconds", {})
    summary = _judged(summary, config)
    html.write(workdir.path, summary, command)
    workdir.check_held()
    summary["files"] = finished.inventory(workdir.path)
    # Last, because it says that the run is finished.
    write_json(workdir.path / "summary.json", summary)
    text.print_summary(summary, workdir.path)
    return summary


def _purify(
    config: ConfigDict,
    workdir: Workdir,
    material: Material,
    victim: Suspect,
    before: dict[str, Any],
    measure: Measure,
    analysis: Analysis,
) -> tuple[dict[str, Any], Suspect]:
    console.print("inspect the suspicious network")
    smooth_before = workdir.once("smoothness_before", lambda: analysis.brief(victim))
    triggers, told = _constructed(config, workdir, material, victim)
    purified = purify_suspect(config, victim, material.clean, workdir, measure, material.unlabeled, triggers)
    console.print("inspect the purified network")
    predict = make_predict(purified.suspect.network, config.report.eval_precision)
    after = workdir.once("purified", lambda: _all_rates(predict, purified.suspect, material))
    smooth_after = workdir.once("smoothness_after", lambda: analysis.brief(purified.suspect))

    figures.draw_all(workdir.path, material, (victim, purified.suspect), predict)
    held = {"held_back": [part._asdict() for part in purified.held_back]} if purified.held_back else {}
    searched: dict[str, Any] = {"constructed": told["classes"]} if told else {}
    if triggers is not None:
        searched["constructed_asr"] = [
            constructed.turned(predict, (network.params, network.model_state), material.test, triggers)
            for network in (victim, purified.suspect)
        ]
    return held | searched | {
        "purified": {**after, "der": effectiveness(Rates(**before), Rates(**after))},
        "smoothness": {"before": smooth_before, "after": smooth_after},
        "seconds": {"purify": purified.seconds + (told["seconds"] if told else 0.0)},
        "skipped_steps": purified.num_skipped,
        **change(victim.params, purified.suspect.params),
        "defense": config.defense.name,
    }, purified.suspect


def _constructed(
    config: ConfigDict, workdir: Workdir, material: Material, victim: Suspect
) -> tuple[Triggers | None, dict[str, Any] | None]:
    """(triggers to unlearn, {"classes", "seconds"}), if any are asked for, printed and drawn."""
    network = victim.network, victim.params, victim.model_state
    subject = constructed.Subject(config, *network, material.clean, material.unlabeled)
    kept = constructed.once(subject, workdir, again=config.mode == "purify")
    if kept is None:
        return None, None
    found, seconds = kept
    classes = constructed.described(found, material.class_names)
    console.print(constructed.say(classes), markup=False)
    figures.draw_constructed(workdir.path, found[0], classes, material.clean.images[0])
    return found[1], {"classes": classes, "seconds": seconds}


def _sparing(config: ConfigDict, predict: Predict, material: Material, sharpness: OverTime) -> Measure:
    """What is measured of a purification: rates in every row, sharpness in so many as are asked for."""
    options, every = config.smoothness.over_time, config.report.eval_every
    due = over_time.at_most(options.points, config.defense.steps, every)

    def measure(state: purify.State) -> Row:
        row: Row = _rates(predict, state, material, config.report.eval_images)
        return row | sharpness(state) if due(int(state.step)) else row

    return measure


def _begun_summary(
    config: ConfigDict, material: Material, victim: Suspect, before: dict[str, Any]
) -> dict[str, Any]:
    return {
        "mode": config.mode,
        "victim": before,
        "clean_images": len(material.clean.labels),
        "unlabeled_images": 0 if material.unlabeled is None else len(material.unlabeled),
        "test_images": len(material.test.labels),
        "triggered_images": len(material.triggered.labels) if material.triggered else None,
        "attack": _attack(config, victim),
        "network": _network(victim),
        **_classes(config, material),
        "seed": config.seed,
        **environment(),
    }


def _network(victim: Suspect) -> dict[str, Any]:
    """What is purified: its description, and where the file that it came in has copies of it."""
    kept = ("model", "num_classes", "image_size", "mean", "std")
    file = {"copies": listing(victim.foreign.copies)} if victim.foreign else {}
    return {key: victim.description[key] for key in kept} | file


def _rates(
    predict: Predict,
    network: Suspect | purify.State,
    material: Material,
    limit: int | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Row:
    trees = network.params, network.model_state
    return rates(predict, *trees, material.test, material.triggered, limit, on_images)._asdict()


def _all_rates(predict: Predict, network: Suspect, material: Material) -> Row:
    count = len(material.test.labels) + (len(material.triggered.labels) if material.triggered else 0)
    with Task("evaluate on all test images", count, brief=True) as task:
        return _rates(predict, network, material, None, task.update)


def _attack(config: ConfigDict, victim: Suspect) -> str:
    delivered = victim.backdoorbench and victim.backdoorbench.attack
    return delivered if delivered and config.attack.name == "none" else config.attack.name


def environment() -> dict[str, Any]:
    """What a number was measured with: versions of packages, and hardware."""
    devices = jax.devices()
    own = {"fip_jax": __version__, "python": platform.python_version()}
    return {
        "versions": own | {name: version(name) for name in PACKAGES},
        "hardware": {
            "platform": devices[0].platform,
            "device": devices[0].device_kind,
            "num_devices": len(devices),
            "processor": platform.processor() or platform.machine(),
            "cpu_count": os.cpu_count(),
        },
    }
