"""The metrics of a run for programs to read: one JSON object a line, and TensorBoard scalars."""

import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from jaxfm.errors import UserError
from jaxfm.files import atomic_write
from jaxfm.observe.event_file import EventFile
from jaxfm.observe.trackers import Tracker

METRICS_FILE = "metrics.jsonl"
FLUSH_SECONDS = 10.0
"""Seconds between flushes of the TensorBoard file; each waits for the disk."""


class MetricsWriter:
    """Appends metrics to `WORKDIR/metrics.jsonl` and to a TensorBoard event file in WORKDIR.

    Only one process of a run writes; the others pass `silent`, which writes nothing. A resumed run leaves no line
    twice: lines that an earlier attempt wrote after `resume_step` are removed first (steps done in the state resumed
    from; None: nothing is resumed, and all lines are removed).

    Raises UserError for a metrics file with an unreadable line, OSError when the disk is full.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        resume_step: int | None,
        tensorboard: bool = True,
        silent: bool = False,
        tracker: Callable[[], Tracker] | None = None,
    ) -> None:
        """Opens the files; `tracker` opens what gets the metrics too."""
        self._lines = self._events = self._tracker = None
        if silent:
            return
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS_FILE
        last_step = -1 if resume_step is None else resume_step
        if path.exists():
            _drop_after(path, last_step)
        self._lines = path.open("a", encoding="utf-8")
        self._events = EventFile(folder, first_step=last_step + 1) if tensorboard else None
        self._tracker = None if tracker is None else tracker()
        self._flushed_at = time.monotonic()

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Records numbers (Python's, NumPy's or arrays of one element) of one step and split, e.g. split "train"."""
        assert not {"step", "split"} & set(values), f"metric names {sorted(values)}: step and split are taken"
        if self._lines is None:
            return
        numbers = {name: to_number(value) for name, value in values.items()}
        line = {"step": int(step), "split": split} | {name: to_json(number) for name, number in numbers.items()}
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        # Handed to the operating system, so that a killed process loses no line.
        self._lines.flush()
        if self._events is not None:
            self._events.write(int(step), {f"{split}/{name}": number for name, number in numbers.items()})
        if self._tracker is not None:
            self._tracker.write(int(step), split, numbers)
        if self._events is not None and time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes everything so far to the disk and waits for it."""
        if self._lines is None:
            return
        self._lines.flush()
        os.fsync(self._lines.fileno())
        if self._events is not None:
            self._events.flush()
        if self._tracker is not None:
            self._tracker.flush()
        self._flushed_at = time.monotonic()

    def close(self, *, failed: bool = False) -> None:
        """Flushes and closes the files; a second call does nothing. `failed` is what the tracker is told."""
        if self._lines is None or self._lines.closed:
            return
        self.flush()
        self._lines.close()
        if self._events is not None:
            self._events.close()
        if self._tracker is not None:
            self._tracker.close(failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a `metrics.jsonl`: dicts of step, split and numbers, with "nan" and "inf" as floats.

    A last line without its line end (the writer was killed) is left out. Raises UserError for any other invalid line.
    """
    lines = []
    for number, (_, metrics) in enumerate(_read_lines(pathlib.Path(path)), start=1):
        for name, value in metrics.items():
            if isinstance(value, str) and name != "split":
                if value not in ("nan", "inf", "-inf"):
                    raise UserError(f"{path}:{number}: {name!r:.80} is {value!r:.80}, but must be a number.")
                metrics[name] = float(value)
        lines.append(metrics)
    return lines


def write_predictions(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> int:
    """Writes one JSON object a line and returns their number; on failure `path` stays as it was.

    `records` are taken one at a time, so memory stays bounded however many they are.
    """
    count = 0
    with atomic_write(path) as file:
        for record in records:
            file.write(json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def to_json(value: Any) -> Any:
    """Returns `value` as plain JSON types: NumPy scalars as numbers, NaN and infinity as "nan", "inf", "-inf".

    JSON has no NaN, and null would hide it. Raises TypeError or ValueError for values that JSON cannot hold.
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
    """Replaces the file by one without the lines of later steps and without a half-written last line."""
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
                valid = type(metrics["step"]) is int and isinstance(metrics["split"], str)
            except (ValueError, TypeError, KeyError, RecursionError):
                valid = False
            if not valid:
                raise UserError(
                    f"{path}:{number}: not a line of metrics, which is one JSON object with step and split. "
                    "Another program wrote to this file: delete the line, or the file."
                )
            yield line, metrics
