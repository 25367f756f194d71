"""The scaling benchmark: its ideals by hand, and what it makes of workers of known speed."""

import pytest
from PIL import Image

from benchmarks import scaling
from benchmarks.speed.workload import Workload, configure


class Pretended:
    """A process that takes a second for as many examples as one device has, and half a second more for spreading."""

    def __init__(self, side, environment=None):
        flags = (environment or {}).get("XLA_FLAGS", "=1")
        self.devices = int(flags.rpartition("=")[2])

    def prepare(self, work):
        assert work.mode == "pmap"
        self.seconds = work.times + 0.5 * (self.devices > 1)
        return 9.0

    def run(self, count):
        return count, count * self.seconds

    def about(self):
        return {"hardware": {"platform": "cpu", "num_devices": 1}}

    def close(self):
        pass


@pytest.mark.parametrize(
    "kind, virtual, expected",
    [("strong", False, 0.25), ("weak", False, 1), ("strong", True, 1), ("weak", True, 4)],
)
def test_ideals_of_four_devices(kind, virtual, expected):
    assert scaling.ideal(kind, virtual, 4) == expected
    assert scaling.ideal(kind, virtual, 1) == 1


def test_four_devices_get_the_work_of_four():
    work = Workload("fip", "small_vgg", 4, 64)
    for kind, times in (("strong", 1), ("weak", 4)):
        found = configure(scaling.spread(work, kind, 4))
        one = configure(work)
        assert found.parallel.mode == "pmap"
        assert found.defense.batch_size == times * one.defense.batch_size
        assert found.defense.fip.trace_batch_size == times * one.defense.fip.trace_batch_size
        assert scaling.spread(work, kind, 4).num_clean == times * 64


def test_environment_shows_the_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=b")
    assert scaling.variables(True, 3) == {"XLA_FLAGS": "--a=b --xla_force_host_platform_device_count=3"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert scaling.variables(False, 2) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,6")
    assert scaling.variables(False, 2) == {"CUDA_VISIBLE_DEVICES": "5,7"}


def test_times_are_compared_with_the_ideal(monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "Worker", Pretended)
    content = scaling.scale(Workload("fip", "small_vgg", 4, 64), rounds=2, seconds=3.0, counts=(1, 4))
    assert content["virtual"]
    assert content["note"] == scaling.VIRTUAL
    found = {(row["kind"], row["row"], row["devices"]): row["times_ideal"] for row in content["rows"]}
    assert found["strong", "ft", 1] == found["weak", "ft", 1] == 1
    # 1.5 s for what takes one device 1 s, and 4.5 s for four times as much.
    assert found["strong", "fip", 4] == pytest.approx(1.5)
    assert found["weak", "fip", 4] == pytest.approx(4.5 / 4)
    scaling.draw(content, tmp_path / "scaling.png")
    with Image.open(tmp_path / "scaling.png") as image:
        assert image.width > 500
