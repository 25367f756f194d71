"""The folder of a run: what is in it, whose it is, and how far it has come."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from fip_jax.errors import UserError
from fip_jax.timing import Lap


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is the old one or the new one at every moment."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, whole (see `write_whole`)."""
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Content of a JSON file of ours.

    Raises:
      UserError: not JSON.
    """
    try:
        content = json.loads(path.read_bytes().decode())
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: expected JSON written by fip_jax, found something else ({error}); delete it, and what it held "
            "is worked out again (of config.json, which is the run's settings, a copy is needed)"
        ) from error


# Where things lie, how often they are saved and what is written besides does not change what a run computes.
_FREE_KEYS = {
    "attack.export",
    "dataset.data_dir",
    "dataset.manual_dir",
    "report.checkpoint_seconds",
    "report.tensorboard",
}
# Several devices purify alike, up to rounding; in a victim's training each has dropout masks of its own.
_FREE_WITHOUT_TRAINING = {"parallel.mode"}


class Workdir:
    """A run's folder, held by one process at a time.

    Nothing is written before `begin`, so that a run refused for its settings leaves no trace.

    Args:
      path: the folder.
      config: the run's settings as a nested dict.
      on_row: called with the folder after every new row of `metrics.jsonl`.

    Raises:
      UserError: a file, or a folder begun with other settings.
    """

    def __init__(self, path: Path, config: dict[str, Any], on_row: Callable[[Path], None] = lambda _: None):
        self.path, self._on_row = path.absolute(), on_row
        self._config = json.loads(json.dumps(config))
        self._results: dict[str, Any] = {}
        self._lock: IO[str] | None = None
        self._lap = Lap()
        self._seconds_before = {"total": 0.0, "compile": 0.0}
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--workdir: found a file at {path}, expected a folder or nothing")
        self._compare()

    def _compare(self) -> None:
        """Refuses a folder that was begun with other settings, or with settings that nobody knows any more."""
        file = self.path / "config.json"
        if not file.exists():
            results = ("victim", "purified", "summary.json", "metrics.jsonl", "checkpoints/results.json")
            if any((self.path / name).exists() for name in results):
                raise UserError(
                    f"--workdir: {self.path} holds results but no config.json, expected both or none"
                )
            return
        before, now = flatten(read_json(file)), flatten(self._config)
        trained = not now.get("victim.checkpoint")
        keys = (before.keys() | now.keys()) - _FREE_KEYS - (set() if trained else _FREE_WITHOUT_TRAINING)
        differing = sorted(key for key in keys if before.get(key) != now.get(key))
        if differing:
            changes = ", ".join(f"{key} (was {before.get(key)!r}, is {now.get(key)!r})" for key in differing)
            raise UserError(
                f"--workdir: {self.path} was begun with another config, expected the same: {changes}"
            )

    def summary(self) -> dict[str, Any] | None:
        """`summary.json` of a finished run, else None."""
        file = self.path / "summary.json"
        return read_json(file) if file.exists() else None

    def begin(self) -> None:
        """Makes the folder if need be, takes hold of it, and reads what an earlier start got done.

        Raises:
          UserError: in use by another process.
        """
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except (FileExistsError, NotADirectoryError, ValueError) as error:
            raise UserError(
                f"--workdir: {self.path} cannot be made ({error}), expected the path of a folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--workdir: {self.path} is in use by another process, expected a free one"
            ) from error
        self._compare()  # again, since another process may have been here before the lock
        if not (self.path / "config.json").exists():
            write_json(self.path / "config.json", self._config)
        file = self.path / "checkpoints" / "results.json"
        if file.exists():
            self._results = read_json(file)
        seconds = self._results.get("seconds", self._seconds_before)
        known = isinstance(seconds, dict) and all(
            type(seconds.get(key)) in (int, float) for key in self._seconds_before
        )
        if not known:
            raise UserError(
                f"{file}: found no seconds of the run so far, expected some; delete it, and they begin anew"
            )
        self._seconds_before = seconds

    def check_held(self) -> None:
        """Refuses to write into a folder that is gone, or into another one of its name.

        Raises:
          UserError: the folder was removed, moved or exchanged since the run was begun.
        """
        if self._lock is None:
            return
        try:
            same = os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.path / ".lock"))
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"--workdir: {self.path} was removed or moved while the run was writing to it, expected it to stay; "
                "where it still is, the same command with its new place goes on"
            )

    def close(self) -> None:
        """Lets go of the folder."""
        if self._lock is not None:
            self._lock.close()

    def log_row(self, phase: str, step: int, **values: float | int | None) -> None:
        """Adds a row to `metrics.jsonl`."""
        self.check_held()
        MetricsLog(self.path / "metrics.jsonl").append(phase, step, **values)
        self._on_row(self.path)

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds of this run over all its starts, in all and compiling; what a crash cost is lost."""
        return {name: self._seconds_before[name] + spent for name, spent in self._lap.read().items()}

    def save(self) -> None:
        """Writes the results and the seconds so far."""
        self.check_held()
        self._results["seconds"] = self.seconds()
        write_json(self.path / "checkpoints" / "results.json", self._results)

    def spend(self, part: str, seconds: float) -> None:
        """Adds to the seconds of a part of the run, over all its starts; on disk with the next `save`."""
        self._results[f"seconds_{part}"] = self.spent(part) + seconds

    def spent(self, part: str) -> float:
        """Seconds of a part of the run so far."""
        return self._results.get(f"seconds_{part}", 0.0)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """The JSON-like result called `name`: from disk if it was computed before, else computed and kept."""
        if name not in self._results:
            self._results[name] = compute()
            self.save()
        return self._results[name]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


class MetricsLog:
    """`metrics.jsonl`, a row a line; rows after the point that a run resumes at are dropped."""

    def __init__(self, path: Path):
        self.path = path

    def rows(self, phase: str | None = None) -> list[dict[str, Any]]:
        """The rows of a phase, or of all; a last line cut short by a crash does not count."""
        return [row for row in self._all() if phase in (None, row["phase"])]

    def rewind(self, phase: str, step: int) -> None:
        """Drops the rows of `phase` after `step`."""
        rows = [row for row in self._all() if row["phase"] != phase or row["step"] <= step]
        draft = self.path.with_name(f".{self.path.name}.draft")
        draft.write_text("".join(json.dumps(row) + "\n" for row in rows))
        draft.replace(self.path)

    def append(self, phase: str, step: int, **values: float | int | None) -> None:
        """Adds a row."""
        with self.path.open("a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")

    def _all(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines()
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line.decode())
                if not isinstance(row["phase"], str) or type(row["step"]) is not int:
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if number == len(lines):  # cut short by a crash
                    break
                raise UserError(
                    f"{self.path}: found no row of a run in line {number}, expected one; delete the line, and its "
                    "point is missing in the figures"
                ) from error
            rows.append(row)
        return rows
