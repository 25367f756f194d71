"""How long it takes from the command line to the end of a victim's first epoch, attack by attack.

    python -m benchmarks.first_epoch --config=configs/quickstart.py --workdir=runs/first_epoch \
        --out=benchmarks/results/first_epoch

Two times: up to the victim's first step, which is imports, data, what the attack learns before and the measurement of
the fresh network; and the epoch with the measurement after it. Compiling counts, with nothing kept from earlier
programs. A run is killed once it has logged the epoch. Nothing else should run beside. Writes OUT.json and OUT.md; an
attack that is in OUT.json already is not timed again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from configs.sweep import ATTACKS
from fip_jax.experiment import environment
from fip_jax.progress import console
from fip_jax.workdir import MetricsLog, write_json, write_whole

POLL_SECONDS = 0.1


class Seconds(NamedTuple):
    """From the command line to the victim's first step, and from there to the end of its first epoch."""

    before: float
    epoch: float


def time_first_epoch(command: list[str], workdir: Path, limit: float) -> Seconds:
    """Times the run that `command` starts in `workdir`, and ends it.

    Raises:
      RuntimeError: the run ended, or `limit` seconds went by, before the epoch was over.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile() as output:
        begun = time.monotonic()
        variables = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
        times: list[float] = []
        try:
            while len(times) < len(Seconds._fields):
                spent = time.monotonic() - begun
                if process.poll() is not None or spent > limit:
                    output.seek(0)
                    raise RuntimeError(
                        f"no epoch after {spent:.0f} seconds: {output.read()[-2000:].decode(errors='replace')}"
                    )
                # One row before the first step, one after every epoch.
                rows = len(MetricsLog(workdir / "metrics.jsonl").rows("victim"))
                times += [spent] * (rows - len(times))
                time.sleep(POLL_SECONDS)
            return Seconds(times[0], times[1] - times[0])
        finally:
            process.kill()
            process.wait()


def command_of(attack: str, config: str, workdir: Path) -> list[str]:
    """The command line of a run with an attack of `configs.sweep.ATTACKS`."""
    return [
        *(sys.executable, "-m", "fip_jax.main", f"--config={config}", f"--workdir={workdir}"),
        *(f"--config.{key}={value}" for key, value in ATTACKS[attack].items()),
    ]


def table(seconds: dict[str, dict[str, float]]) -> str:
    """Markdown, the slowest first."""
    lines = ["| attack | before | first epoch | seconds in all |", "|---|---|---|---|"]
    for name, spent in sorted(seconds.items(), key=lambda item: -sum(item[1].values())):
        columns = (*spent.values(), sum(spent.values()))
        lines.append(f"| {name} | {' | '.join(f'{value:.0f}' for value in columns)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Times what has not been timed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="configs/quickstart.py", help="config file of every run")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.md")
    parser.add_argument(
        "--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS), metavar="ATTACK"
    )
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a run is given up")
    options = parser.parse_args(arguments)
    path = options.out.with_suffix(".json")
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"seconds": {}}
    content |= {"config": options.config, **environment()}
    for attack in options.attacks:
        if attack not in content["seconds"]:
            folder = (options.workdir / attack).absolute()
            spent = time_first_epoch(command_of(attack, options.config, folder), folder, options.limit)
            content["seconds"][attack] = {name: round(value, 1) for name, value in spent._asdict().items()}
            console.print(f"{attack}: {spent.before:.1f} s, first epoch {spent.epoch:.1f} s", markup=False)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, content)
            write_whole(options.out.with_suffix(".md"), table(content["seconds"]).encode())


if __name__ == "__main__":
    main()
