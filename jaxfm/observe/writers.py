"""The record of a run as machines read it: one JSON object a line, and TensorBoard scalars."""

import json
import math
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import tensorboardX

# protobuf makes these classes at run time, out of the type checker's sight.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from jaxfm.errors import UserError
from jaxfm.files import atomic_write

METRICS_FILE = "metrics.jsonl"
EVENT_PREFIX = "events.out.tfevents"
FLUSH_SECONDS = 10.0
"""How far TensorBoard may lag behind; each flush waits for the disk."""


class MetricsWriter:
    """Appends metrics to `WORKDIR/metrics.jsonl` and to a TensorBoard event file in WORKDIR.

    For one process of a run only; with `silent` it writes nothing, for the others.
    A resumed run leaves no line twice: what an earlier attempt wrote after
    `resume_step` (steps done in the state resumed from; None = nothing to resume, all is dropped) goes first.
    Raises UserError for a metrics file with an unreadable line, OSError when the disk is full.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        resume_step: int | None,
        tensorboard: bool = True,
        silent: bool = False,
    ) -> None:
        self._lines = self._events = None
        if silent:
            return
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS_FILE
        last_step = -1 if resume_step is None else resume_step
        if path.exists():
            _drop_after(path, last_step)
        self._lines = path.open("a", encoding="utf-8")
        self._events = _EventFile(folder, first_step=last_step + 1) if tensorboard else None
        self._flushed_at = time.monotonic()

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Records numbers (Python's, NumPy's or arrays of one element) of one step and split, e.g. split "train"."""
        assert not {"step", "split"} & set(values), f"metric names {sorted(values)}: step and split are taken"
        if self._lines is None:
            return
        numbers = {name: to_number(value) for name, value in values.items()}
        line = {"step": int(step), "split": split} | {name: to_json(number) for name, number in numbers.items()}
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        # To the operating system, so that a killed process loses no line.
        self._lines.flush()
        if self._events is not None:
            self._events.write(int(step), {f"{split}/{name}": number for name, number in numbers.items()})
            if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Brings everything written so far to the disk."""
        if self._lines is None:
            return
        self._lines.flush()
        os.fsync(self._lines.fileno())
        if self._events is not None:
            self._events.flush()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the files; a second call does nothing."""
        if self._lines is None or self._lines.closed:
            return
        self.flush()
        self._lines.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a `metrics.jsonl`: dicts of step, split and numbers, "nan" and "inf" as the floats again.

    A last line without its line end (the writer was killed) is left out. Raises UserError for any other bad line.
    """
    lines = [metrics for _, metrics in _read_lines(pathlib.Path(path))]
    for metrics in lines:
        broken = {name: float(value) for name, value in metrics.items() if isinstance(value, str) and name != "split"}
        metrics.update(broken)
    return lines


def write_predictions(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> int:
    """Writes one JSON object a line, in one step (`path` is whole or as before), and returns how many.

    `records` is drawn one at a time, so memory stays bounded however many there are.
    """
    count = 0
    with atomic_write(path) as file:
        for record in records:
            file.write(json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def to_json(value: Any) -> Any:
    """Returns `value` as plain JSON types: NumPy scalars as numbers, NaN and infinity as "nan", "inf", "-inf".

    JSON has no NaN, and null would hide it. Raises TypeError or ValueError for what JSON cannot hold.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    number = to_number(value)
    return number if math.isfinite(number) else str(number)


def to_number(value: Any) -> int | float:
    """Returns a Python number from one, or from a NumPy or JAX array of one element.

    Raises TypeError or ValueError for anything else.
    """
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is a {type(value).__name__}, not a number")
    return value


def _drop_after(path: pathlib.Path, last_step: int) -> None:
    """Rewrites the file in one step without the lines of later steps and without a half-written last line."""
    kept = [line for line, metrics in _read_lines(path) if metrics["step"] <= last_step]
    with atomic_write(path) as file:
        file.writelines(kept)


def _read_lines(path: pathlib.Path) -> Iterable[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8", newline="\n", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                metrics = json.loads(line)
                valid = isinstance(metrics["step"], int) and isinstance(metrics["split"], str)
            except (ValueError, TypeError, KeyError):
                valid = False
            if not valid:
                raise UserError(
                    f"{path}:{number}: not a line of metrics, which is one JSON object with step and split. "
                    "Something else wrote to this file: delete the line, or the file."
                )
            yield line, metrics


class _EventFile:
    """A TensorBoard event file, written in the calling thread.

    tensorboardX's SummaryWriter writes in a thread behind a queue of 10; when the disk is full the thread dies and the
    next puts block for ever. It also names files by the second, so that a quick restart overwrites the one before.
    """

    def __init__(self, folder: pathlib.Path, *, first_step: int) -> None:
        earlier = len(list(folder.glob(f"{EVENT_PREFIX}.*")))
        path = folder / f"{EVENT_PREFIX}.{int(time.time()):010d}.{os.getpid()}.{earlier:03d}"
        self._records = tensorboardX.RecordWriter(str(path))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if earlier:
            # TensorBoard hides what earlier files hold from this step on.
            start = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=first_step, session_log=start))
        self._records.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _add(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
