"""Says what a run waits for, with the stacks of all threads, when nothing has moved for much longer than usual."""

import logging
import os
import pathlib
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from jaxfm.observe.progress import Progress, format_seconds
from jaxfm.observe.wall_clock import WallClock

logger = logging.getLogger(__name__)

STALLS_FILE = "stalls.txt"
TICK_SECONDS = 1.0
# Activities (of WallClock) in which updates are made.
_UPDATING = ("train", "wait for data")
# Least bounds in floors: of an update while fewer than `_LEAST_UPDATES` were timed, and of any other activity. A
# compilation, an evaluation of one huge batch or a save may take long the first time, when nothing is known of it.
_FIRST_UPDATES, _OTHERS = 10, 30
_LEAST_UPDATES, _TIMED_UPDATES, _TIMED_SPANS = 3, 101, 11
_MOST_CALLS = 25  # of a stack, the innermost
_WAITS_FOR = {
    "start": "its start",
    "compile": "a compilation",
    "train": "a step on the devices",
    "wait for data": "the next batch (wait for data)",
    "evaluate": "an evaluation",
    "checkpoint": "saving a checkpoint",
    "profile": "a recording",
    "report": "scores and reports",
}
_STACKS = "  What each thread does, its last call at the end (> jaxfm):"
_PACKAGE = str(pathlib.Path(__file__).parents[1]) + os.sep


class Watchdog:
    """Context manager with a thread that looks once a second whether the run moves, and never ends it.

    What moves is the host's loop: it dispatches updates, enters and leaves activities, evaluates batches. That an
    update is done on the devices is not seen by itself, as no step waits for the host; but the loop waits for updates
    that it dispatched earlier (`training/run_ahead.py`), so it stands still at most about a second's worth of updates
    after the devices do. The usual seconds of an update are the median of the last hundred times between two looks at
    which more updates were known to be done.

    Silence is counted in looks, not by the clock: after the process or the whole machine was suspended, nothing is
    said. A bound is, of updates, `factor` times the usual and at least `floor` seconds (ten floors before three were
    timed); of any other activity at least thirty floors, and twice its usual time. Said again at twice, four times ...
    the silence. A library that waits and keeps Python's lock to itself silences the watchdog too.
    """

    def __init__(
        self,
        wall_clock: WallClock,
        progress: Progress,
        *,
        factor: float,
        floor: float,
        say: Callable[[str], None],
        path: pathlib.Path | None = None,
        process: str = "",
        others: Callable[[], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares a watchdog.

        Args:
          wall_clock: knows the activity.
          progress: knows how far the run is.
          factor: of the usual seconds of an update; 0: no thread, and nothing is ever said.
          floor: seconds, see above.
          say: gets the text, in the watchdog's thread.
          path: a file that gets every text too, with the time; one that cannot be written is left out.
          process: this one, where a run has several: "process 1 (host-b)".
          others: returns what the other processes last said of themselves; empty for one process.
          clock: seconds; for tests.
        """
        self._wall_clock, self._progress, self._clock = wall_clock, progress, clock
        self._factor, self._floor = factor, floor
        self._say, self._path, self._who, self._others = say, path, f"{process}: " if process else "", others
        self._tick = min(TICK_SECONDS, floor / 10)
        self._pulse, self._silent, self._say_at = (-1, -1), 0.0, 0.0
        self._shown: str | None = None  # the stacks said last, since the run moved
        self._counted: tuple[float, int] | None = None  # when updates were last seen to be done, and how many
        self._updates: deque[float] = deque(maxlen=_TIMED_UPDATES)
        self._span: tuple[str, float] = ("", 0.0)
        self._spans: dict[str, deque[float]] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._factor > 0:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)  # it may be printing to a terminal that nobody reads

    def status(self) -> str:
        """Returns what this process does, for the other ones: "a step on the devices, 120 updates dispatched"."""
        activity = self._wall_clock.activity
        return f"{_WAITS_FOR.get(activity, activity)}, {self._progress.dispatched_steps} updates dispatched"

    def tick(self) -> None:
        """Looks once, as the thread does every second."""
        activity = self._wall_clock.activity
        pulse = (self._wall_clock.changes, self._progress.pulse)
        self._time(activity)
        if pulse != self._pulse:
            if self._say_at:
                self._tell(f"{self._who}the run moves again, after {_seconds(self._silent)} without a sign.")
            self._pulse, self._silent, self._say_at, self._shown = pulse, 0.0, 0.0, None
            return
        self._silent += self._tick
        bound = self._bound(activity)
        if self._silent >= max(bound, self._say_at):
            self._say_at = 2 * self._silent
            self._tell(self._stalled(activity, bound))

    def _run(self) -> None:
        try:
            while not self._over.wait(self._tick):
                self.tick()
        except Exception as error:  # whatever is wrong with it is no reason to end a run
            logger.warning("the watchdog has ended (%s: %s); the run goes on without it.", type(error).__name__, error)

    def _time(self, activity: str) -> None:
        """Learns how long updates and other activities usually take."""
        before, seconds = self._span
        if before == activity:
            self._span = (activity, seconds + self._tick)
        else:
            self._spans.setdefault(before, deque(maxlen=_TIMED_SPANS)).append(seconds)
            self._span = (activity, 0.0)
        if activity not in _UPDATING:
            self._counted = None  # its time is not that of updates
            return
        now, done = self._clock(), self._progress.finished_steps
        if self._counted is None:
            self._counted = (now, done)
        elif done > self._counted[1]:
            self._updates.append((now - self._counted[0]) / (done - self._counted[1]))
            self._counted = (now, done)

    def _usual(self, activity: str) -> float | None:
        """Returns the usual seconds of an update, or of another activity; None where that is not known yet."""
        if activity in _UPDATING:
            return statistics.median(self._updates) if len(self._updates) >= _LEAST_UPDATES else None
        spans = self._spans.get(activity)
        return statistics.median(spans) if spans else None

    def _bound(self, activity: str) -> float:
        """Returns the seconds without a sign after which something is said."""
        usual = self._usual(activity)
        if activity in _UPDATING:
            return self._floor * _FIRST_UPDATES if usual is None else max(self._floor, self._factor * usual)
        return max(self._floor * _OTHERS, 2 * (usual or 0.0))

    def _stalled(self, activity: str, bound: float) -> str:
        what, usual = "an update" if activity in _UPDATING else "this", self._usual(activity)
        known = "how long is usual is not known yet" if usual is None else f"{what} usually takes {_seconds(usual)}"
        done, dispatched = self._progress.finished_steps, self._progress.dispatched_steps
        also = f" This is also in {self._path}." if self._path else ""
        now, before = stacks(skip={threading.get_ident()}), self._shown
        self._shown = now
        lines = [
            f"WARNING: {self._who}nothing has moved for {_seconds(self._silent)}: the run waits for "
            f"{_WAITS_FOR.get(activity, activity)}. {dispatched:,} updates are dispatched, {done:,} known to be done; "
            f"{known}; said after {_seconds(bound)} (config.log.stall_factor, stall_seconds).",
            *([f"  other processes: {others}"] if (others := self._others()) else []),
            *(["  All threads do what they did then."] if now == before else [_STACKS, now]),
            f"  The run goes on waiting; to end it: Ctrl-C or SIGTERM, twice.{also}",
        ]
        return "\n".join(lines)

    def _tell(self, text: str) -> None:
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} {text}\n")
            except OSError as error:  # a full disk may be why the run stands still
                text += f"\n  ({self._path} could not be written: {error.strerror})"
        self._say(text)


def stacks(skip: set[int] | None = None) -> str:
    """Returns the Python stack of each thread, the main one first, those that do the same together; indented text.

    `skip`: identifiers of threads that are left out.
    """
    main = threading.main_thread().ident
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found: dict[str, list[str]] = {}
    # Public, in spite of its name; a thread that Python did not start has no name.
    for ident, frame in sorted(sys._current_frames().items(), key=lambda item: item[0] != main):
        if ident not in (skip or ()):
            found.setdefault(_stack(frame), []).append(names.get(ident, f"thread {ident}"))
    return "\n".join(f"  {_named(sorted(threads))}\n{stack}" for stack, threads in found.items())


def _stack(frame: FrameType) -> str:
    calls = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=_MOST_CALLS)
    while len(calls) > 1 and calls[-1].filename == threading.__file__:  # how every thread begins
        calls.pop()
    return "\n".join(
        f"    {'>' if call.filename.startswith(_PACKAGE) else ' '} {_short(call.filename)}:{call.lineno} {call.name}"
        f"{f': {call.line}' if call.line else ''}"
        for call in reversed(calls)
    )


def _short(path: str) -> str:
    """Returns a file's path as an import would name it: relative to the longest entry of sys.path it lies in."""
    entries = [os.path.join(entry, "") for entry in sys.path if entry]
    longest = max((entry for entry in entries if path.startswith(entry)), key=len, default="")
    return path[len(longest) :]


def _named(threads: list[str]) -> str:
    return ", ".join(threads[:3]) + (f" and {len(threads) - 3} more" if len(threads) > 3 else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else format_seconds(seconds)
