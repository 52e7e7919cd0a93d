"""A stopwatch for the wall time of a run: seconds by activity, over all its restarts. Its report is the goodput.

The goodput of a run is the share of its wall time, over all its restarts, that went into updates which count: "train"
over the sum of all activities. "train" is the training loop without what belongs to another activity: not waiting for
data, not evaluations, saves or recordings. Updates that were lost with a killed process and done again count once: what
the killed process spent after its last checkpoint is known by `observe/spent.py` and counted as "replayed".
"""

import contextlib
import time
from collections.abc import Iterator, Mapping

import jax

# In the order of the report. "train" is all time of the training loop that belongs to no other activity, "report" what
# follows the loop; nothing ever enters "replayed", which a resumed run adds.
REPLAYED = "replayed"
ACTIVITIES = ("start", "compile", "train", "evaluate", "checkpoint", "wait for data", "profile", "report", REPLAYED)


def goodput(seconds: Mapping[str, float]) -> float:
    """Returns the share of a run's wall time that went into updates which count; 0 where no time is known.

    `seconds`: by activity, as `WallClock.seconds` or a report gives them.
    """
    total = sum(seconds.values())
    return seconds.get("train", 0.0) / total if total else 0.0


class WallClock:
    """A stopwatch that is always running in exactly one activity."""

    def __init__(self, before: Mapping[str, float] | None = None):
        """Starts in the activity "start"; `before` has the seconds of earlier parts of the same run."""
        self._seconds = {name: float((before or {}).get(name, 0.0)) for name in ACTIVITIES}
        self._activity, self._since = "start", time.perf_counter()
        self._changes = 0

    @property
    def activity(self) -> str:
        """The present activity. This and `changes` may be read in another thread; nothing else may."""
        return self._activity

    @property
    def changes(self) -> int:
        """How often the activity has changed."""
        return self._changes

    def enter(self, activity: str) -> str:
        """Switches to `activity`; returns the previous one."""
        assert activity in self._seconds, activity
        self._changes += activity != self._activity
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
