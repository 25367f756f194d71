"""The folder of a run: written whole or not at all, one run's alone, and a log that goes on where it stopped."""

import json
import subprocess
import sys
import time

import pytest

from fip_jax.errors import UserError
from fip_jax.workdir import MetricsLog, Workdir, flatten, read_json, write_json

CONFIG = {
    "seed": 0,
    "dataset": {"name": "a", "data_dir": "", "manual_dir": "", "mean": (0.1, 0.2)},
    "report": {"checkpoint_seconds": 20.0, "eval_every": 5},
}


def changed(**values):
    """CONFIG with other values, their keys with `__` for a dot."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in values.items():
        *parts, last = key.split("__")
        place = config
        for part in parts:
            place = place[part]
        place[last] = value
    return config


@pytest.fixture
def begun(tmp_path):
    """A folder in which a run was begun and stopped."""
    workdir = Workdir(tmp_path / "run", CONFIG)
    workdir.begin()
    workdir.close()
    return tmp_path / "run"


def test_json_round_trip(tmp_path):
    content = {"a": [1, 2.5, None, True, "é"], "b": {"c": 1e-30}}
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content
    write_json(tmp_path / "file.json", {"d": 1})
    assert read_json(tmp_path / "file.json") == {"d": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": 2, "b": {"c": object()}})
    assert read_json(path) == {"a": 1}
    # And a failure leaves nothing that stops the next write.
    write_json(path, {"a": 3})
    assert read_json(path) == {"a": 3}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"not json"])
def test_reading_what_is_not_json_names_the_file(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"file\.json: expected JSON"):
        read_json(path)


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_no_trace_before_begin(tmp_path):
    workdir = Workdir(tmp_path / "some" / "run", CONFIG)
    assert workdir.summary() is None
    assert not list(tmp_path.iterdir())
    workdir.begin()
    workdir.close()
    assert read_json(tmp_path / "some" / "run" / "config.json") == changed()


def test_the_same_config_is_welcome(begun):
    # Where data lies and how often is saved may change. Tuples and lists are one in JSON.
    for config in (
        CONFIG,
        changed(dataset__data_dir="elsewhere", dataset__manual_dir="x", report__checkpoint_seconds=1.0),
        changed(report__tensorboard=True),
    ):
        workdir = Workdir(begun, config)
        workdir.begin()
        workdir.close()
    assert read_json(begun / "config.json") == changed()


def test_another_config_is_refused_with_keys_and_values(begun):
    with pytest.raises(UserError, match=r"^--workdir: ") as caught:
        Workdir(begun, changed(seed=7, dataset__name="b", dataset__data_dir="elsewhere"))
    message = str(caught.value)
    assert "seed (was 0, is 7)" in message
    assert "dataset.name (was 'a', is 'b')" in message
    assert "data_dir" not in message
    assert "mean" not in message
    assert str(begun) in message


def test_keys_that_came_or_went_are_named(begun):
    config = changed(report__new=3)
    del config["seed"]
    with pytest.raises(UserError, match=r"report\.new \(was None, is 3\), seed \(was 0, is None\)"):
        Workdir(begun, config)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "3"])
def test_a_corrupt_config_names_the_file(begun, content):
    (begun / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        Workdir(begun, CONFIG)


@pytest.mark.parametrize(
    "content", ["{", "[1, 2]", "[" * 100_000, '{"seconds": 3}', '{"seconds": {"total": 1}}']
)
def test_corrupt_results_name_the_file(begun, content):
    (begun / "checkpoints" / "results.json").write_text(content)
    workdir = Workdir(begun, CONFIG)
    try:
        with pytest.raises(UserError, match=r"results\.json"):
            workdir.begin()
    finally:
        workdir.close()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"--workdir: found a file at .*file"):
        Workdir(tmp_path / "file", CONFIG)
    assert (tmp_path / "file").read_text() == "mine"


def test_two_processes_do_not_share_a_folder(begun):
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", code, str(begun / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    workdir = Workdir(begun, CONFIG)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=r"^--workdir: .* in use by another process"):
            workdir.begin()
    finally:
        other.communicate()
        workdir.close()
    # It is free again when the other is gone, however that ended.
    again = Workdir(begun, CONFIG)
    again.begin()
    again.close()


def test_two_runs_of_one_process_do_not_share_a_folder(begun):
    first, second = Workdir(begun, CONFIG), Workdir(begun, CONFIG)
    first.begin()
    try:
        with pytest.raises(UserError, match="in use"):
            second.begin()
    finally:
        second.close()
        first.close()


def test_results_are_computed_once(begun):
    calls = []

    def compute():
        calls.append(1)
        return {"acc": 0.5, "ra": None}

    for _ in range(3):
        workdir = Workdir(begun, CONFIG)
        workdir.begin()
        assert workdir.once("victim", compute) == {"acc": 0.5, "ra": None}
        assert workdir.once("other", lambda: [1]) == [1]
        workdir.close()
    assert len(calls) == 1


def test_a_result_that_failed_is_computed_again(begun):
    workdir = Workdir(begun, CONFIG)
    workdir.begin()
    with pytest.raises(ZeroDivisionError):
        workdir.once("victim", lambda: 1 // 0)
    assert workdir.once("victim", lambda: 2) == 2
    workdir.close()


def test_a_finished_run_has_a_summary(begun):
    write_json(begun / "summary.json", {"seed": 0})
    assert Workdir(begun, CONFIG).summary() == {"seed": 0}


def test_seconds_add_up_over_starts(begun):
    start = time.monotonic()
    for _ in range(2):
        workdir = Workdir(begun, CONFIG)
        workdir.begin()
        time.sleep(0.05)
        workdir.save()
        workdir.close()
    found = Workdir(begun, CONFIG)
    found.begin()
    seconds = found.seconds()
    found.close()
    # Two naps; writing the file is not in it, so the clock on the wall has gone a little further.
    assert 0.1 <= seconds["total"] <= time.monotonic() - start
    # Nothing was compiled.
    assert seconds["compile"] == 0.0


def test_compiling_counts_apart(tmp_path):
    import jax

    workdir = Workdir(tmp_path, CONFIG)
    jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
    seconds = workdir.seconds()
    assert 0 < seconds["compile"] < seconds["total"]


def test_a_folder_that_is_gone_or_another_is_not_written_to(begun):
    for gone in (True, False):
        workdir = Workdir(begun, CONFIG)
        workdir.begin()
        workdir.log_row("purify", 1)
        begun.rename(begun.with_name(f"moved {gone}"))
        if not gone:
            (begun / "checkpoints").mkdir(parents=True)
            (begun / ".lock").touch()
        for write in (workdir.check_held, workdir.save, lambda held=workdir: held.log_row("purify", 2)):
            with pytest.raises(
                UserError, match=r"^--workdir: .*run was removed or moved while the run was writing"
            ):
                write()
        workdir.close()
        if gone:
            assert not begun.exists()
            begun.with_name(f"moved {gone}").rename(begun)


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b"3", b"{}", b'{"phase": 1, "step": 1}', b'{"phase": "a", "step": "1"}', b"[" * 9999],
)
def test_lines_of_a_log_that_are_no_rows_are_named(tmp_path, line):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    rows_of(log, 1, 2)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + line + b"\n")  # the last may have been cut short
    assert [row["step"] for row in log.rows()] == [1, 2]
    log.path.write_bytes(line + b"\n" + whole)
    with pytest.raises(
        UserError, match=r"metrics\.jsonl: found no row of a run in line 1, expected one; delete"
    ):
        log.rows()


def rows_of(log, *steps, phase="purify"):
    for step in steps:
        log.append(phase, step, loss=step / 4, asr=None)


def test_log_round_trip(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.rows("purify") == []
    rows_of(log, 1, 2)
    rows_of(log, 5, phase="victim")
    expected = [{"phase": "purify", "step": k, "loss": k / 4, "asr": None} for k in (1, 2)]
    assert MetricsLog(log.path).rows("purify") == expected
    assert [row["step"] for row in log.rows("victim")] == [5]


def test_rewind_drops_the_rows_of_its_phase_after_a_step(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    rows_of(log, 10, phase="victim")
    rows_of(log, 1, 2, 3, 4)
    log.rewind("purify", 2)
    assert [row["step"] for row in log.rows("purify")] == [1, 2]
    assert [row["step"] for row in log.rows("victim")] == [10]
    rows_of(log, 3)
    assert [row["step"] for row in log.rows("purify")] == [1, 2, 3]
    log.rewind("purify", 0)
    assert log.rows("purify") == []


def test_rewind_where_there_is_no_log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.rewind("purify", 0)
    assert log.rows("purify") == []


@pytest.mark.parametrize("kept", [1, 20, 51])
def test_a_torn_last_line_is_dropped(tmp_path, kept):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    rows_of(log, 1, 2)
    whole = log.path.read_text().splitlines(keepends=True)
    # The last line is cut after some characters, at the latest before its closing brace.
    log.path.write_text(whole[0] + whole[1][:kept])
    assert len(whole[1]) > 52
    assert [row["step"] for row in log.rows("purify")] == [1]
    # Going on from it never glues a row to the rest.
    log.rewind("purify", 1)
    rows_of(log, 2)
    assert log.path.read_text() == "".join(whole)
