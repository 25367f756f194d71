"""The verdict's word: what few images, skipped steps and still weights let one say, and what they do not."""

import pytest
from test_html import config, summary

from fip_jax.grades import GRADES
from fip_jax.report import verdict


def judged(settings=None, **changes):
    return verdict.judge(summary(**changes), settings or config())


GONE = {"before": (0.98, 1.0, 0.0), "after": (0.97, 0.0, 0.9)}


@pytest.mark.parametrize(
    ("count", "grade", "high"),
    # Upper end of Wilson's interval for 0 of n: z^2 / (n + z^2), z^2 = 3.8415.
    [
        (1, "inconclusive", "79.35"),
        (10, "inconclusive", "27.75"),
        (34, "inconclusive", "10.15"),
        (35, "removed", "9.89"),
    ],
)
def test_few_triggered_images_tick_nothing_off(count, grade, high):
    found = judged(**GONE, triggered_images=count)
    assert found.grade == grade
    assert f"it may be up to {high} %" in found.headline
    if count == 1:
        assert found.headline.startswith(
            "1 triggered image cannot tell whether the trigger is gone (ASR 100.00 %"
        )


def test_few_triggered_images_do_not_show_that_a_trigger_never_worked():
    calm = {"before": (0.98, 0.0, 1.0), "after": (0.97, 0.0, 0.9)}
    assert judged(**calm, triggered_images=3).grade == "inconclusive"
    assert judged(**calm, triggered_images=4).grade == "nothing_to_remove"  # up to 48.99 %
    # That it works one image shows.
    assert judged(before=(0.98, 1.0, 0), after=(0.98, 1.0, 0), triggered_images=1).grade == "not_removed"


@pytest.mark.parametrize(("skipped", "grade"), [(37, "removed"), (38, "inconclusive"), (75, "inconclusive")])
def test_steps_that_were_left_out(skipped, grade):
    found = judged(**GONE, skipped_steps=skipped)
    assert found.grade == grade
    assert (f"{skipped} of 75 steps were not finite" in found.headline) == (grade != "removed")
    assert judged(after=(0.5, 0.0, 0.5), skipped_steps=skipped).grade == "harmed"


def test_weights_that_did_not_move():
    unknown = {"before": (0.98, None, None), "after": (0.98, None, None)}
    assert judged(**unknown, relative_change=2e-3).grade == "no_trigger_known"
    found = judged(**unknown, relative_change=1.5e-6)
    assert found.grade == "inconclusive"
    assert "changed next to nothing (the weights by 0.00015 % of their norm)" in found.headline
    still = judged(before=(0.98, 1.0, 0), after=(0.98, 1.0, 0), relative_change=1.5e-6)
    assert still.grade == "not_removed"
    assert "The weights: by 0.00015 % of their norm, next to nothing." in still.changed


def test_classes_that_were_not_tested():
    network = {"model": {"name": "x"}, "num_classes": 4, "image_size": 8, "mean": 0, "std": 1}
    sentences = ["There are no test images of 3 of 4 classes (a, b, c): ACC says nothing of them."]
    found = judged(**GONE, network=network, classes_without_test_images=[0, 1, 2], classes_in_words=sentences)
    assert found.grade == "inconclusive"
    assert found.headline == "Most classes have no test images (3 of 4): their loss would not show."
    assert sentences[0] in found.unknown
    assert judged(**GONE, network=network, classes_without_test_images=[0, 1]).grade == "removed"


def test_few_test_images_are_said():
    # Wilson at 96 of 99.
    assert "ACC is of 99 test images: it may be down to 91.47 %." in judged(**GONE, test_images=99).unknown
    assert not any("it may be down" in sentence for sentence in judged(**GONE, test_images=100).unknown)


def test_every_word_is_known():
    assert {judged(after=(acc, asr, 1)).grade for acc in (0, 1) for asr in (0.0, 0.1, 0.5)} <= GRADES.keys()
