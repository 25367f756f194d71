"""The triggers that a defender constructs: searched for with progress, once a run, and told in words."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from fip_jax import convolution, inversion, parallel, plain
from fip_jax.data.batches import to_device, to_unit
from fip_jax.data.held_out import keep_back
from fip_jax.data.split import Split, spread
from fip_jax.defend import begin
from fip_jax.errors import UserError
from fip_jax.evaluate import Predict
from fip_jax.inversion import Triggers
from fip_jax.network import FunctionNetwork, Network
from fip_jax.per_example import PyTree
from fip_jax.progress import Task
from fip_jax.timing import Lap
from fip_jax.workdir import Workdir, write_whole

Found = tuple[Triggers, Triggers | None]  # as of `inversion.search`
LARGEST = 1 << 30  # bytes of the file
LEFT = 1.2  # times the median mask
MOST_TESTED = 1000  # images
KEPT = {"sha256": str, "seconds": float}  # of a search, in results.json


class Subject(NamedTuple):
    """What the triggers are constructed of.

    Attributes:
      config: of which `defense` and `seed` count, and what `defend.begin` reads.
      network: the suspicious network.
      params: its parameters.
      model_state: its BatchNorm statistics.
      clean: the defender's images.
      unlabeled: further ones, as of `defend.begin`.
    """

    config: ConfigDict
    network: Network | FunctionNetwork
    params: PyTree
    model_state: PyTree
    clean: Split
    unlabeled: np.ndarray | None = None

    def learnt(self) -> Split:
        """The clean images without those that are held back."""
        share = self.config.defense.hold_back
        if not share:
            return self.clean
        return keep_back(self.clean, share, self.config.seed, "defense.hold_back")[0]

    def data(self) -> tuple[jax.Array, jax.Array]:
        """(images in [0, 1], labels) that are learnt from."""
        learnt = self.learnt()
        data = to_device(learnt.images, learnt.labels)
        return to_unit(data["image"]), data["label"]

    def fast(self) -> Network | FunctionNetwork:
        """The network, for gradients of batches on the devices used."""
        return self.network.with_convolution(convolution.for_batches(parallel.platform_of(None)))

    def num_classes(self) -> int:
        """By the network's own answers."""
        image = jnp.zeros((1, *self.clean.images.shape[1:]), jnp.float32)
        logits, _ = jax.eval_shape(lambda *x: self.network(*x), self.params, self.model_state, image)
        return logits.shape[-1]

    def key(self, index: int) -> jax.Array:
        """Of the draws of a search."""
        return jax.random.fold_in(jax.random.key(self.config.seed), index)


def construct(subject: Subject) -> Found | None:
    """Triggers of every class, and of those that stand out all that are to be unlearnt.

    None if none are asked for, or of fewer than `inversion.FEWEST` classes, where none could stand out.
    """
    found = look(subject)
    if found is None or found[1] is None:
        return found
    return found[0], look_again(subject, found[1], _median(found[0]))


def look(subject: Subject) -> Found | None:
    """As of `inversion.search`, with progress."""
    options = subject.config.defense.inversion
    if not options.rate or (count := subject.num_classes()) < inversion.FEWEST:
        return None
    places = subject.fast(), subject.params, subject.model_state, *subject.data(), count
    total = 2 * options.steps
    with Task("construct a trigger for each class", total) as task:
        found = inversion.search(options, *places, subject.key(24), task.update)
        task.update(total)
    return found


def look_again(subject: Subject, chosen: Triggers, median: float) -> Triggers:
    """The triggers chosen, and up to as many for the same classes that a first, short purification by them leaves.

    What is made of the suspicious network alone is often another pattern than the attacker's, and unlearning it leaves
    his. What comes up once that way is barred is nearer to it; but only as long as its mask is not much larger than the
    `median` over all classes before. Beyond that the class is no easier to reach than the others.
    """
    options = subject.config.defense.inversion
    if not options.scout:
        return chosen
    config = subject.config.copy_and_resolve_references()
    config.defense.steps, config.defense.hold_back = options.scout, 0.0
    network = subject.network, subject.params, subject.model_state
    start = begin(config, *network, subject.learnt(), unlabeled=subject.unlabeled, triggers=chosen)
    with Task("unlearn them for a first time", options.scout) as task:
        state = start.run(lambda taken, *_: task.update(taken))
    targets = [int(target) for target in chosen.target]
    with Task("construct what is left of them", options.steps) as task:
        left = inversion.invert(
            subject.fast(),
            state.params,
            state.model_state,
            *subject.data(),
            targets,
            subject.key(25),
            steps=options.steps,
            batch_size=2 * options.batch_size,
            success=options.unlearnt,
            on_step=task.update,
        )
    counts = np.asarray(left.size) <= LEFT * median
    return jax.tree.map(lambda first, then: jnp.concatenate([first, then[counts]]), chosen, left)


def once(subject: Subject, workdir: Workdir, *, again: bool = True) -> tuple[Found, float] | None:
    """(what `construct` finds, the seconds that it took without compiling), kept in the workdir; None as there.

    Both looks are kept when they are over, so that a run that is begun again goes on behind the last of them. Without
    `again` the second is left out.
    """
    first = _kept(workdir, "triggers", lambda: look(subject))
    if first is None:
        return None
    (of_all, chosen), seconds = first
    if again and chosen is not None:

        def left(chosen: Triggers = chosen) -> Found:
            return of_all, look_again(subject, chosen, _median(of_all))

        second = _kept(workdir, "triggers_left", left)
        assert second is not None
        (_, chosen), more = second
        seconds += more
    return (of_all, chosen), seconds


def _median(triggers: Triggers) -> float:
    return float(np.median(triggers.size))


def _kept(workdir: Workdir, name: str, make: Callable[[], Found | None]) -> tuple[Found, float] | None:
    """(what `make` returns, the seconds that it took without compiling), from its file where there is one."""
    path = workdir.path / f"{name}.safetensors"

    def made() -> dict[str, Any]:
        lap = Lap()
        found = make()
        if found is None:
            return {}
        content = to_file(found)
        workdir.check_held()
        write_whole(path, content)
        spent = lap.read()
        return {
            "sha256": hashlib.sha256(content).hexdigest(),
            "seconds": spent["total"] - spent["compile"],
        }

    told = workdir.once(name, made)
    if told == {}:
        return None
    if not isinstance(told, dict) or {key: type(value) for key, value in told.items()} != KEPT:
        raise UserError(
            f"{workdir.path / 'checkpoints' / 'results.json'}: found {name} = {str(told)[:80]}, expected sha256 and "
            "seconds; delete this file to search again"
        )
    found = from_file(path, told["sha256"])
    if found is None:  # lost or damaged since
        found = make()
        assert found is not None
        write_whole(path, to_file(found))
    return found, told["seconds"]


def to_file(found: Found) -> bytes:
    """What `search` found as a safetensors file."""
    parts = zip(("all", "chosen"), found, strict=True)
    return safetensors.numpy.save(
        {
            f"{part}.{name}": np.asarray(value)
            for part, triggers in parts
            if triggers is not None
            for name, value in triggers._asdict().items()
        }
    )


def from_file(path: Path, sha256: str) -> Found | None:
    """What `to_file` made of `Found`; None if the file is not there or not the one with this checksum."""
    try:
        content = plain.read(path, LARGEST)
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        arrays = safetensors.numpy.load(content)
        parts = [
            Triggers(**{name: jnp.asarray(arrays[f"{part}.{name}"]) for name in Triggers._fields})
            for part in ("all", "chosen")
            if f"{part}.mask" in arrays
        ]
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        return None
    return parts[0], parts[1] if len(parts) > 1 else None


def turned(predict: Predict, weights: tuple[PyTree, PyTree], test: Split, triggers: Triggers) -> float:
    """The largest share of test images of other classes that one of the triggers leads to its class.

    Args:
      predict: from `evaluate.make_predict`.
      weights: (params, model_state).
      test: clean images that nothing was constructed of; up to `MOST_TESTED` are taken.
      triggers: K of them.
    """
    at = spread(len(test.labels), MOST_TESTED)
    images, labels = test.images[at], test.labels[at]
    shares = [0.0]
    for mask, pattern, target in zip(*map(np.asarray, triggers[:3]), strict=True):
        others = labels != target
        if others.any():
            shown = np.rint(inversion.stamp(images[others] / np.float32(255), mask, pattern) * 255)
            shares.append(float((predict(*weights, shown.astype(np.uint8)) == target).mean()))
    return max(shares)


def described(found: Found, names: Sequence[str]) -> list[dict[str, Any]]:
    """What was constructed of each class: its name, size of the mask, success, anomaly index, whether it stands out."""
    first, chosen = found
    sizes = np.asarray(first.size, np.float64)
    index = inversion.anomaly_index(sizes)
    out = set() if chosen is None else {int(target) for target in chosen.target}
    return [
        {
            "class": k,
            "name": names[k],
            "size": round(float(sizes[k]), 2),
            "success": round(float(first.success[k]), 3),
            "index": round(float(index[k]), 2),
            "stands_out": k in out,
        }
        for k in range(len(sizes))
    ]


def say(classes: list[dict[str, Any]]) -> str:
    """One sentence about what `described` says."""
    out = sorted((row for row in classes if row["stands_out"]), key=lambda row: row["size"])
    median = float(np.median([row["size"] for row in classes]))
    if not out:
        return (
            "constructed triggers: no class stands out (smallest mask "
            f"{min(row['size'] for row in classes):.1f} pixels, median {median:.1f}); sinusoids, warps and triggers "
            "that differ from image to image would not show here"
        )
    listed = ", ".join(f"{row['name']} ({row['size']:.1f} pixels)" for row in out)
    return (
        f"constructed triggers: {listed} stand{'s' if len(out) == 1 else ''} out (median {median:.1f} pixels)"
    )
