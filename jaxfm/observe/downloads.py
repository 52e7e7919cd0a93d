"""The progress of downloads from the Hugging Face hub, in the look of a run's own progress."""

import contextlib
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import rich.progress
from rich.console import Console

from jaxfm.observe.live_area import is_live
from jaxfm.observe.progress import PLAIN_SECONDS, REDRAW_SECONDS


@contextlib.contextmanager
def shown_downloads(what: str, *, console: Console | None = None, quiet: bool = False) -> Iterator[type[Any]]:
    """Yields the class to give to huggingface_hub as `tqdm_class`; shows the bytes that its bars count.

    Nothing is shown where nothing is downloaded. On a terminal a bar is drawn at most every 0.1 s; elsewhere a line is
    printed at most every 10 s, and one at the end.

    Args:
      what: the repository, for the lines.
      console: where to write; standard output by default.
      quiet: write nothing.
    """
    import tqdm  # comes with huggingface_hub

    shown = _Shown(what, Console(quiet=quiet) if console is None else console)

    class Bar(tqdm.tqdm):  # type: ignore[type-arg]
        """Draws nothing itself. One of files is ignored; of those of bytes the fullest is shown."""

        def __init__(self, *args: Any, **options: Any) -> None:
            initial = options.get("initial") or 0
            super().__init__(*args, **{**options, "disable": True})
            self.n, self._bytes = initial, options.get("unit") == "B"

        def update(self, n: float | None = 1) -> None:
            """Counts `n` more."""
            self.n += n or 0
            if self._bytes:
                shown.move(int(self.n), int(self.total or 0))

    try:
        yield Bar
    finally:
        shown.end()


class _Shown:
    """One bar, or lines, of the megabytes of a download; may be moved by several threads."""

    def __init__(self, what: str, console: Console) -> None:
        self._what, self._console = what, console
        self._done = self._total = 0
        self._shown_at = monotonic()
        self._lock = threading.Lock()
        self._bars: rich.progress.Progress | None = None

    def move(self, done: int, total: int) -> None:
        with self._lock:
            self._done, self._total = max(self._done, done), max(self._total, total)
            wait = REDRAW_SECONDS if is_live(self._console) else PLAIN_SECONDS
            if self._done and monotonic() - self._shown_at >= wait:
                self._shown_at = monotonic()
                self._draw()

    def end(self) -> None:
        with self._lock:
            if self._done:
                self._draw()
            if self._bars is not None:
                self._bars.stop()

    def _draw(self) -> None:
        count = f"{self._done / 1e6:,.1f} of {max(self._total, self._done) / 1e6:,.1f} MB"
        if not is_live(self._console) or self._console.is_jupyter:
            self._console.out(f"downloading {self._what} {count}", highlight=False)
            return
        if self._bars is None:
            self._bars = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}", markup=False, style="bold"),
                rich.progress.BarColumn(bar_width=None),
                rich.progress.TextColumn("{task.fields[count]}", markup=False),
                expand=True,
                console=self._console,
                auto_refresh=False,
            )
            self._bars.add_task(f"downloading {self._what}", total=None, count="")
            self._bars.start()
        self._bars.update(self._bars.task_ids[0], completed=self._done, total=self._total or None, count=count)
        self._bars.refresh()
