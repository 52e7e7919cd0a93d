"""Records devices and host during some steps with jax.profiler."""

import pathlib
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import jax

from jaxfm.analysis import traces
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.wall_clock import WallClock

_OPERATIONS = 5  # number shown after a run's recording; the file has all


class Recording:
    """A trace from its construction until `stop`; a process can have one at a time."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        """Starts the trace; the files go to FOLDER/plugins/profile/NAME/, where xprof and TensorBoard look for them."""
        options = jax.profiler.ProfileOptions()
        options.session_id = name
        options.python_tracer_level = 0  # otherwise every Python call is recorded, which slows down the host
        self._target = folder / "plugins" / "profile" / name
        for old in self._target.glob("*"):  # files of an attempt that was cut short
            old.unlink()
        jax.profiler.start_trace(folder, profiler_options=options)

    def stop(self) -> pathlib.Path:
        """Ends the trace and returns its `*.xplane.pb`; work that should be in it must have finished."""
        jax.profiler.stop_trace()
        (file,) = self._target.glob("*.xplane.pb")
        return file


def parse_steps(text: str, total_steps: int) -> range:
    """Parses `config.profile.steps`: "10:15" is updates 10 .. 14, counted from 0; an empty text gives an empty range.

    Raises:
      UserError: it is not START:STOP, or not within a run of `total_steps`.
    """
    if not text:
        return range(0)
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None:
        raise UserError(f"config.profile.steps: is {text!r}, but must be START:STOP, numbers of updates as in 10:15.")
    start, stop = int(found[1]), int(found[2])
    if stop <= start:
        raise UserError(f"config.profile.steps: is {text!r}, but STOP must be greater than START.")
    if stop > total_steps:
        raise UserError(f"config.profile.steps: is {text!r}, but the run has {total_steps} updates; STOP may be that.")
    return range(start, stop)


class StepProfile:
    """Context manager that records some updates of a run and prints where their time went.

    It waits for the devices before the recording starts and ends, so that it holds exactly these updates, and what runs
    between two of them, such as an evaluation. A run that resumes within these updates records the rest. A run that
    resumes after them records nothing and says so; that is not an error, as a stopped run is resumed with the same
    command. Without updates to record it does nothing.
    """

    def __init__(
        self,
        steps: range,
        first: int,
        folder: pathlib.Path,
        program: Callable[[], str],
        *,
        progress: Progress,
        wall_clock: WallClock,
    ) -> None:
        """Prepares the recording.

        Args:
          steps: the updates to record, counted from 0.
          first: the update that this process starts with.
          folder: the folder of the files.
          program: returns the compiled step's text.
          progress: where the results are printed.
          wall_clock: gets the time of starting, stopping and reading the recording as "profile".
        """
        self._steps = range(max(steps.start, first), max(steps.stop, first))
        if steps and not self._steps:
            progress.say(f"profile.steps={steps.start}:{steps.stop}: the run goes on from {first}, nothing is recorded")
        self._first, self._folder, self._program = first, folder, program
        self._progress, self._wall_clock = progress, wall_clock
        self._recording: Recording | None = None
        self._annotation: jax.profiler.StepTraceAnnotation | None = None

    def __enter__(self) -> Self:
        self.after(self._first, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recording is not None:
            self._end_step()
            file, self._recording = self._recording.stop(), None
            self._progress.say(f"profile: cut short with the run, in {file}")

    def after(self, step: int, state: Any) -> None:
        """To be called after `step` updates were dispatched; `state` is the result of the last one."""
        if not self._steps or step < self._steps.start or step > self._steps.stop:
            return
        self._end_step()
        if step in (self._steps.start, self._steps.stop):
            with self._wall_clock.during("profile"):
                jax.block_until_ready(state)
                if step == self._steps.start:
                    self._recording = Recording(self._folder, f"steps_{self._steps.start}_{self._steps.stop}")
                elif self._recording is not None:
                    recording, self._recording = self._recording, None
                    self._report(recording.stop())
        if self._recording is not None:
            self._annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
            self._annotation.__enter__()

    def _end_step(self) -> None:
        if self._annotation is not None:
            self._annotation.__exit__(None, None, None)
            self._annotation = None

    def _report(self, file: pathlib.Path) -> None:
        summary = traces.summarise(traces.read_trace(file), self._program(), len(self._steps))
        self._progress.say(
            f"profile of updates {self._steps.start + 1} to {self._steps.stop}: {file}\n"
            f"  open it with: xprof --logdir={self._folder} (pip install xprof; in TensorBoard the page Profile), "
            "or the trace.json.gz beside it at ui.perfetto.dev"
        )
        for remark in traces.warnings(summary):
            self._progress.say(f"  {remark}")
        self._progress.table(traces.part_table(summary))
        self._progress.table(traces.operation_table(summary, _OPERATIONS))
