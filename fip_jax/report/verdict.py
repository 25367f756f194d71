"""What a run's numbers say, in sentences: what was measured, what changed, and what could not be known."""

from typing import Any, NamedTuple

from fip_jax.constructed import say
from fip_jax.report.headline import UNCHANGED, of_inspection, of_purification
from fip_jax.report.interval import interval
from fip_jax.report.text import PLAUSIBLE, SUSPECT_SETTINGS, moved, number, per_cent
from fip_jax.workdir import flatten

FEW_TEST_IMAGES = 100
# From fewer, a standard error is known to no better than a third: its own relative error is 1 / sqrt(2 (n - 1)).
ENOUGH_PROBES = 6

_NAMES = {
    "lambda_max_fisher": "Fisher matrix, top eigenvalue",
    "lambda_max_residual": "Fisher matrix, residual of the top eigenvalue",
    "lambda_max_iterations": "Fisher matrix, iterations for the top eigenvalue",
    "lambda_max_converged": "Fisher matrix, top eigenvalue converged",
    "trace_fisher": "Fisher matrix, trace (exact)",
    "trace_fisher_relative": "Fisher matrix in relative changes of the weights, trace (exact)",
    "fisher": "Fisher matrix",
    "hessian": "Hessian",
    "eigenvalues": "top eigenvalues",
    "residuals": "residuals of the top eigenvalues",
    "iterations": "iterations for the top eigenvalues",
    "converged": "top eigenvalues converged",
    "density.size": "parameters",
    "density.trace": "trace by probes",
    "density.trace_standard_error": "standard error of the trace by probes",
}

_SHARPNESS = {
    "lambda_max_fisher": "Top eigenvalue of the Fisher matrix",
    "trace_fisher": "Trace of the Fisher matrix",
    "trace_fisher_relative": "Its trace in relative changes of the weights, which their scale does not move",
}


class Verdict(NamedTuple):
    """A run in words.

    Attributes:
      grade: a key of `grades.GRADES`.
      headline: one sentence.
      caution: what the headline does not show, for whoever reads nothing else.
      measured: sentences on what was looked at, and on whose data.
      changed: sentences on what is different after purification.
      unknown: sentences on what these numbers cannot tell.
    """

    grade: str
    headline: str
    caution: str
    measured: list[str]
    changed: list[str]
    unknown: list[str]


def judge(summary: dict[str, Any], config: dict[str, Any]) -> Verdict:
    """Puts a run in words.

    Args:
      summary: the content of `summary.json`.
      config: the content of `config.json`.
    """
    measured, unknown = _measured(summary, config), _unknown(summary, config)
    if "purified" not in summary:
        headline = of_inspection(summary["victim"])
        return Verdict("not_purified", headline, _caution(summary), measured, [], unknown)
    grade, headline = of_purification(summary, config)
    return Verdict(grade, headline, _caution(summary), measured, _changed(summary), unknown)


def _caution(summary: dict[str, Any]) -> str:
    if summary["victim"]["asr"] is None:
        return "This is no test for backdoors: without a known trigger none can be measured."
    return (
        "This does not show that the network is safe: one trigger was tested, and a backdoor with another one would "
        "not show in these numbers."
    )


def _measured(summary: dict[str, Any], config: dict[str, Any]) -> list[str]:
    tested = f"{_count(summary.get('test_images'))}clean test images"
    purified = "purified" in summary
    sentences = [f"ACC of the network{' before and after purification' * purified}, on {tested}."]
    if "network" in summary:
        sentences.insert(0, f"The network: {_network(summary['network'])}.")
    if not config["victim"]["checkpoint"]:
        backdoor = (
            ""
            if summary["attack"] == "none"
            else ", which put the backdoor into it to have something to remove"
        )
        sentences.insert(0, f"This network comes from nowhere else: this program trained it{backdoor}.")
    if summary["victim"]["asr"] is not None:
        sentences.append(
            f"ASR and RA, on {_count(summary.get('triggered_images'))}triggered test images"
            f" (attack {summary['attack']}{_goal(config['attack'])})."
        )
    sentences.append(
        f"Sharpness: {'top eigenvalue and trace of the Fisher matrix' if purified else 'Fisher matrix and Hessian'}, "
        f"on up to {config['smoothness']['num_images']:,} clean test images."
    )
    if "constructed" in summary:
        words = say(summary["constructed"])
        sentences.append(f"{words[0].upper()}{words[1:]}.")
    if purified:
        sentences.append(
            f"The method, {summary['defense']}, had the network and {summary['clean_images']:,} clean images. Trigger, "
            "target, test images and ASR took no part in the purification; they were used for this report alone."
        )
    return sentences


def _network(found: dict[str, Any]) -> str:
    name, *sizes = found["model"].items()
    size = "".join(f", {key.replace('_', ' ')} {value}" for key, value in sizes)
    return (
        f"{name[1]}{size}, {found['num_classes']} classes, images of {found['image_size']} pixels with mean "
        f"{found['mean']} and standard deviation {found['std']}"
    )


def _goal(attack: dict[str, Any]) -> str:
    if attack["name"] == "none":
        return ", as delivered with the network"
    return (
        f", target class {attack['target']}"
        if attack["mode"] == "all_to_one"
        else ", every class to the next"
    )


def _changed(summary: dict[str, Any]) -> list[str]:
    before, after, sharp = summary["victim"], summary["purified"], summary["smoothness"]
    sentences = [f"ACC, clean images right: {moved('acc', before, after)}."]
    if after["asr"] is not None:
        sentences.append(
            f"ASR, triggered images taken for the attacker's target: {moved('asr', before, after)}."
        )
        note = "; most triggered images are still taken for something wrong" if after["ra"] < 0.5 else ""
        sentences.append(f"RA, triggered images right: {moved('ra', before, after)}{note}.")
        sentences.append(f"DER, from 0 to 1 and 0.5 for no effect: {after['der']:.3f}.")
    if "constructed_asr" in summary:
        first, last = map(per_cent, summary["constructed_asr"])
        sentences.append(
            f"Triggers constructed from the clean images turn up to {first} of test images before and {last} after."
        )
    if summary.get("relative_change", 1.0) < UNCHANGED:
        sentences.append(
            f"The weights: by {100 * summary['relative_change']:.2g} % of their norm, next to nothing."
        )
    for key, name in _SHARPNESS.items():
        first, last = sharp["before"][key], sharp["after"][key]
        if first is not None and last is not None:
            way = "fell" if last < first else "rose" if last > first else "stayed"
            sentences.append(f"{name}: {way} from {number(first)} to {number(last)}.")
    if (ratio := summary.get("norm_ratio")) is not None:
        sentences.append(
            f"The norm of the weights: {ratio:.2f} times what it was. Where a normalisation follows a layer, smaller "
            "weights alone raise eigenvalue and trace, and nothing that the network answers changes."
        )
    if summary["skipped_steps"]:
        sentences.append(
            f"{summary['skipped_steps']} steps of purification were not finite and were left out."
        )
    return sentences


def _unknown(summary: dict[str, Any], config: dict[str, Any]) -> list[str]:
    if summary["victim"]["asr"] is None:
        sentences = [
            "Without a trigger only ACC can be measured, not ASR, RA or DER. A kept ACC says nothing of a backdoor."
        ]
    else:
        sentences = [
            "ASR is of this trigger alone. A low ASR does not prove that nothing is left: no other trigger was tried."
        ]
    sentences += summary.get("classes_in_words", [])
    count = summary.get("test_images")
    if count and count < FEW_TEST_IMAGES:
        low = interval(summary.get("purified", summary["victim"])["acc"], count)[0]
        sentences.append(f"ACC is of {count} test images: it may be down to {per_cent(low)}.")
    if copies := summary.get("network", {}).get("copies"):
        sentences.append(
            f"The file holds tensors of the network's shapes elsewhere as well ({copies}). They were neither looked at "
            "nor changed, and a purified file of the same kind holds them as they are."
        )
    if summary["victim"]["acc"] < PLAUSIBLE:
        sentences.append(
            f"The suspicious network got {per_cent(summary['victim']['acc'])} of the clean images right. "
            + SUSPECT_SETTINGS
        )
    rough = summary.get("over_time", {}).get("not_converged", 0)
    if rough:
        sentences.append(
            f"At {rough} of {summary['over_time']['points']} points of the curves the Hessian's top eigenvalue had not "
            "converged; they are drawn hollow."
        )
    sentences += [
        "A smaller eigenvalue or trace means a flatter minimum. It is no test for a backdoor.",
        f"This is one run, with seed {summary['seed']}. How far its numbers differ from seed to seed it does not show.",
    ]
    if "purified" not in summary:
        probes = config["smoothness"]["density_probes"]
        if probes < ENOUGH_PROBES:
            sentences.append(
                f"Standard errors of traces by probes are themselves rough: {probes} probes were drawn."
            )
        return sentences + _faults(summary["smoothness"]["before"], "")
    parts = (_faults(summary["smoothness"][when], f" {when} purification") for when in ("before", "after"))
    return sentences + [fault for part in parts for fault in part]


def _faults(measured: dict[str, Any], when: str) -> list[str]:
    """Sentences on what did not converge and on what is not known of the smoothness."""
    sentences = []
    for key, value in flatten(measured).items():
        name = in_words(key)
        if value is False and key.endswith("converged"):
            of = name.removesuffix("converged").strip(" ,")
            sentences.append(f"Not converged{when}: {of}. The values in the table are not settled.")
        elif value is None or (isinstance(value, list) and None in value):
            sentences.append(f"Not known or not finite{when}: {name}.")
    return sentences


def in_words(key: str) -> str:
    """The name of a measurement from its key in `summary.json`, dots between levels."""
    if key in _NAMES:
        return _NAMES[key]
    first, _, rest = key.partition(".")
    words = _NAMES.get(first, first), _NAMES.get(rest, rest)
    return ", ".join(part.replace(".", ", ").replace("_", " ") for part in words if part)


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,} "
