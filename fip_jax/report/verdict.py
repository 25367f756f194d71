"""What a run's numbers say, in sentences: what was measured, what changed, and what could not be known."""

from typing import Any, NamedTuple

from fip_jax.report.text import PLAUSIBLE, SUSPECT_SETTINGS, number, per_cent
from fip_jax.workdir import flatten

# The words of the headline; the report states these limits beside it.
GONE = 0.05  # up to this ASR a trigger "no longer works"
WORKS = 0.2  # above this ASR it "works"
PRICE = 0.05  # a larger drop of ACC is named in the headline
COLLAPSE = 0.5  # a network that keeps less than this share of its ACC is of no use

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
      grade: `removed`, `reduced`, `failed`, `nothing` (the trigger did not work before) or `unknown` (no trigger, or
        nothing purified).
      headline: one sentence.
      measured: sentences on what was looked at, and on whose data.
      changed: sentences on what is different after purification.
      unknown: sentences on what these numbers cannot tell.
    """

    grade: str
    headline: str
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
        return Verdict("unknown", _state(summary["victim"]), measured, [], unknown)
    return Verdict(*_headline(summary["victim"], summary["purified"]), measured, _changed(summary), unknown)


def _state(rates: dict[str, Any]) -> str:
    found = f"ACC {per_cent(rates['acc'])}"
    if rates["asr"] is None:
        return f"The network was inspected, not purified ({found}); no trigger was known."
    works = "works" if rates["asr"] > WORKS else "hardly works"
    return f"The network was inspected, not purified ({found}); the trigger {works} (ASR {per_cent(rates['asr'])})."


def _headline(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, str]:
    if after["acc"] < COLLAPSE * before["acc"]:
        return (
            "failed",
            f"Purification failed: the network lost most of its accuracy (ACC {_move('acc', before, after)}).",
        )
    dear = _loss_in_words(before["acc"] - after["acc"])
    if after["asr"] is None:
        return (
            "unknown",
            f"No trigger was known, so whether a backdoor was there or is gone cannot be said{dear}.",
        )
    found = f"ASR {_move('asr', before, after)}"
    if after["asr"] > WORKS:
        again = "still works" if before["asr"] > WORKS else "works now, and did not before"
        return "failed", f"Purification failed: the trigger {again} ({found}){dear}."
    if before["asr"] <= WORKS:
        return "nothing", f"The trigger hardly worked before, so there was little to remove ({found}){dear}."
    if after["asr"] > GONE:
        return "reduced", f"The trigger works less often, but it is not gone ({found}){dear}."
    return "removed", f"The trigger no longer works ({found}){dear}."


def _loss_in_words(loss: float) -> str:
    return f", and {100 * loss:.1f} points of ACC were lost" if loss > PRICE else ""


def _measured(summary: dict[str, Any], config: dict[str, Any]) -> list[str]:
    tested = f"{_count(summary.get('test_images'))}clean test images"
    purified = "purified" in summary
    sentences = [f"ACC of the network{' before and after purification' * purified}, on {tested}."]
    if "network" in summary:
        sentences.insert(0, f"The network: {_network(summary['network'])}.")
    if summary["victim"]["asr"] is not None:
        sentences.append(
            f"ASR and RA, on {_count(summary.get('triggered_images'))}triggered test images"
            f" (attack {summary['attack']}{_goal(config['attack'])})."
        )
    sentences.append(
        f"Sharpness: {'top eigenvalue and trace of the Fisher matrix' if purified else 'Fisher matrix and Hessian'}, "
        f"on up to {config['smoothness']['num_images']:,} clean test images."
    )
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
    sentences = [f"ACC, clean images right: {_move('acc', before, after)}."]
    if after["asr"] is not None:
        sentences.append(
            f"ASR, triggered images taken for the attacker's target: {_move('asr', before, after)}."
        )
        note = "; most triggered images are still taken for something wrong" if after["ra"] < 0.5 else ""
        sentences.append(f"RA, triggered images right: {_move('ra', before, after)}{note}.")
        sentences.append(f"DER, from 0 to 1 and 0.5 for no effect: {after['der']:.3f}.")
    for key, name in _SHARPNESS.items():
        first, last = sharp["before"][key], sharp["after"][key]
        if first is not None and last is not None:
            way = "fell" if last < first else "rose" if last > first else "stayed"
            sentences.append(f"{name}: {way} from {number(first)} to {number(last)}.")
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


def _move(key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    return f"{per_cent(before[key])} before, {per_cent(after[key])} after"
