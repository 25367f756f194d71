"""The page that shows every attack."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import gallery
from fip_jax.attacks import ATTACKS
from fip_jax.attacks.attack import Goal
from fip_jax.config import default_config
from fip_jax.data.split import Split


def test_numbers_by_hand():
    clean = np.full((2, 12, 12, 3), 100, np.uint8)
    triggered = clean.copy()
    triggered[0] += 10
    triggered[1] -= 20
    found = gallery.likeness(clean, triggered)
    # 20 log10(255 / 10) = 28.13 and 22.11; flat images as in tests/attacks/test_similarity.py, C1 = 6.5025.
    assert found.psnr == pytest.approx((28.1308 + 22.1102) / 2, abs=1e-3)
    assert found.largest == 15
    expected = [(22000 + 6.5025) / (22100 + 6.5025), (16000 + 6.5025) / (16400 + 6.5025)]
    assert found.ssim == pytest.approx(np.mean(expected), abs=1e-4)


def test_differences_are_amplified_and_saturate():
    clean = np.array([[[[100, 100, 100, 100]]]], np.uint8)
    triggered = np.array([[[[103, 99, 255, 0]]]], np.uint8)
    assert gallery.amplified(clean, triggered).ravel().tolist() == [157, 117, 255, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_figures_and_page(channels, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 12, 14, channels), dtype=np.uint8)
    test = Split(images, (np.arange(9) % 3).astype(np.int32))
    config, goal = default_config(), Goal("all_to_one", 0, 3)
    found = {}
    for name in ("badnets", "cba"):
        triggered = gallery.triggered_images(config, name, test, goal, tmp_path / "none")
        clean = test.images[triggered.indices]
        found[name] = gallery.likeness(clean, triggered.images)
        path = tmp_path / "attacks" / f"{name}.png"
        gallery.draw(name, clean[:2], triggered.images[:2], path)
        assert f"trigger of {name}" in Image.open(path).text["Description"]
    text = gallery.page(found, "the command", "some images", 9)
    for name in found:
        assert f"![{name}](attacks/{name}.png)" in text
        assert f"| [{name}](#{name}) | {found[name].ssim:.3f} |" in text
    # Definitions of all, figures of those that were drawn.
    assert all(f"\n## {name}\n" in text for name in ATTACKS if name != "pattern")
    assert text.count("![") == 2
    assert "https://arxiv.org/abs/1708.06733" in text
    assert "Args" not in text
    assert "`attack.clean_label_rate`" in text  # in code nothing is escaped, elsewhere it is
    assert "step\\_size" in text


def test_every_attack_but_the_users_own_is_shown():
    assert set(gallery.NAMES) == set(ATTACKS) - {"pattern"}
