"""How long it takes from the command line to the end of a victim's first epoch, attack by attack.

    python -m benchmarks.first_epoch --config=configs/quickstart.py --workdir=runs/first_epoch \
        --out=benchmarks/results/first_epoch

Imports, data, what the attack learns before and compiling count, with nothing kept from earlier programs. A run is
killed once it has logged the epoch. Nothing else should run beside. Writes OUT.json and OUT.md; an attack that is in
OUT.json already is not timed again.
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
from typing import Any

from configs.sweep import ATTACKS
from fip_jax.experiment import environment
from fip_jax.progress import console
from fip_jax.workdir import MetricsLog, write_json, write_whole

POLL_SECONDS = 0.1


def time_first_epoch(command: list[str], workdir: Path, limit: float) -> float:
    """Seconds until the run that `command` starts has logged its first epoch in `workdir`.

    Raises:
      RuntimeError: the run ended, or `limit` seconds went by, without one.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile() as output:
        begun = time.monotonic()
        variables = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
        try:
            while not any(row["step"] for row in MetricsLog(workdir / "metrics.jsonl").rows("victim")):
                spent = time.monotonic() - begun
                if process.poll() is not None or spent > limit:
                    output.seek(0)
                    raise RuntimeError(
                        f"no epoch after {spent:.0f} seconds: {output.read()[-2000:].decode(errors='replace')}"
                    )
                time.sleep(POLL_SECONDS)
            return time.monotonic() - begun
        finally:
            process.kill()
            process.wait()


def command_of(attack: str, config: str, workdir: Path) -> list[str]:
    """The command line of a run with an attack of `configs.sweep.ATTACKS`."""
    return [
        *(sys.executable, "-m", "fip_jax.main", f"--config={config}", f"--workdir={workdir}"),
        *(f"--config.{key}={value}" for key, value in ATTACKS[attack].items()),
    ]


def table(seconds: dict[str, float]) -> str:
    """Markdown, the slowest first."""
    lines = ["| attack | seconds |", "|---|---|"]
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return "\n".join(lines + [f"| {name} | {spent:.0f} |" for name, spent in ordered]) + "\n"


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
            content["seconds"][attack] = round(spent, 1)
            console.print(f"{attack}: {spent:.1f} s", markup=False)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, content)
            write_whole(options.out.with_suffix(".md"), table(content["seconds"]).encode())


if __name__ == "__main__":
    main()
