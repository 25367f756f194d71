"""Event files hold every row once, whatever happened to the run; read back by another reader than wrote them."""

import struct
import sys

import pytest
from ml_collections import ConfigDict

from fip_jax import experiment
from fip_jax.config import default_config
from fip_jax.errors import UserError
from fip_jax.report import tensorboard
from fip_jax.workdir import MetricsLog, Workdir

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is optional")


def events(folder):
    """The events of a folder's only event file: a length (8 bytes), its checksum (4), the record, its checksum (4)."""
    (file,) = folder.iterdir()
    assert "tfevents" in file.name
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def scalars(folder):
    """[(step, {tag: value})] after the first event, which names the format."""
    first, *rest = events(folder)
    assert first.file_version == "brain.Event:2"
    return [(event.step, {value.tag: value.simple_value for value in event.summary.value}) for event in rest]


def test_every_row_is_there_once(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append("victim", 0, loss=None, acc=0.5, converged=False)
    log.append("purify", 4, loss=0.25, asr=1.0)
    log.append("victim", 7, loss=2.0, acc=0.75, converged=True)
    for _ in range(2):
        tensorboard.write(tmp_path)
    assert scalars(tmp_path / "tensorboard" / "victim") == [
        (0, {"acc": 0.5, "converged": 0.0}),
        (7, {"loss": 2.0, "acc": 0.75, "converged": 1.0}),
    ]
    assert scalars(tmp_path / "tensorboard" / "purify") == [(4, {"loss": 0.25, "asr": 1.0})]


def crc32c(data):
    """The Castagnoli checksum, bit by bit."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


def test_records_carry_the_checksums_that_the_format_asks_for(tmp_path):
    assert crc32c(b"123456789") == 0xE3069283  # the published check value
    MetricsLog(tmp_path / "metrics.jsonl").append("victim", 0, acc=0.5)
    tensorboard.write(tmp_path)
    (file,) = (tmp_path / "tensorboard" / "victim").iterdir()
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for data, found in (
        (content[:8], content[8:12]),
        (content[12 : 12 + length], content[12 + length :][:4]),
    ):
        checksum = crc32c(data)
        # Masked as TFRecord files have it: rotated by 15 bits, plus a constant.
        masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
        assert struct.unpack("<I", found) == (masked,)


def test_a_longer_log_begins_with_the_same_bytes(tmp_path):
    # So that a reader which has come so far can go on, also where the run was killed and begins again.
    workdir = Workdir(tmp_path, {}, tensorboard.write)
    workdir.log_row("purify", 0, acc=0.5)
    workdir.log_row("purify", 4, acc=0.75)
    (file,) = (tmp_path / "tensorboard" / "purify").iterdir()
    before = file.read_bytes()
    workdir.log_row("purify", 8, acc=1.0)
    longer = file.read_bytes()
    assert longer.startswith(before)
    assert len(longer) > len(before)
    # Killed: begins again at the checkpoint of step 4.
    MetricsLog(tmp_path / "metrics.jsonl").rewind("purify", 4)
    workdir.log_row("purify", 8, acc=1.0)
    assert file.read_bytes() == longer
    assert [step for step, _ in scalars(tmp_path / "tensorboard" / "purify")] == [0, 4, 8]


def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config: ConfigDict = default_config()
    config.report.tensorboard = True
    with pytest.raises(
        UserError, match=r"report.tensorboard: found True.*pip install tensorboardX.*or False"
    ):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
