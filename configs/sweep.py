"""Attacks x defences x seeds: one process a run, one CSV, one table.

    python -m configs.sweep --config=configs/gtsrb.py:cpu --workdir=runs/sweep \
        --attacks badnets wanet sig --defenses fip ft_sam --seeds 0 1 2

`--attacks all` takes every attack and variant listed in `ATTACKS` below. Any `--config.KEY=VALUE` at the end goes to
every run. A run lies in `WORKDIR/ATTACK/SEED/DEFENSE`; defences of one attack and seed share its victim, which the
first of them trains. Runs that are finished are not started again, so that the same command goes on after a stop, and
more attacks, defences or seeds can be added later, with the same config, as it was then, and the same flags.
`sweep.csv` and `sweep.md` are made anew from the folders after every run.
"""

import argparse
import csv
import io
import itertools
import runpy
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flax import traverse_util
from ml_collections import ConfigDict

from fip_jax.attacks import ATTACKS as NAMES
from fip_jax.config import METHODS, default_config
from fip_jax.errors import UserError
from fip_jax.progress import console
from fip_jax.workdir import read_json, write_json, write_whole

# What a run is told of its attack; adaptive: the attacker knows of FIP and trains a smooth victim. Without an attack a
# run shows what the others' ACC is to be compared with, and what a purification costs where there is nothing to remove.
ATTACKS: dict[str, dict[str, Any]] = {
    "none": {"attack.name": "none"},
    **{name: {"attack.name": name} for name in sorted(NAMES) if name != "pattern"},
    "badnets_all_to_all": {"attack.name": "badnets", "attack.mode": "all_to_all"},
    "dynamic_all_to_all": {"attack.name": "dynamic", "attack.mode": "all_to_all"},
    "troj_all_to_all": {"attack.name": "troj", "attack.mode": "all_to_all"},
    "troj_square": {"attack.name": "troj", "attack.troj.neurons": 0},
    "badnets_adaptive_trace": {"attack.name": "badnets", "victim.eta_f": 0.001},
    **{
        f"{name}_adaptive_sam": {"attack.name": name, "victim.radius": 1.0}
        for name in ("badnets", "blend", "sig")
    },
}
# Settings of the sweep itself, and those that tell its attacks from one another.
OWN = {
    *("mode", "seed", "defense.name", "victim.checkpoint", "attack.state"),
    *(key for settings in ATTACKS.values() for key in settings),
}
RATES = ("acc", "asr", "ra")
# Of victim and purified network; they show whether an adaptive attacker's victim is as smooth as meant.
SHARPNESS = ("lambda_max_fisher", "trace_fisher", "trace_fisher_relative")


class Run(NamedTuple):
    """One process: an attack of `ATTACKS`, a seed, a method of purification."""

    attack: str
    seed: int
    defense: str

    def folder(self, workdir: Path) -> Path:
        """Where the run lies."""
        return workdir / self.attack / str(self.seed) / self.defense


def command(run: Run, workdir: Path, config: str, more: list[str]) -> list[str]:
    """The command line of a run, which takes the victim of another defence where one is there."""
    folder = run.folder(workdir)
    changes = {"seed": run.seed, **ATTACKS[run.attack], "defense.name": run.defense, **_victim(folder)}
    return [
        *(sys.executable, "-m", "fip_jax.main", f"--config={config}", f"--workdir={folder}"),
        *(f"--config.{key}={value}" for key, value in changes.items()),
        *more,
    ]


def _victim(folder: Path) -> dict[str, str]:
    """What a run that was begun has been told of its victim, or what a new one is to be told."""
    begun = folder / "config.json"
    if begun.exists():
        config = read_json(begun)
        told = {
            "victim.checkpoint": config["victim"]["checkpoint"],
            "attack.state": config["attack"]["state"],
        }
        return {key: value for key, value in told.items() if value}
    for other in sorted(folder.parent.glob("*/victim")):
        state = other.with_name("attack")
        return {"victim.checkpoint": str(other)} | ({"attack.state": str(state)} if state.exists() else {})
    return {}


def settings_of(config: str) -> dict[str, Any]:
    """What a config file says, as the runs will read it, flat, in types of JSON."""
    path, _, argument = config.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config: found no file {path}, expected one of configs/ or of your own")
    try:
        return flat(runpy.run_path(path)["get_config"](*([argument] if argument else [])))
    except UserError:
        raise
    except Exception as error:  # a config file is a program and may raise anything
        raise UserError(f"--config: {config} cannot be read as a config ({error!r})") from error


def flat(config: ConfigDict) -> dict[str, Any]:
    """`{"attack.name": ..., ...}`, in types of JSON."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in traverse_util.flatten_dict(config.to_dict(), sep=".").items()
    }


def check_own(settings: dict[str, Any]) -> None:
    """Refuses a config file that has changed what the sweep itself sets, or what tells one run from another."""
    usual = flat(default_config())
    for key in sorted(OWN - {"attack.name", "seed", "defense.name"}):
        if settings[key] != usual[key]:
            raise UserError(
                f"{key} of the config file: found {settings[key]!r}, expected {usual[key]!r}, since the sweep sets "
                "it or tells its runs apart by it"
            )


def check_same(workdir: Path, config: str, more: list[str]) -> None:
    """Refuses a folder whose runs were begun with another config or other flags: one table is of one setting.

    The config's content counts as well as its name, since defaults change from one version to the next.
    """
    path = workdir / "sweep.json"
    settings = settings_of(config)
    check_own(settings)
    asked = {"config": config, "flags": sorted(more), **settings}
    # A config that no run could be begun with is not held on to.
    if path.exists() and any(workdir.glob("*/*/*/config.json")):
        for key, begun in read_json(path).items():
            if asked.get(key) != begun:
                raise UserError(
                    f"{key} of the sweep: found {asked.get(key)!r}, expected {begun!r}, with which {workdir} was "
                    "begun, or another --workdir"
                )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, asked)
    except OSError as error:
        raise UserError(
            f"--workdir: found {workdir} ({error.strerror}), expected a folder to write to"
        ) from error


def finished(workdir: Path) -> Iterator[dict[str, Any]]:
    """A row for each finished run below a folder: rates and sharpness before and after, DER, seconds to purify."""
    for file in sorted(workdir.glob("*/*/*/summary.json")):
        summary = read_json(file)
        *_, attack, seed, defense, _ = file.parts
        before, after = summary["victim"], summary["purified"]
        yield {
            "attack": attack,
            "seed": seed,
            "defense": defense,
            **{f"{name}_before": before[name] for name in RATES},
            **{f"{name}_after": after[name] for name in RATES},
            "der": after["der"],
            "clean_images": summary["clean_images"],
            "seconds": summary["seconds"]["purify"],
            **{
                f"{name}_{when}": summary["smoothness"][when].get(name)  # an older run may lack one
                for when in ("before", "after")
                for name in SHARPNESS
            },
        }


def write_tables(workdir: Path) -> list[dict[str, Any]]:
    """Writes `sweep.csv` and `sweep.md` from the runs that are finished, and returns its rows."""
    rows = list(finished(workdir))
    if rows:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        write_whole(workdir / "sweep.csv", text.getvalue().encode())
        write_whole(workdir / "sweep.md", table(rows).encode())
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each attack and defence, mean and standard deviation over the seeds, rates in per cent."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["attack"], row["defense"]), []).append(row)
    head = ("attack", "defence", "seeds", "ACC before", "ASR before", "ACC", "ASR", "RA", "DER", "seconds")
    rates = ("acc_before", "asr_before", "acc_after", "asr_after", "ra_after", "der")
    columns = [*((name, 100) for name in rates), ("seconds", 1)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (attack, defense), group in groups.items():
        values = (_spread([row[name] for row in group], scale) for name, scale in columns)
        lines.append(f"| {attack} | {defense} | {len(group)} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float | None], scale: int) -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return "unknown"
    mean = f"{statistics.fmean(known):.1f}"
    return f"{mean} ± {statistics.stdev(known):.1f}" if len(known) > 1 else mean


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, help="config file of every run; see configs/")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--attacks", nargs="+", choices=["all", *ATTACKS], required=True, metavar="ATTACK")
    parser.add_argument("--defenses", nargs="+", choices=METHODS, default=["fip", "ft_sam"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments, more = parser.parse_known_args()
    for flag in more:
        if not flag.startswith("--config."):
            parser.error(f"found {flag!r}, expected --config.KEY=VALUE after the flags of the sweep")
        if flag.removeprefix("--config.").split("=")[0] in OWN:
            parser.error(f"found {flag!r}, expected no setting that tells one run of the sweep from another")
    return arguments, more


def main() -> int:
    """Runs what is not finished; the exit status is 1 where a run failed, 2 where a setting is refused."""
    try:
        return _run_all(*_parse())
    except UserError as error:
        console.print(f"fip_jax: {error}", markup=False)
        return 2


def _run_all(arguments: argparse.Namespace, more: list[str]) -> int:
    attacks = list(ATTACKS) if "all" in arguments.attacks else arguments.attacks
    workdir = arguments.workdir.expanduser().absolute()
    check_same(workdir, arguments.config, more)
    asked = itertools.product(arguments.seeds, attacks, arguments.defenses)
    runs = dict.fromkeys(Run(attack, seed, defense) for seed, attack, defense in asked)
    left = [run for run in runs if not (run.folder(workdir) / "summary.json").exists()]
    failed = []
    for count, run in enumerate(left, 1):
        console.rule(f"{count}/{len(left)}: {run.defense} against {run.attack}, seed {run.seed}")
        try:
            status = subprocess.run(command(run, workdir, arguments.config, more), check=False).returncode
        except KeyboardInterrupt:
            return 130
        except UserError as error:  # a config.json that somebody else wrote
            console.print(f"fip_jax: {error}", markup=False)
            status = 2
        if status == 130:
            return status
        if status:
            failed.append(run)
        else:
            write_tables(workdir)
    count = len(write_tables(workdir))
    tables = f": {workdir / 'sweep.csv'}, {workdir / 'sweep.md'}" if count else ""
    console.print(f"{count} runs finished{tables}", markup=False)
    for run in failed:
        console.print(f"failed: {run.defense} against {run.attack}, seed {run.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
