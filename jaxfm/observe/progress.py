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
from jaxfm.observe.messages import styled
from jaxfm.observe.tables import Table, to_plain, to_rich

REDRAW_SECONDS, STEP_REDRAW_SECONDS, PLAIN_SECONDS = 0.1, 0.25, 10.0


class Progress:
    """Context manager that shows the training steps done, and prints texts and tables without breaking the bar.

    Args:
      total_steps: the step that training ends at; None where nothing is trained, and no bar is shown for it.
      console: where to write; standard output by default. A bar if it is a terminal or a notebook, plain lines
        otherwise.
      quiet: write nothing to standard output (for every process of a run but the first).

    The bar starts at step 0; a resumed run calls `start_at`. On a terminal a thread draws it once a second, so that the
    elapsed time moves while a program is compiled, and steps draw it at most four times a second. In a file there is a
    line for each `update`, and no thread.
    """

    def __init__(self, total_steps: int | None, *, console: Console | None = None, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet) if console is None else console
        self._total = total_steps
        self._started = self._moved_at = monotonic()
        self._drawn_at, self._step = 0.0, 0
        # What another thread may read (the watchdog): all are numbers that only grow.
        self.pulse = self.dispatched_steps = self.finished_steps = 0
        # Time and step of this process's first update: the time left is extrapolated from the steps since then.
        self._first: tuple[float, int] | None = None
        self._fields: dict[str, str] = {}
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False, style="bold"),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[count]}", markup=False),
            expand=True,
            console=self._console,
            auto_refresh=False,
        )
        self._training: rich.progress.TaskID | None = None
        if total_steps is not None:
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

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None in a file, where lines may have any length."""
        return self._console.width if self._console.is_terminal else None

    def start_at(self, step: int) -> None:
        """Moves the bar to `step` updates done: those of earlier parts of a resumed run.

        To be called before the first `update`. The time left is estimated from the updates of this process alone.
        """
        assert self._first is None, "start_at() after an update"
        self.dispatched_steps = self.finished_steps = step
        self._move_to(step)
        self._draw()

    def dispatched(self, step: int) -> None:
        """Moves the bar to `step` updates handed to the devices. Costs nothing in a file, and waits for no device."""
        self.dispatched_steps = step
        self._move_to(step)
        if self._first is None:
            self._first = (monotonic(), step)
        if monotonic() - self._drawn_at >= STEP_REDRAW_SECONDS:
            self._draw()

    def finished(self, step: int) -> None:
        """Notes that `step` updates are known to be done, not merely dispatched; shows nothing."""
        self.finished_steps = max(step, self.finished_steps)

    def update(
        self,
        step: int,
        *,
        epoch: float,
        loss: float | None,
        learning_rate: float,
        speed: str,
        mfu: float | None = None,
        run: str = "",
    ) -> None:
        """Shows the state of training: `step` updates done, passes over the data, loss, speed and, where known, MFU.

        `run` is which one it is of, where several are trained at once. Private training has no loss to show: None.
        """
        self._fields = {
            **({"run": run} if run else {}),
            "epoch": f"epoch {epoch:.2f}",
            **({} if loss is None else {"loss": f"loss {loss:.4f}"}),
            "rate": f"lr {learning_rate:.1e}",
            "speed": speed,
            **({} if mfu is None else {"mfu": f"MFU {mfu:.1%}"}),
        }
        self._move_to(max(step, self._step))  # a later step may be dispatched already
        if self._first is None:
            self._first = (monotonic(), step)
        if self._live is None:
            self.say("  ".join([f"step {_count(step, self._total)}", *self._fields.values(), self._time(step)]))
        self._draw()

    @contextlib.contextmanager
    def state(self, word: str) -> Iterator[None]:
        """Names the bar by what is done instead of training: "compiling", "saving"."""
        if self._training is None:
            yield
            return
        before = self._bars.tasks[0].description
        self._bars.update(self._training, description=word)
        self._draw()
        try:
            yield
        finally:
            self._bars.update(self._training, description=before)

    def say(self, text: str) -> None:
        """Prints a line of text as it is, above the bar where there is one; see `messages.styled`."""
        # out() adds no wrapping, markup or colour: brackets in a message are text, and a file gets no codes.
        if self._console.is_terminal:
            self._console.print(styled(text), highlight=False)
        elif self._console.is_jupyter and not self._console.quiet:
            print(text)  # a stream of text; rich would make an output of every line
        else:
            self._console.out(text, highlight=False)

    def headline(self, text: str) -> None:
        """Prints a line that a person should see first: in bold on a terminal, as any other elsewhere."""
        if self._console.is_terminal:
            self._console.print(Text(text, "bold"), highlight=False)
        else:
            self.say(text)

    def coloured(self, text: Text) -> None:
        """Prints lines in their colours, above the bar where there is one; without colours in a file."""
        self._console.print(text, highlight=False, soft_wrap=not self._console.is_terminal)

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
            self.pulse += 1
            self._bars.update(bar, completed=done, count=_count(done, total))
            wait = PLAIN_SECONDS if self._live is None else REDRAW_SECONDS
            if monotonic() - shown_at < wait:
                return
            shown_at = monotonic()
            if self._live is None:
                self.say(f"{description} {_count(done, total)}")
            self._draw()

        self._draw()
        try:
            yield advance
        finally:
            self._bars.remove_task(bar)
            self._draw()

    def _move_to(self, step: int) -> None:
        self._step, self._moved_at = step, monotonic()
        self.pulse += 1
        if self._training is not None:
            self._bars.update(self._training, completed=step, count=_count(step, self._total))

    def _draw(self) -> None:
        if self._live is not None:
            self._drawn_at = monotonic()
            self._live.refresh()

    def _time(self, step: int) -> str:
        """Returns the time of this process and, from its second update on, the time left: "1m 12s, ETA 52s".

        The time left is extrapolated from this process's first update on, so without its compilation.
        """
        elapsed = format_seconds(monotonic() - self._started)
        if self._first is None or self._total is None or not self._first[1] < step < self._total:
            return elapsed
        since, first_step = self._first
        left = (self._moved_at - since) / (step - first_step) * (self._total - step)
        return f"{elapsed}, ETA {format_seconds(left)}"

    def _render(self) -> Group:
        """Returns the bars and, under them, the fields; a narrow terminal loses the least important ones."""
        if self._training is None:
            return Group(self._bars)
        fields = {**self._fields, "time": self._time(self._step)}
        for least_important in ("rate", "epoch", "mfu", "speed", "time"):
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
            self._console.print(styled(text), highlight=False)
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
