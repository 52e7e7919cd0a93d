"""What a killed run is known to have spent: a small file beside its checkpoints, written at each log line."""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping

from jaxfm.observe.wall_clock import ACTIVITIES, REPLAYED, WallClock

SPENT_FILE = "spent.json"
# Of the time after the last checkpoint, what is done again; a start or a compilation is none the less one.
_DONE_AGAIN = ("train", "wait for data", "evaluate", "checkpoint")


class SpentTime:
    """The file WORKDIR/spent.json: seconds by activity, over all restarts, at the last log line.

    It is overwritten in place and not waited for on the disk (some file systems wait at a rename onto it: 3 ms in place
    of 0.01): it outlives a killed process, and after a power cut it is old or cut, which only makes "replayed" smaller.
    Only one process of a run reads and writes it.
    """

    def __init__(self, workdir: pathlib.Path, *, silent: bool = False) -> None:
        """`silent`: for every process but the first; nothing is read or written."""
        self._path, self._silent = workdir / SPENT_FILE, silent

    def write(self, seconds: Mapping[str, float]) -> None:
        """Overwrites the file. A disk that cannot be written to is passed over: nothing but a statistic is lost."""
        if self._silent:
            return
        line = (json.dumps(dict(seconds)) + "\n").encode()
        with contextlib.suppress(OSError):
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.pwrite(handle, line, 0)
                os.ftruncate(handle, len(line))
            finally:
                os.close(handle)

    def resume(self, wall_clock: WallClock, saved: Mapping[str, float]) -> None:
        """Adds to a clock what earlier attempts spent: `saved`, and what was lost since then (see `lost_since`)."""
        wall_clock.add(saved)
        wall_clock.add(self.lost_since(saved))
        self.write(wall_clock.seconds())  # else it would not be known any more if this attempt is killed, too

    def lost_since(self, saved: Mapping[str, float]) -> dict[str, float]:
        """Returns seconds by activity that an attempt spent after its last checkpoint, as a resumed run counts them.

        Updates, waiting for data, evaluations and saves are "replayed", as they are done again. The rest stays what it
        was.

        Args:
          saved: the seconds that the checkpoint says were spent until it; empty where a run starts anew.
        """
        spent = {} if self._silent else self._read()
        more = {name: max(spent.get(name, 0.0) - float(saved.get(name, 0.0)), 0.0) for name in ACTIVITIES}
        replayed = more[REPLAYED] + sum(more[name] for name in _DONE_AGAIN)
        return {name: 0.0 if name in _DONE_AGAIN else seconds for name, seconds in more.items()} | {REPLAYED: replayed}

    def _read(self) -> dict[str, float]:
        """Returns the file's seconds; nothing where it is absent, cut or of something else."""
        try:
            # The first line alone: one that was killed before it cut the rest off left that, too.
            found = json.loads(self._path.read_text(encoding="utf-8").partition("\n")[0])
            return {str(name): float(seconds) for name, seconds in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
