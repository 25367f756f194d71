"""Kill -9 at any moment: the next run with the same workdir ends with the same numbers."""

import json
import random
import time

from small_runs import TINY, Program, command, finish

TIMES = {"seconds"}


def numbers(workdir):
    """`summary.json` without what is measured in seconds."""
    summary = json.loads((workdir / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in TIMES}


def kill_in(phase, arguments, workdir, delay):
    """Starts a run, waits until it has checkpointed a step of `phase` anew, and kills it `delay` later."""
    folder = workdir / "checkpoints" / phase
    before = {path.name for path in folder.iterdir()} if folder.exists() else set()
    program = Program(arguments)
    while program.running():
        if folder.exists() and {path.name for path in folder.iterdir() if path.name.isdigit()} - before:
            time.sleep(delay)
            program.kill()
            break
        time.sleep(0.01)
    return program.end()[0]


def test_killed_runs_end_like_an_undisturbed_one(data_dir, tmp_path):
    measured = {"smoothness__over_time__num_images": 4, "smoothness__over_time__hessian_steps": 2}
    measured |= {"clean__fraction": 0.2, "defense__hold_back": 0.25}
    straight = command(tmp_path / "straight", data_dir, TINY, **measured)
    status, _, err = finish(straight)
    assert status == 0, err
    broken = command(tmp_path / "broken", data_dir, TINY, report__checkpoint_seconds=0.0, **measured)
    moments = random.Random(0)
    statuses = [
        kill_in(phase, broken, tmp_path / "broken", moments.uniform(0, 0.3))
        for phase in ("victim", "purify", "purify")
    ]
    assert statuses == [-9] * 3
    status, _, err = finish(broken)
    assert status == 0, err
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "straight")
    assert [set(held) for held in numbers(tmp_path / "broken")["held_back"]] == [
        {"held_acc", "held_agreement"}
    ] * 2
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("broken", "straight")]
    assert rows[0] == rows[1]
    assert rows[0].count('"held_agreement"') == 4  # before, and after every fourth of twelve steps
    assert rows[0].count('"lambda_max_hessian"') == numbers(tmp_path / "straight")["over_time"]["points"] == 8
