"""configs/sweep.py: which processes it starts, what it leaves out, and the table it makes of their folders."""

import csv
import subprocess
import sys

import pytest

from configs import sweep
from fip_jax.errors import UserError
from fip_jax.workdir import read_json, write_json


@pytest.fixture
def started(monkeypatch):
    """Commands in the place of processes; each leaves what a finished run leaves."""
    commands = []

    def run(command, check):
        assert not check
        told = dict(flag.removeprefix("--").split("=", 1) for flag in command if flag.startswith("--"))
        commands.append(told)
        if told["config.attack.name"] == "blend":
            return subprocess.CompletedProcess(command, 2)
        folder = sweep.Path(told["workdir"])
        folder.mkdir(parents=True)
        write_json(folder / "config.json", {})
        if "config.victim.checkpoint" not in told:
            (folder / "victim").mkdir()
            if told["config.attack.name"] == "wanet":
                (folder / "attack").mkdir()
        asr = 0.02 * int(told["config.seed"])
        summary = {
            "victim": {"acc": 0.9, "asr": 1.0, "ra": 0.0},
            "purified": {"acc": 0.8, "asr": asr, "ra": None, "der": 0.9},
            "clean_images": 100,
            "seconds": {"purify": 3.0},
            "smoothness": {
                when: {"lambda_max_fisher": 1.0, "trace_fisher": trace, "trace_fisher_relative": 0.5}
                for when, trace in (("before", 2.0), ("after", 3.0))
            },
        }
        write_json(folder / "summary.json", summary)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def start(monkeypatch, folder, *arguments, epochs=10):
    """The sweep by a config file of `epochs`, for `cpu` of twice as many."""
    config = folder.parent / f"{folder.name}.py"
    config.write_text(
        "from fip_jax.config import default_config\n"
        "def get_config(machine='gpu'):\n"
        "    config = default_config()\n"
        f"    config.victim.epochs = {epochs} * (1 + (machine == 'cpu'))\n"
        "    return config\n"
    )
    monkeypatch.setattr(sys, "argv", ["sweep", f"--config={config}", f"--workdir={folder}", *arguments])
    return sweep.main()


ALL = ("--attacks", "badnets", "wanet", "--defenses", "fip", "ft_sam", "--seeds", "0", "1")


def test_the_first_defence_trains_the_victim_and_the_others_take_it(tmp_path, monkeypatch, started):
    assert start(monkeypatch, tmp_path, *ALL, "--config.model.width=8") == 0
    assert len(started) == 8
    first, second, third, fourth = started[:4]
    assert "config.victim.checkpoint" not in first and first["config.defense.name"] == "fip"
    assert second["config.victim.checkpoint"] == str(tmp_path / "badnets/0/fip/victim")
    assert "config.attack.state" not in second
    assert "config.victim.checkpoint" not in third
    assert fourth["config.victim.checkpoint"] == str(tmp_path / "wanet/0/fip/victim")
    assert fourth["config.attack.state"] == str(tmp_path / "wanet/0/fip/attack")
    assert {told["config.model.width"] for told in started} == {"8"}


def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch, started):
    start(monkeypatch, tmp_path, *ALL)
    before = len(started)
    assert start(monkeypatch, tmp_path, *ALL) == 0
    assert len(started) == before
    start(monkeypatch, tmp_path, "--attacks", "badnets", "--defenses", "ft", "--seeds", "0")
    assert [told["workdir"] for told in started[before:]] == [str(tmp_path / "badnets/0/ft")]


def test_a_sweep_is_of_one_setting(tmp_path, monkeypatch, started, capsys):
    start(monkeypatch, tmp_path, *ALL, "--config.model.width=8")
    before = len(started)
    for flags in ((), ("--config.model.width=16",)):
        assert start(monkeypatch, tmp_path, *ALL, "--seeds", "5", *flags) == 2
        words = " ".join(capsys.readouterr().out.split())
        assert f"flags of the sweep: found {[*flags]}, expected ['--config.model.width=8']" in words
    assert len(started) == before


def test_a_sweep_is_of_one_content_of_the_config(tmp_path, monkeypatch, started, capsys):
    start(monkeypatch, tmp_path, *ALL)
    before = len(started)
    assert start(monkeypatch, tmp_path, *ALL, "--seeds", "5", epochs=9) == 2
    assert "victim.epochs of the sweep: found 9, expected 10, with which" in " ".join(
        capsys.readouterr().out.split()
    )
    assert len(started) == before
    # An option that the sweep's beginning did not know yet is no other setting.
    begun = read_json(tmp_path / "sweep.json")
    del begun["attack.bppa.dither"]
    write_json(tmp_path / "sweep.json", begun)
    assert start(monkeypatch, tmp_path, *ALL) == 0


def test_what_cannot_be_a_sweep(tmp_path, monkeypatch, started, capsys):
    def refusal(folder, **changes):
        assert start(monkeypatch, folder, *ALL, **changes) == 2
        return " ".join(capsys.readouterr().out.split())

    (tmp_path / "file").write_text("")
    assert "--workdir: found" in (words := refusal(tmp_path / "file")) and "expected a folder" in words
    assert "cannot be read as a config (ZeroDivisionError" in refusal(tmp_path / "a", epochs="1 / 0; 1")
    assert not started
    start(monkeypatch, tmp_path / "b", *ALL)
    (tmp_path / "b/wanet/0/fip/summary.json").write_text("{")
    assert "summary.json: expected JSON written by fip_jax" in refusal(tmp_path / "b")


def test_what_is_asked_for_twice_is_run_once(tmp_path, monkeypatch, started):
    start(
        monkeypatch, tmp_path, "--attacks", "badnets", "all", "--defenses", "fip", "fip", "--seeds", "1", "1"
    )
    assert len(started) == len({told["workdir"] for told in started}) == len(sweep.ATTACKS)


def test_a_config_that_changes_what_tells_attacks_apart(tmp_path, monkeypatch, started, capsys):
    assert start(monkeypatch, tmp_path, *ALL, epochs="1; config.attack.mode = 'all_to_all'; 1") == 2
    words = " ".join(capsys.readouterr().out.split())
    assert "attack.mode of the config file: found 'all_to_all', expected 'all_to_one', since" in words
    assert start(monkeypatch, tmp_path, *ALL, epochs="1; config.mode = 'inspect'; 1") == 2
    assert "mode of the config file: found 'inspect'" in " ".join(capsys.readouterr().out.split())
    assert not started and not tmp_path.joinpath("sweep.json").exists()


def test_an_older_run_may_lack_a_column(tmp_path, monkeypatch, started):
    start(monkeypatch, tmp_path, "--attacks", "badnets")
    file = tmp_path / "badnets/0/fip/summary.json"
    summary = read_json(file)
    del summary["smoothness"]["before"]["trace_fisher_relative"]
    write_json(file, summary)
    row = sweep.write_tables(tmp_path)[0]
    assert (row["trace_fisher_relative_before"], row["trace_fisher_relative_after"]) == (None, 0.5)


def test_a_config_is_read_as_the_runs_will():
    assert sweep.settings_of("configs/gtsrb.py")["model.name"] == "preact_resnet18"
    assert sweep.settings_of("configs/gtsrb.py:cpu")["model.name"] == "small_vgg"
    assert sweep.settings_of("configs/gtsrb.py:cpu")["dataset.mean"] == [0.0, 0.0, 0.0]
    with pytest.raises(UserError, match=r"^--config: found no file nowhere\.py, expected"):
        sweep.settings_of("nowhere.py:cpu")
    with pytest.raises(UserError, match=r"^--config: found 'tpu' after the colon"):
        sweep.settings_of("configs/gtsrb.py:tpu")


def test_a_sweep_that_begun_no_run_is_of_no_setting(tmp_path, monkeypatch, started, capsys):
    assert (
        start(monkeypatch, tmp_path, "--attacks", "blend", "--config.model.width=-1") == 1
    )  # refused: see `started`
    assert "0 runs finished\n" in capsys.readouterr().out
    assert start(monkeypatch, tmp_path, "--attacks", "badnets") == 0


def test_a_run_that_was_begun_is_told_the_same_again(tmp_path):
    """Of two begun runs without a victim each trains its own, whatever the other has done since."""
    for defense, checkpoint in (("fip", ""), ("ft", "elsewhere/victim")):
        folder = tmp_path / "badnets/0" / defense
        folder.mkdir(parents=True)
        write_json(folder / "config.json", {"victim": {"checkpoint": checkpoint}, "attack": {"state": ""}})
        (folder / "victim").mkdir()
    commands = [sweep.command(sweep.Run("badnets", 0, name), tmp_path, "c.py", []) for name in ("fip", "ft")]
    assert not any("victim.checkpoint" in flag for flag in commands[0])
    assert "--config.victim.checkpoint=elsewhere/victim" in commands[1]


def test_tables(tmp_path, monkeypatch, started):
    start(monkeypatch, tmp_path, *ALL)
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    expected = {"attack": "wanet", "seed": "1", "defense": "ft_sam", "asr_after": "0.02"}
    expected |= {"trace_fisher_before": "2.0", "trace_fisher_after": "3.0"}
    assert expected.items() <= rows[-1].items()
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    # ASR 0 and 2 per cent: 1 ± sqrt(2); RA is not known.
    expected = "90.0 ± 0.0 | 100.0 ± 0.0 | 80.0 ± 0.0 | 1.0 ± 1.4 | unknown | 90.0 ± 0.0 | 3.0 ± 0.0"
    assert lines[2] == f"| badnets | fip | 2 | {expected} |"
    assert len(lines) == 6


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, started, capsys):
    assert start(monkeypatch, tmp_path, "--attacks", "blend", "badnets", "--defenses", "fip") == 1
    assert len(started) == 2
    assert "failed: fip against blend, seed 0" in capsys.readouterr().out
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 2


def test_flags_that_are_not_known(tmp_path, monkeypatch, capsys):
    for flags, message in (
        (("--attacks", "nothing"), "'nothing'"),
        (("--attacks", "badnets", "--epochs=3"), "found '--epochs=3', expected --config.KEY=VALUE"),
        (
            ("--attacks", "badnets", "--config.seed=3"),
            "found '--config.seed=3', expected no setting that tells",
        ),
        (
            ("--attacks", "badnets_adaptive_sam", "--config.victim.radius=0"),
            "found '--config.victim.radius=0', expected no setting that tells",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            start(monkeypatch, tmp_path, *flags)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", sweep.ATTACKS)
def test_every_attack_is_a_config_that_is_accepted(name):
    from configs import quickstart
    from fip_jax.config import check_config

    config = quickstart.get_config()
    config.update_from_flattened_dict(sweep.ATTACKS[name])
    check_config(config)
