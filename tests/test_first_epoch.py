"""The timing of first epochs, with small programs in the place of runs."""

import json
import sys
import time

import pytest

from benchmarks import first_epoch

RUN = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir()
with (folder / "metrics.jsonl").open("a") as log:
    for row in ('{"phase": "issba", "step": 9}', '{"phase": "victim", "step": 0}'):
        print(row, file=log, flush=True)
    time.sleep(0.6)
    print('{"phase": "victim", "step": 89}', file=log, flush=True)
time.sleep(60)
"""


def test_time_is_that_of_the_first_epoch_and_the_run_is_ended(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"phase": "victim", "step": 89}\n')  # of an earlier run
    begun = time.monotonic()
    spent = first_epoch.time_first_epoch([sys.executable, "-c", RUN, str(folder)], folder, 30)
    assert min(spent) > 0
    assert 0.6 <= sum(spent) <= time.monotonic() - begun < 30


def test_run_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"no epoch after \d+ seconds: no such file"):
        command = [sys.executable, "-S", "-c", "print('no such file')"]
        first_epoch.time_first_epoch(command, tmp_path / "run", 30)


def test_run_that_hangs_is_given_up(tmp_path):
    command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with pytest.raises(RuntimeError, match="no epoch after"):
        first_epoch.time_first_epoch(command, tmp_path / "run", 0.3)


def test_what_was_timed_is_not_timed_again(tmp_path, monkeypatch):
    timed = []

    def pretend(command, workdir, limit):
        assert f"--workdir={workdir}" in command
        timed.append(workdir.name)
        return first_epoch.Seconds(*{"badnets": (12.04, 8.0), "wanet": (21.6, 10.0)}[workdir.name])

    monkeypatch.setattr(first_epoch, "time_first_epoch", pretend)
    arguments = [f"--workdir={tmp_path}", f"--out={tmp_path / 'found'}", "--attacks", "badnets"]
    first_epoch.main(arguments)
    first_epoch.main([*arguments, "wanet"])
    assert timed == ["badnets", "wanet"]
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["seconds"] == {
        "badnets": {"before": 12.0, "epoch": 8.0},
        "wanet": {"before": 21.6, "epoch": 10.0},
    }
    assert content["hardware"]["cpu_count"]
    assert (tmp_path / "found.md").read_text().splitlines()[2:] == [
        "| wanet | 22 | 10 | 32 |",
        "| badnets | 12 | 8 | 20 |",
    ]
