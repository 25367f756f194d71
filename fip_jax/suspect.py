"""The suspicious network: trained here on poisoned data, or loaded from a folder or a file."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from fip_jax import checkpoint, convolution, parallel, phase, purify
from fip_jax.attacks.training import ByBatch, Lesson, with_poison
from fip_jax.config import victim_settings
from fip_jax.data.batches import make_draw, to_device
from fip_jax.data.split import Split
from fip_jax.description import check_description, describe, held_out, in_words, other_attack
from fip_jax.errors import UserError
from fip_jax.interop import backdoorbench, foreign
from fip_jax.interop.backdoorbench import AttackResult
from fip_jax.interop.foreign import Foreign
from fip_jax.interop.identify import identified
from fip_jax.interop.state_dict import HIGHEST_OTHER, from_torch, listing
from fip_jax.models import abstract_model, create_model
from fip_jax.network import Network, make_objective, split_module
from fip_jax.objective import Settings
from fip_jax.per_example import PyTree
from fip_jax.plausible import check_numbers
from fip_jax.progress import console
from fip_jax.workdir import Workdir

_MAX_DIGITS = 5  # of a number in the metadata of a file


class Suspect(NamedTuple):
    """A network with its weights.

    Attributes:
      network: without its weights.
      params: its parameters.
      model_state: its BatchNorm statistics.
      description: what it takes to build it again (JSON-like).
      foreign: the file that it came in, or None.
      backdoorbench: what that file holds beside the weights if BackdoorBench wrote it, or None.
    """

    network: Network
    params: PyTree
    model_state: PyTree
    description: dict[str, Any]
    foreign: Foreign | None = None
    backdoorbench: AttackResult | None = None

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.description["num_classes"]


def build(description: dict[str, Any], seed: int) -> Suspect:
    """The network that a description names, with fresh weights."""
    return _built(description, create_model, seed=seed)


def _outline(description: dict[str, Any]) -> Suspect:
    """The same with shapes in the place of weights: to draw what a file replaces takes seconds."""
    return _built(description, abstract_model)


def _built(description: dict[str, Any], make: Callable[..., nnx.Module], **seed: int) -> Suspect:
    options = {**description["model"], **seed}
    module = make(options.pop("name"), description["num_classes"], description["image_size"], **options)
    network, *trees = split_module(module, tuple(description["mean"]), tuple(description["std"]))
    grey = options.get("channels", 3) == 1
    return Suspect(network._replace(grey=grey), trees[0], trees[1], description)


def load(config: ConfigDict) -> Suspect:
    """The network in `victim.checkpoint`: a folder of ours, or a file of PyTorch or safetensors.

    Raises:
      UserError: no such folder or file, another format, damaged, or no network that is known here.
    """
    path = Path(os.path.expanduser(config.victim.checkpoint)).absolute()
    if not path.exists():
        raise UserError(
            f"victim.checkpoint: found nothing at {path}, expected a file, or a folder of fip_jax"
        )
    found = _load_file(config, path) if path.is_file() else _load_folder(config, path)
    check_numbers(str(path), found.params, found.model_state)
    return found


def _load_file(config: ConfigDict, path: Path) -> Suspect:
    source = foreign.read(path)
    source, name, options = identified(source, config.dataset.image_size, config.model.layers)
    num_classes, note = options.pop("num_classes"), ""
    if "heads" in options:
        options["heads"], note = _heads(config, source, options["heads"])
    if name == "vgg":
        note = " (ReLU and 2x2 max pooling assumed in between, which tensors do not tell)"
    # It does not say which images it was trained on: nothing can be checked.
    unknown = {key: type(value)() for key, value in held_out(config).items()}
    known = {"model": {"name": name, **options}, "held_out": unknown, "attack": {}}
    description = describe(config, num_classes) | known | _normalisation(config, source)
    _tell_what_else_is_in(source)
    suspect = _outline(description)
    console.print(f"{path}: recognised as {in_words(description)}{note}", markup=False)
    params, model_state = from_torch(source.network(), suspect.params, suspect.model_state)
    delivered = backdoorbench.read(source, config.dataset.image_size)
    if delivered is not None and delivered.num_classes != num_classes:
        raise UserError(
            f"{path}: found num_classes = {delivered.num_classes}, expected the {num_classes} of the network in it"
        )
    return suspect._replace(params=params, model_state=model_state, foreign=source, backdoorbench=delivered)


def _normalisation(config: ConfigDict, source: Foreign) -> dict[str, list[float]]:
    """`mean` and `std` of a description, where the file has a layer that normalises; else nothing.

    Raises:
      UserError: others were asked for: images would be normalised twice.
    """
    if not source.mean:
        return {}
    found = {key: [*getattr(source, key)] * (3 // len(getattr(source, key))) for key in ("mean", "std")}
    for key, plain in (("mean", (0.0,) * 3), ("std", (1.0,) * 3)):
        asked = tuple(config.dataset[key])
        if asked != plain and not np.allclose(asked, found[key], atol=1e-4):
            raise UserError(
                f"dataset.{key}: found {asked}, expected none, since the network in {source.path} begins with a layer "
                f"that normalises by {key} = {found[key]}"
            )
    shown = ", ".join(f"{key} {[round(x, 4) for x in values]}" for key, values in found.items())
    console.print(f"{source.path}: {shown} from its first layer", markup=False)
    return found


def _tell_what_else_is_in(source: Foreign) -> None:
    if source.copies:
        console.print(
            f"{source.path}: {listing(source.copies)} hold tensors of the network's shapes as well, and stay "
            "as they are",
            markup=False,
        )
    if source.written_anew:
        console.print(
            f"{source.path}: {source.written_anew}, of which the state dict alone is written again; the rest may do "
            "harm when it is loaded",
            markup=False,
        )
    if source.masks:
        console.print(
            f"{source.path}: {len(source.masks)} tensors are pruned; what their masks hide is 0 and stays so",
            markup=False,
        )


def _heads(config: ConfigDict, source: Foreign, published: int) -> tuple[int, str]:
    """(heads of a vit_small, which its tensors do not tell; a note where they are a guess)."""
    told = source.source.get("heads", "") if isinstance(source.source, dict) else ""
    if config.model.vit_small.heads:
        return config.model.vit_small.heads, ""
    if told.isascii() and told.isdecimal() and len(told) <= _MAX_DIGITS and 0 < int(told) <= HIGHEST_OTHER:
        return int(told), " (heads as the file says)"
    return published, " (heads assumed; model.vit_small.heads sets them)"


def _load_folder(config: ConfigDict, path: Path) -> Suspect:
    description = checkpoint.load_description(path)
    check_description(path, description, describe(config, 1))
    if description["image_size"] != config.dataset.image_size:
        raise UserError(
            f"victim.checkpoint: {path} is for images of {description['image_size']} pixels, expected "
            f"dataset.image_size = {config.dataset.image_size}"
        )
    trained, now = description["held_out"], held_out(config)
    same = all(trained[key] == now[key] for key in ("source", "seed", "max_per_track"))
    safe = now["source"] == "test" or (same and now["fraction"] <= trained["fraction"])
    if trained["dataset"] == now["dataset"] and not safe:
        raise UserError(
            f"victim.checkpoint: {path} held out images with {trained}, expected the same source, seed and "
            f"max_per_track and no smaller a fraction than now ({now}), or it has been trained on the defender's images"
        )
    suspect = _outline(description)
    console.print(f"{path}: {in_words(description)}", markup=False)
    if note := other_attack(description, config):
        console.print(f"{path} {note}", markup=False)
    params, model_state = checkpoint.load_model(path, suspect.params, suspect.model_state)
    return suspect._replace(params=params, model_state=model_state)


class Course(NamedTuple):
    """A training of a network.

    Attributes:
      name: of the phase, and of the folder that the network is saved in.
      title: for people.
      epochs: number of them.
      by_batch: an attack that poisons every batch, or None.
      adaptive: whether `victim.eta_f` and `victim.radius` count.
      stream: what the key of its batches is folded with.
    """

    name: str = "victim"
    title: str = "train the victim"
    epochs: int | None = None
    by_batch: ByBatch | None = None
    adaptive: bool = True
    stream: int = 10


def train(
    config: ConfigDict,
    suspect: Suspect,
    split: Split,
    workdir: Workdir,
    measure: phase.Measure,
    course: Course = Course(),  # noqa: B008 (immutable)
    keep_attack: Callable[[PyTree], None] = lambda _: None,
) -> Suspect:
    """Trains a network from its fresh weights on (poisoned) images, with SGD and weight decay.

    Args:
      config: the run's.
      suspect: fresh.
      split: training images.
      workdir: for checkpoints, metrics, and the trained model in a folder of its own.
      measure: rates to log each epoch; of an attack that is trained along, its state has params {"network", "attack"}.
      course: which training.
      keep_attack: called with the state of an attack that was trained along, before the network is saved.
    """
    folder = workdir.path / course.name
    checkpoint.drop_damaged(folder)
    if folder.exists():
        params, model_state = checkpoint.load_model(folder, suspect.params, suspect.model_state)
        return suspect._replace(params=params, model_state=model_state)
    epochs = course.epochs or config.victim.epochs
    settings = _settings(config, len(split.labels), epochs, course.adaptive)
    parallel.check_divides(
        settings.axis,
        victim__batch_size=min(config.victim.batch_size, len(split.labels)),
        victim__trace_batch_size=settings.trace_batch_size if settings.eta_f else None,
    )
    lesson = _lesson(config, suspect, settings, course.by_batch)
    key = jax.random.fold_in(jax.random.key(config.seed), course.stream)
    outcome = phase.run(
        phase.Phase(
            name=course.name,
            title=course.title,
            num_steps=settings.num_steps,
            measure_every=settings.num_steps // epochs,
            measure=measure,
            checkpoint_seconds=config.report.checkpoint_seconds,
        ),
        workdir,
        purify.make_step(lesson.objective, settings, lesson.draw, tx=lesson.optimizer),
        purify.init_state(settings, lesson.params, suspect.model_state, key, lesson.optimizer),
        None,
        parallel.replicate(to_device(split.images, split.labels), settings.axis),
    )
    params, model_state = outcome.state.params, outcome.state.model_state
    if course.by_batch is not None and course.by_batch.joint:
        keep_attack(params["attack"])
        params = params["network"]
    workdir.check_held()
    checkpoint.save_model(folder, params, model_state, suspect.description)
    return suspect._replace(params=params, model_state=model_state)


def _settings(config: ConfigDict, num_images: int, epochs: int, adaptive: bool) -> Settings:
    settings = victim_settings(config, num_images, epochs)
    return settings if adaptive else dataclasses.replace(settings, eta_f=0.0, radius=0.0)


def _lesson(config: ConfigDict, suspect: Suspect, settings: Settings, by_batch: ByBatch | None) -> Lesson:
    convolve = convolution.for_batches(parallel.platform_of(settings.axis))
    network = suspect.network.with_axis(settings.axis).with_convolution(convolve)
    lesson = Lesson(
        make_objective(network, batch_statistics=True, dropout=True),
        make_draw(config.victim.batch_size, config.dataset.crop_padding, config.dataset.flip),
        suspect.params,
    )
    return lesson if by_batch is None else with_poison(by_batch, lesson, settings)
