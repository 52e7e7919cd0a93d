"""A run that is a chain of runs: each stage begins from the whole state of the one before it, by another config.

All stages but the last lie in WORKDIR/stages, as ordinary runs; WORKDIR itself is the last one. Whenever it is stopped,
the same call goes on.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.shown import Report
from jaxfm.parallel.preemption import Paused
from jaxfm.training import continuation, history
from jaxfm.training.fit import Pause, never
from jaxfm.training.workdir import CONFIG_FILE


class TrainOne(Protocol):
    """Runs or resumes a single run, as `jaxfm.train` does."""

    def __call__(self, config: Config, workdir: pathlib.Path, *, pause: Pause) -> Report:
        """Returns the content of report.json."""
        ...


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage that another one follows.

    Attributes:
      name: of its folder.
      config: of its run.
      ends: asked at each evaluation with the run directory, the updates done and those of the whole run: why the stage
        ends here; "" where it goes on.
      rewrite: what is done with the state before the next stage.
    """

    name: str
    config: Config
    ends: Callable[[pathlib.Path, int, int], str]
    rewrite: continuation.Rewrite | None = None


def train_stages(
    stages: Sequence[Stage],
    last: Config,
    workdir: pathlib.Path,
    train_one: TrainOne,
    *,
    may_change: Collection[str],
    pause: Pause = never,
) -> Report:
    """Trains the stages, and then `last`, or goes on where that was stopped; returns the last one's report.

    Args:
      stages: all but the last.
      last: config of the run that stands for all of it.
      workdir: its run directory.
      train_one: trains one of them.
      may_change: keys that may differ between the stages.
      pause: as for `jaxfm.train`.

    Raises:
      UserError: as `train_one` and `continuation.begin`, or a stage that came to its end before another one began.
      Stopped: by `pause` or a signal.
    """
    if not (workdir / CONFIG_FILE).is_file():
        continuation.check_free(workdir)
        folder = workdir / continuation.STAGES_DIR
        folders = [*(folder / stage.name for stage in stages), workdir]
        configs = [*(stage.config for stage in stages), last]
        folder.mkdir(parents=True, exist_ok=True)
        with files.held(folder / ".lock", f"--workdir={workdir}"):
            for index, stage in enumerate(stages):
                if (folders[index + 1] / CONFIG_FILE).is_file():
                    continue
                step, why = _train_until(stage, folders[index], train_one, pause)
                continuation.begin(
                    folders[index],
                    step,
                    configs[index + 1],
                    folders[index + 1],
                    may_change=may_change,
                    why=why,
                    rewrite=stage.rewrite,
                )
                turn = history.read_history(folders[index + 1])[-1]
                with Progress(None) as progress:
                    progress.say(f"after step {step:,}: {history.describe_changes(turn)}; {turn.why}")
    return train_one(last, workdir, pause=pause)


def _train_until(stage: Stage, folder: pathlib.Path, train_one: TrainOne, pause: Pause) -> tuple[int, str]:
    """Trains a stage to its end; returns the updates done, and why it ended."""
    why, asked = "", False

    def ends(step: int, total_steps: int) -> bool:
        nonlocal why, asked
        asked, why = pause(step, total_steps), stage.ends(folder, step, total_steps)
        return asked or bool(why)

    try:
        report = train_one(stage.config, folder, pause=ends)
    except Paused as paused:
        if asked:  # by the caller: what follows is for later
            raise
        return paused.step, why
    raise UserError(
        f"--workdir={folder}: this stage came to its end, after {report['training']['steps']:,} updates, before "
        "the next one began: no evaluation lies in between. Score more often, by config.eval.every_steps, in another "
        "--workdir."
    )
