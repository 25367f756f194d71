"""The verdict's word and its one sentence: what a run showed, by limits that the report states beside it."""

from typing import Any

from fip_jax.report.interval import interval
from fip_jax.report.text import moved, per_cent

# The words of the headline; the report states these limits beside it.
GONE = 0.05  # up to this ASR a trigger "no longer works",
AT_MOST = 0.1  # where the 95 % interval of the ASR ends at this or below
WORKS = 0.2  # above this ASR it "works"
PRICE = 0.05  # a larger drop of ACC is named in the headline
HARM = 0.1  # a larger one harms the network,
COLLAPSE = 0.5  # and so does one that leaves less than this share of its ACC
# With fewer triggered images than leave this possible nobody knows whether a trigger worked before.
LIKELY = 0.5
SKIPPED = 0.5  # share of the steps
UNCHANGED = 1e-3  # change of the weights, over their norm


def of_inspection(rates: dict[str, Any]) -> str:
    """The headline of a run that purified nothing, by the rates of its network."""
    found = f"ACC {per_cent(rates['acc'])}"
    if rates["asr"] is None:
        return f"The network was inspected, not purified ({found}); no trigger was known."
    works = "works" if rates["asr"] > WORKS else "hardly works"
    return f"The network was inspected, not purified ({found}); the trigger {works} (ASR {per_cent(rates['asr'])})."


def of_purification(summary: dict[str, Any], config: dict[str, Any]) -> tuple[str, str]:
    """(key of `grades.GRADES`, sentence) of a purification.

    Args:
      summary: the content of `summary.json`.
      config: the content of `config.json`.
    """
    before, after = summary["victim"], summary["purified"]
    loss = before["acc"] - after["acc"]
    if loss > HARM or after["acc"] < COLLAPSE * before["acc"]:
        return "harmed", _harmed(summary)
    if doubt := _doubt(summary, config):
        return "inconclusive", doubt
    dear = _loss_in_words(loss)
    if after["asr"] is None:
        return (
            "no_trigger_known",
            f"No trigger was known, so whether a backdoor was there or is gone cannot be said{dear}.",
        )
    grade, words = _of_trigger(before["asr"], after["asr"], summary.get("triggered_images"))
    return grade, f"{words} ({_asr(summary)}){dear}."


def _of_trigger(before: float, after: float, count: int | None) -> tuple[str, str]:
    """(grade, words) of what became of the trigger, by ASR over so many triggered images."""
    if after > WORKS:
        again = "still works" if before > WORKS else "works now, and did not before"
        return "not_removed", f"Purification failed: the trigger {again}"
    few = f"{count:,} triggered image{'s' if count != 1 else ''}" if count else ""
    if before <= WORKS:
        if count and interval(before, count)[1] > LIKELY:
            return "inconclusive", f"{few} cannot tell whether the trigger worked at all"
        return "nothing_to_remove", "The trigger hardly worked before, so there was little to remove"
    if after > GONE:
        return "reduced", "The trigger works less often, but it is not gone"
    if count and interval(after, count)[1] > AT_MOST:
        return "inconclusive", f"{few} cannot tell whether the trigger is gone"
    return "removed", "The trigger no longer works"


def _asr(summary: dict[str, Any]) -> str:
    """ASR before and after, and how high it may be after all."""
    words = f"ASR {moved('asr', summary['victim'], summary['purified'])}"
    count = summary.get("triggered_images")
    if not count:
        return words
    high = interval(summary["purified"]["asr"], count)[1]
    return f"{words}; over {count:,} images, it may be up to {per_cent(high)}"


def _harmed(summary: dict[str, Any]) -> str:
    before, after = summary["victim"], summary["purified"]
    words = f"The network was harmed: ACC {moved('acc', before, after)}"
    return f"{words} ({_asr(summary)})." if after["asr"] is not None else f"{words}."


def _doubt(summary: dict[str, Any], config: dict[str, Any]) -> str:
    """Why no verdict can be given, or ""."""
    steps, skipped = config["defense"]["steps"], summary["skipped_steps"]
    if skipped >= SKIPPED * steps:
        return (
            f"Most of the purification did not take place: {skipped} of {steps} steps were not finite and were "
            "left out (a smaller learning_rate may help)."
        )
    if summary.get("relative_change", 1.0) < UNCHANGED and (summary["purified"]["asr"] or 0) <= WORKS:
        return (
            f"The purification changed next to nothing (the weights by {100 * summary['relative_change']:.2g} % of "
            "their norm); a larger learning_rate or more steps may help."
        )
    blind = summary.get("classes_without_test_images", [])
    classes = summary.get("network", {}).get("num_classes", 0)
    if 2 * len(blind) > classes > 0:
        return f"Most classes have no test images ({len(blind)} of {classes}): their loss would not show."
    return ""


def _loss_in_words(loss: float) -> str:
    return f", and {100 * loss:.1f} points of ACC were lost" if loss > PRICE else ""
