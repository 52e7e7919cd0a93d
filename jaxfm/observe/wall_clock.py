"""A stopwatch for the wall time of a run: seconds by activity, over all its restarts. Its report is the goodput."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import jax

# In the order of the report. "train" is all time of the training loop that belongs to no other activity.
ACTIVITIES = ("start", "compile", "train", "evaluate", "checkpoint", "wait for data", "profile")


class WallClock:
    """A stopwatch that is always running in exactly one activity."""

    def __init__(self, before: Mapping[str, float] | None = None):
        """Starts in the activity "start"; `before` has the seconds of earlier parts of the same run."""
        self._seconds = {name: float((before or {}).get(name, 0.0)) for name in ACTIVITIES}
        self._activity, self._since = "start", time.perf_counter()

    def enter(self, activity: str) -> str:
        """Switches to `activity`; returns the previous one."""
        assert activity in self._seconds, activity
        now = time.perf_counter()
        self._seconds[self._activity] += now - self._since
        left, self._activity, self._since = self._activity, activity, now
        return left

    @contextlib.contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Counts the block as `activity`, then returns to the previous one; traces show the block under that name."""
        left = self.enter(activity)
        try:
            with jax.profiler.TraceAnnotation(activity):
                yield
        finally:
            self.enter(left)

    def add(self, before: Mapping[str, float]) -> None:
        """Adds the seconds of earlier parts of the run."""
        for name in ACTIVITIES:
            self._seconds[name] += float(before.get(name, 0.0))

    def busy(self) -> float:
        """Returns the seconds of training steps, including waiting for their data."""
        seconds = self.seconds()
        return seconds["train"] + seconds["wait for data"]

    def seconds(self) -> dict[str, float]:
        """Returns seconds by activity up to now."""
        self.enter(self._activity)
        return dict(self._seconds)
