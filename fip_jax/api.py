"""Purification from Python: `import fip_jax`."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.core import meta, unfreeze
from ml_collections import ConfigDict

from fip_jax import constructed, purify, suspect
from fip_jax.config import check_config, default_config
from fip_jax.data import coverage
from fip_jax.data.pixels import to_bytes
from fip_jax.data.split import Split
from fip_jax.defend import begin
from fip_jax.defense_check import METHODS
from fip_jax.errors import UserError
from fip_jax.evaluate import accuracy, make_predict
from fip_jax.export import as_exported, check, export
from fip_jax.interop.linen import as_function
from fip_jax.network import FunctionNetwork, Network, split_module
from fip_jax.per_example import PyTree
from fip_jax.plausible import check_answers, check_numbers
from fip_jax.progress import Task, console
from fip_jax.report.headline import HARM
from fip_jax.suspect import Suspect


def load(
    path: str | Path,
    *,
    image_size: int = 32,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    layers: str = "",
) -> Suspect:
    """A network from a file of PyTorch, safetensors or ONNX. Nothing in the file is run.

    Args:
      path: the file.
      image_size: height and width in pixels of the images it takes.
      mean: per channel, subtracted from images in [0, 1].
      std: per channel, divides what is left.
      layers: of a state dict of no known network, its layers in order and what lies between them, such as
        "conv1 relu max2 flatten fc1" (see `interop/chain.py`).

    Raises:
      UserError: not such a file, damaged, no network that is known here, or one that could not be written again.
    """
    config = default_config()
    config.victim.checkpoint = str(path)
    _set(config.dataset, "image_size", image_size)
    _set(config.model, "layers", layers)
    config.dataset.mean, config.dataset.std = _per_channel("mean", mean, 3), _per_channel("std", std, 3)
    check_config(config)
    network = suspect.load(config)
    check(network)
    return network


def save(folder: str | Path, network: Suspect) -> list[Path]:
    """Writes a network in the format that it came in, with the same keys and types, and as safetensors.

    Args:
      folder: where to; made if need be.
      network: from `purify_network`.

    Returns:
      The files.
    """
    path = Path(os.path.expanduser(folder))
    path.mkdir(parents=True, exist_ok=True)
    return export(path, network)


@overload
def purify_network(network: Suspect, images: np.ndarray, labels: np.ndarray, **options: Any) -> Suspect: ...
@overload
def purify_network(
    network: nnx.Module, images: np.ndarray, labels: np.ndarray, **options: Any
) -> nnx.Module: ...
@overload
def purify_network(
    network: linen.Module, images: np.ndarray, labels: np.ndarray, *, variables: PyTree, **options: Any
) -> PyTree: ...
def purify_network(
    network, images, labels, *, variables=None, unlabeled=None, mean=None, std=None, **options
):
    """A purified copy of a network; of a Linen module, its purified variables.

    Args:
      network: from `load`; or an NNX or Linen module whose call takes normalised images `[N, H, W, C]` and returns
        logits `[N, num_classes]`. It may also take `rngs` (None here), and `train`, `training`, `is_training`,
        `deterministic`, `use_running_average`, `inference` or `eval`.
      variables: of a Linen module, all its collections.
      images: clean images, uint8 or float in [0, 1] `[N, H, W, C]`, which the network was not trained on.
      labels: their classes, integers `[N]`.
      unlabeled: as of `purify_function`.
      mean: for a module, per channel, subtracted from images in [0, 1]; 0 by default. `load` gives a network its own.
      std: for a module, per channel, divides what is left; 1 by default.
      **options: as of `purify_function`.

    Raises:
      UserError: images or labels of another shape or type, an unknown option, or not one finite step.
    """
    is_linen = isinstance(network, linen.Module)
    if is_linen == (variables is None):
        wanted = "those of the Linen module" if is_linen else "none for a network that has its own"
        raise UserError(f"variables: found {'none' if is_linen else 'some'}, expected {wanted}")
    if isinstance(network, Suspect):
        if mean is not None or std is not None:
            raise UserError("mean, std: found some, expected none for a network from load, which has its own")
        side = network.description["image_size"]
        if np.ndim(images) == 4 and np.shape(images)[1:] != (side, side, 3):
            raise UserError(
                f"images: found {list(np.shape(images))}, expected [N, {side}, {side}, 3], as in load"
            )
        parts = network.network, network.params, network.model_state
        state = _purify(*parts, images, labels, unlabeled, options)
        return as_exported(network._replace(params=state.params, model_state=state.model_state))
    channels = np.shape(images)[-1] if np.ndim(images) == 4 else 3
    mean = _per_channel("mean", (0.0,) * channels if mean is None else mean, channels)
    std = _per_channel("std", (1.0,) * channels if std is None else std, channels)
    if is_linen:
        collections = dict(meta.unbox(unfreeze(variables)))
        params = collections.pop("params")
        purified = _purify(
            FunctionNetwork(as_function(network, mean, std), True),
            params,
            collections,
            images,
            labels,
            unlabeled,
            options,
        )
        return {"params": purified.params, **purified.model_state}
    bridge, params, model_state = split_module(network, mean, std)
    state = _purify(bridge, params, model_state, images, labels, unlabeled, options)
    return nnx.merge(bridge.graphdef, state.params, state.model_state, bridge.rest)


def purify_function(
    apply_fn: Callable[[PyTree, jax.Array], jax.Array],
    params: PyTree,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    model_state: PyTree = None,
    unlabeled: np.ndarray | None = None,
    **options: Any,
) -> PyTree:
    """Purified parameters of a network that is a plain function; with `model_state`, (parameters, state).

    Args:
      apply_fn: `(params, images float32 [N, H, W, C] in [0, 1]) -> logits [N, num_classes]`; normalises by itself.
        With `model_state`: `(params, model_state, images, trained) -> (logits, model_state)`, see there.
      params: pytree of float arrays; left as it is.
      model_state: pytree of what is not trained, such as the statistics of BatchNorm. A network with BatchNorm needs
        it: where `trained` (a bool of Python) is True, `apply_fn` normalises by the batch and returns moved
        statistics, else it normalises by the running ones. In a pytree of dicts those are to be called `mean` and
        `var`, or they do not move along with the first move. Left as it is.
      images: clean images, uint8 or float in [0, 1] `[N, H, W, C]`, which the network was not trained on.
      labels: their classes, integers `[N]`.
      unlabeled: more images of the same shape and type, `[M, H, W, C]`, whose classes nobody has to know: the
        suspicious network is asked about them. They need not be of these classes, nor is it needed that none has a
        trigger.
      **options: `method` ("fip", "ft", "ft_sam"; for a network also "fast_fip"), `seed`, `crop_padding`, `flip`, and
        whatever `defense` and `defense.METHOD` hold in `config.py`: `steps`, `batch_size`, `learning_rate`, ..., of a
        group such as `teacher` or `corruption` a dict of those that are to change.
        `parallel="pmap"` spreads every batch over all devices; those of several hosts after
        `jax.distributed.initialize`, where each host calls this with the same arguments.

    Raises:
      UserError: images or labels of another shape or type, an unknown option, the method "fast_fip", or not one
        finite step.
    """
    if model_state is None:
        return _purify(FunctionNetwork(apply_fn), params, {}, images, labels, unlabeled, options).params
    network = FunctionNetwork(apply_fn, stateful=True)
    state = _purify(network, params, model_state, images, labels, unlabeled, options)
    return state.params, state.model_state


def _purify(
    network: Network | FunctionNetwork,
    params: PyTree,
    model_state: PyTree,
    images: np.ndarray,
    labels: np.ndarray,
    unlabeled: np.ndarray | None,
    options: dict[str, Any],
) -> purify.State:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4:
        raise UserError(f"images: found {images.dtype} {list(images.shape)}, expected [N, H, W, C]")
    images = to_bytes("images", images)
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(
            f"labels: found {labels.dtype} {list(labels.shape)}, expected integers [{len(images)}], one an image"
        )
    if not len(images):
        raise UserError("images: found none, expected at least one")
    logits = jax.eval_shape(
        lambda p, s, x: network(p, s, x)[0],
        params,
        model_state,
        jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32),
    )
    if not 0 <= labels.min() <= labels.max() < logits.shape[-1]:
        raise UserError(
            f"labels: found {labels.min()} to {labels.max()}, expected classes from 0 to {logits.shape[-1] - 1}"
        )
    if unlabeled is not None:
        unlabeled = to_bytes("unlabeled", np.asarray(unlabeled))
        if unlabeled.shape[1:] != images.shape[1:]:
            raise UserError(
                f"unlabeled: found {list(unlabeled.shape)}, expected [M, {', '.join(map(str, images.shape[1:]))}], "
                "like the images"
            )
    coverage.check_clean(labels, logits.shape[-1], "labels", str(labels[0]))
    without = coverage.missing(labels, logits.shape[-1])
    for sentence in coverage.notes(without, [], [str(index) for index in range(logits.shape[-1])]):
        console.print(sentence, markup=False)
    check_numbers("network", params, model_state)
    check_answers("network", network, params, model_state, images)
    config = _configured(options)
    if isinstance(network, FunctionNetwork) and network.stateful and config.parallel.mode != "none":
        raise UserError(
            f"parallel: found {config.parallel.mode} for a function with a state, expected none: its statistics would "
            "be those of one device's images"
        )
    clean = Split(images, labels.astype(np.int32))
    found = constructed.construct(constructed.Subject(config, network, params, model_state, clean, unlabeled))
    if found is not None:
        names = [str(index) for index in range(logits.shape[-1])]
        console.print(constructed.say(constructed.described(found, names)))
    triggers = found and found[1]
    start = begin(config, network, params, model_state, clean, unlabeled=unlabeled, triggers=triggers)
    with Task(f"purify with {config.defense.name}", start.num_steps, 0) as task:

        def follow(taken: int, state: purify.State, metrics: purify.Metrics) -> None:
            task.update(taken, loss=float(metrics.loss.mean()))

        state = start.run(follow, purify.steps_at_once(config.report.eval_every, start.step_fn.platform))
    if int(state.num_skipped) == start.num_steps:
        raise UserError(f"not one of {start.num_steps} steps was finite, expected a smaller learning_rate")
    _say_harm(network, (params, model_state), (state.params, state.model_state), clean)
    if start.held_back is not None:
        before, after = (
            start.held_back(p, s) for p, s in ((params, model_state), (state.params, state.model_state))
        )
        console.print(
            f"images held back: ACC {before.held_acc:.1%} -> {after.held_acc:.1%}, the same answer as before for "
            f"{after.held_agreement:.1%}"
        )
    return state


def _say_harm(
    network: Network | FunctionNetwork,
    before: tuple[PyTree, PyTree],
    after: tuple[PyTree, PyTree],
    clean: Split,
) -> None:
    """Prints how many of the clean images the network gets right, and that it was harmed where that fell."""
    predict = make_predict(network)
    first, last = (accuracy(predict(*weights, clean.images), clean.labels) for weights in (before, after))
    console.print(f"clean images right: {first:.1%} before, {last:.1%} after")
    if first - last > HARM:
        console.print(
            "the network was harmed; keep the one that you had, or try a smaller learning_rate (of a function with "
            "BatchNorm: give its statistics as model_state)"
        )


def _shared(name: str) -> bool:
    """Whether an entry of `config.defense` is an option of every method."""
    return name not in ("name", "seed", *METHODS)


def _configured(options: dict[str, Any]) -> ConfigDict:
    config = default_config()
    for option, part, name in (("method", config.defense, "name"), ("parallel", config.parallel, "mode")):
        if option in options:
            _set(part, name, options.pop(option), option)
    check_config(config)
    known = {
        **dict.fromkeys(("seed",), config),
        **dict.fromkeys(("crop_padding", "flip"), config.dataset),
        **dict.fromkeys(filter(_shared, config.defense), config.defense),
        **dict.fromkeys(config.defense[config.defense.name], config.defense[config.defense.name]),
    }
    for name, value in options.items():
        if name not in known:
            raise UserError(f"{name}: no option of {config.defense.name}, expected one of {', '.join(known)}")
        _set(known[name], name, value)
    check_config(config)
    return config


def _set(part: ConfigDict, name: str, value: Any, option: str = "") -> None:
    """Changes a setting, or of a group of settings those in a dict; a NumPy number counts as a number."""
    option = option or name
    if isinstance(part[name], ConfigDict):
        group = part[name]
        if not isinstance(value, Mapping):
            raise UserError(f"{option}: found {value!r}, expected a dict with {', '.join(group)}")
        for inner, new in value.items():
            if inner not in group:
                raise UserError(f"{option}.{inner}: no such option, expected {', '.join(group)}")
            _set(group, inner, new, f"{option}.{inner}")
        return
    value = value.item() if isinstance(value, np.generic) else value
    try:
        if value is None:  # which a ConfigDict takes for anything
            raise TypeError
        part[name] = value
    except TypeError as error:
        expected = type(part[name]).__name__
        raise UserError(f"{option}: found {value!r}, expected a {expected}") from error


def _per_channel(name: str, values: Any, channels: int) -> tuple[float, ...]:
    """Checked numbers to normalise images with."""
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = ()
    lowest = 0.0 if name == "std" else -math.inf
    if len(found) != channels or not all(lowest < value < math.inf for value in found):
        above = " above 0" if name == "std" else ""
        raise UserError(f"{name}: found {values!r}, expected {channels} finite numbers{above}, one a channel")
    return found
