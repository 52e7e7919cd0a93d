"""The progress of a run for a person to watch: a bar on a terminal, plain lines in a file."""

import contextlib
from collections.abc import Callable, Iterator
from time import monotonic
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console, Group
from rich.text import Text

from jaxfm.observe.live_area import LiveArea, is_live, live_area
from jaxfm.observe.tables import Table, to_plain, to_rich

REDRAW_SECONDS, PLAIN_SECONDS = 0.1, 10.0


class Progress:
    """Context manager that shows the training steps done, and prints texts and tables without breaking the bar.

    Args:
      total_steps: the step that training ends at.
      console: where to write; standard output by default. A bar if it is a terminal or a notebook, plain
        lines otherwise.
      quiet: write nothing to standard output (for every process of a run but the first).

    The bar starts at step 0; a resumed run calls `start_at`. Nothing is drawn between calls (no thread), so that an
    untouched terminal costs the training nothing.
    """

    def __init__(self, total_steps: int, *, console: Console | None = None, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet) if console is None else console
        self._total = total_steps
        # Time and step of this process's first update: the time left is extrapolated from the steps since then.
        self._first: tuple[float, int] | None = None
        self._fields: dict[str, str] = {}
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[count]}", markup=False),
            expand=True,
            console=self._console,
            auto_refresh=False,
        )
        self._training = self._bars.add_task("training", total=total_steps, count=_count(0, total_steps))
        self._live: LiveArea | None = None

    def __enter__(self) -> Self:
        if is_live(self._console):
            live = live_area(self._console, self._render)
            live.start(refresh=True)
            self._live = live
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def start_at(self, step: int) -> None:
        """Moves the bar to `step` updates done: those of earlier parts of a resumed run.

        To be called before the first `update`. The time left is estimated from the updates of this process alone.
        """
        assert self._first is None, "start_at() after an update"
        self._bars.update(self._training, completed=step, count=_count(step, self._total))
        if self._live is not None:
            self._live.refresh()

    def update(
        self,
        step: int,
        *,
        epoch: float,
        loss: float,
        learning_rate: float,
        speed: str,
        mfu: float | None = None,
    ) -> None:
        """Shows the state of training: `step` updates done, passes over the data, loss, speed and, where known, MFU."""
        fields = {
            "epoch": f"epoch {epoch:.2f}",
            "loss": f"loss {loss:.4f}",
            "rate": f"lr {learning_rate:.1e}",
            "speed": speed,
            **({} if mfu is None else {"mfu": f"MFU {mfu:.1%}"}),
        }
        remaining = self._seconds_left(step)
        if remaining is not None:
            fields["left"] = f"ETA {format_seconds(remaining)}"
        if self._live is None:
            self.say("  ".join([f"step {_count(step, self._total)}", *fields.values()]))
            return
        self._fields = fields
        self._bars.update(self._training, completed=step, count=_count(step, self._total))
        self._live.refresh()

    def say(self, text: str) -> None:
        """Prints a line of text as it is, above the bar where there is one."""
        # out() adds no wrapping, markup or colour: brackets in a message are text, and a file gets no codes.
        if self._live is None:
            self._console.out(text, highlight=False)
        else:
            self._console.print(text, markup=False, highlight=False, emoji=False)

    def table(self, table: Table) -> None:
        """Prints a table, above the bar where there is one."""
        if is_live(self._console):
            self._console.print(to_rich(table))
        else:
            self._console.out("\n" + to_plain(table), highlight=False)

    @contextlib.contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Shows a second, temporary bar (an evaluation, a load); yields a function to call with the number newly done.

        `total` is None where it is unknown. On a terminal the bar is drawn at most every 0.1 s; elsewhere a line is
        printed at most every 10 s.
        """
        done, shown_at = 0, monotonic()
        bar = self._bars.add_task(description, total=total, count=_count(0, total))

        def advance(more: int) -> None:
            nonlocal done, shown_at
            done += more
            self._bars.update(bar, completed=done, count=_count(done, total))
            wait = PLAIN_SECONDS if self._live is None else REDRAW_SECONDS
            if monotonic() - shown_at < wait:
                return
            shown_at = monotonic()
            if self._live is None:
                self.say(f"{description} {_count(done, total)}")
            else:
                self._live.refresh()

        if self._live is not None:
            self._live.refresh()
        try:
            yield advance
        finally:
            self._bars.remove_task(bar)
            if self._live is not None:
                self._live.refresh()

    def _seconds_left(self, step: int) -> float | None:
        """Extrapolates from the time since this process's first update, so without compilation; None at the first."""
        now = monotonic()
        if self._first is None:
            self._first = (now, step)
        since, first_step = self._first
        if step <= first_step:
            return None
        return (now - since) / (step - first_step) * max(self._total - step, 0)

    def _render(self) -> Group:
        """Returns the bars and, under them, the fields; a narrow terminal loses the least important ones."""
        fields = dict(self._fields)
        for least_important in ("rate", "epoch", "mfu", "speed", "left"):
            if len("  ".join(fields.values())) > self._console.width:
                fields.pop(least_important, None)
        return Group(self._bars, Text("  ".join(fields.values()), no_wrap=True, overflow="ellipsis"))


class StreamProgress:
    """Context manager that shows how much of a stream of unknown length is done.

    It draws a moving bar on a terminal, at most every 0.1 s, prints a line elsewhere, at most every 10 s, and writes
    nothing where `quiet`.
    """

    def __init__(self, description: str = "", *, console: Console | None = None, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet) if console is None else console
        self._description = description
        self._started = self._shown_at = monotonic()
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.fields[count]}", markup=False),
            console=self._console,
            auto_refresh=False,
        )
        self._bar = self._bars.add_task(description, total=None, count="")
        self._live = False

    def __enter__(self) -> Self:
        if self._console.is_interactive and not self._console.quiet:
            self._bars.start()
            self._live = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bars.stop()
            self._live = False

    def update(self, *, documents: int, size: int, tokens: int | None = None) -> None:
        """Shows the documents and bytes of text read so far and, where given, the tokens written."""
        now = monotonic()
        if now - self._shown_at < (REDRAW_SECONDS if self._live else PLAIN_SECONDS):
            return
        self._shown_at = now
        speed = size / 1e6 / max(now - self._started, 1e-9)
        written = "" if tokens is None else f"  {tokens:,} tokens"
        count = f"{documents:,} documents  {size / 1e6:,.1f} MB{written}  {speed:,.1f} MB/s"
        if self._live:
            self._bars.update(self._bar, count=count)
            self._bars.refresh()
        else:
            self.say(f"{self._description} {count}")

    def say(self, text: str) -> None:
        """Prints a line of text as it is, above the bar where there is one."""
        if self._live:
            self._console.print(text, markup=False, highlight=False, emoji=False)
        else:
            self._console.out(text, highlight=False)


def format_seconds(seconds: float) -> str:
    """Returns a duration as people write it: 9s, 1m 12s, 2h 05m, 3d 04h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"


def _count(done: int, total: int | None) -> str:
    if total is None:
        return f"{done:,}"
    # Rounded down: 100 % means done.
    return f"{done}/{total} ({100 * done // total if total else 100} %)"
