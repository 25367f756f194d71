"""`tensorboard/`: the rows of `metrics.jsonl` as event files, a run of TensorBoard's for each phase.

The files are made anew from the log whenever it has a new row, so that a run which was killed loses no row and has none
twice. As a longer log begins like a shorter one, and so do the bytes, a TensorBoard that is looking on finds its place
again. For the same reason the events have no time of day; look at them by step.

This needs tensorboardX, which is optional, and no TensorFlow.
"""

from pathlib import Path
from typing import Any

from fip_jax.errors import UserError
from fip_jax.workdir import MetricsLog

_VERSION = "brain.Event:2"


def check() -> None:
    """Refuses where events cannot be written.

    Raises:
      UserError: tensorboardX is not installed.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise UserError(
            "report.tensorboard: found True, but tensorboardX is not installed: expected it "
            "(pip install tensorboardX), or False"
        ) from error


def write(workdir: Path) -> None:
    """Writes all rows there are.

    Args:
      workdir: the run's folder.
    """
    phases: dict[str, list[dict[str, Any]]] = {}
    for row in MetricsLog(workdir / "metrics.jsonl").rows():
        phases.setdefault(row["phase"], []).append(row)
    for phase, rows in phases.items():
        _write_phase(workdir / "tensorboard" / phase, rows)


def _write_phase(folder: Path, rows: list[dict[str, Any]]) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / ".draft"
    writer = RecordWriter(str(draft))
    writer.write(Event(file_version=_VERSION).SerializeToString())
    for row in rows:
        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if name not in ("phase", "step") and value is not None
        ]
        writer.write(Event(step=row["step"], summary=Summary(value=values)).SerializeToString())
    writer.close()
    draft.replace(folder / "events.out.tfevents.0")
