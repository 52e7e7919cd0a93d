"""Training: where states come from, then step, log, evaluate, save until done. It knows no task by name."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxfm.analysis.profiling import StepProfile
from jaxfm.config import Config
from jaxfm.core.batch import Batch
from jaxfm.core.task import Task
from jaxfm.observe.metrics import Sums
from jaxfm.observe.progress import Progress
from jaxfm.observe.wall_clock import WallClock
from jaxfm.parallel import distributed
from jaxfm.parallel.compilation import held_bytes
from jaxfm.parallel.preemption import Paused, Preempted, PreemptionFlag
from jaxfm.training.member import Member, Run, TrainResult
from jaxfm.training.run_ahead import DispatchAhead
from jaxfm.training.session import Stepped
from jaxfm.training.setup import Setup
from jaxfm.training.state import TrainState
from jaxfm.training.stepping import Stepping

Pause = Callable[[int, int], bool]
"""Whether a run stops, after a save, where it stands: asked with the updates done, and those of the whole run."""


def never(step: int, total_steps: int) -> bool:
    """The `Pause` of a run that goes on to its end."""
    del step, total_steps
    return False


def fit(
    members: Sequence[Member], stepping: Stepping, progress: Progress, wall_clock: WallClock, pause: Pause = never
) -> Iterator[TrainResult]:
    """Runs, or goes on with, one run or several up to their last step; returns the result of each, in their order.

    Several have the same number of updates and save at the same steps, but each is scored, keeps its best checkpoint
    and gives up by itself. The parameters of a result are made when it is asked for.

    `pause` is asked after each evaluation that another update follows, once its scores are in metrics.jsonl, and before
    anything else where a run is resumed. It answers for all members.

    Raises:
      Paused: `pause` says so; the run has saved that step.
      Preempted: a signal came to this process or another of the run; all have saved the same step.
      UserError: the checkpoints are of other data, or training diverged.
    """
    runs = [Run(member, progress, wall_clock) for member in members]
    lead = members[0]
    state, sums = _restore(runs, stepping, wall_clock)
    _pause_where_asked(runs, pause)
    with wall_clock.during("compile"), progress.state("compiling"):
        programs = {size: stepping.compiled(size) for size in lead.setup.batches.sizes}
        # gloo (collectives on CPU) gives all processes 30 s to come to the first step; compiling may differ by more.
        distributed.agree("compiled", {})
    progress.say(describe(programs[lead.setup.batches.sizes[-1]], lead.setup, lead.config, lead.task, len(runs)))
    first = min((run.step for run in runs if not run.ended), default=max(run.step for run in runs))
    progress.start_at(first)
    with (
        contextlib.ExitStack() as held,
        PreemptionFlag(distributed.shared_stop()) as preemption,
        _profile(lead, first, programs, progress, wall_clock) as profile,
    ):
        for run in runs:
            run.open(held)
        preemption.passed(first)
        for number, run in enumerate(runs):
            if run.step == 0:
                run.score_first(stepping.state_of(state.params, number))
        for run in runs:
            run.log.last = (first, wall_clock.busy())
        wall_clock.enter("train")
        batches = [held.enter_context(contextlib.closing(_batches(run, first))) for run in runs]
        done = all(run.ended for run in runs)
        waiting = iter(()) if done else _on_devices(stepping, batches, wall_clock)
        ahead = DispatchAhead()
        for update in stepping.steps(first, state, waiting, sums):
            state = update.state
            progress.dispatched(update.step)
            progress.finished(ahead.after(update.step, state.step))
            profile.after(update.step, state)
            if _after_update(update, runs, stepping, preemption, progress, wall_clock):
                break
            if runs[0].is_scored_after(update.step):
                _pause_where_asked(runs, pause)
        for run in runs:
            run.say_how_it_ended()
        with wall_clock.during("checkpoint"), progress.state("saving"):
            for run in runs:
                run.member.checkpoints.wait()
    wall_clock.enter("report")  # what follows is not training
    params = state.params
    return (
        run.result(lambda number=number: stepping.state_of(params, number), stepping.session)
        for number, run in enumerate(runs)
    )


def _after_update(
    update: Stepped,
    runs: Sequence[Run],
    stepping: Stepping,
    preemption: PreemptionFlag,
    progress: Progress,
    wall_clock: WallClock,
) -> bool:
    """Logs, scores and saves after an update, as is due; returns whether no run needs another one."""
    step, state, lead = update.step, update.state, runs[0].member
    config = lead.config
    going = [(number, run) for number, run in enumerate(runs) if not run.ended]
    for _, run in going:
        run.log.flush()  # the interval before this step: the device is busy with this one meanwhile
    if step % config.log.every_steps == 0 or step == lead.setup.total_steps:
        of_runs = stepping.sums_of(update.take_sums())
        for number, run in going:
            run.log.pending = (step, of_runs[number])
    evaluated = [(number, run) for number, run in going if run.is_scored_after(step)]
    if evaluated and "valid" in lead.task.datasets:
        for _, run in evaluated:
            run.log.flush()
        jax.block_until_ready(state)  # else the steps under way would be counted as evaluation
        for number, run in evaluated:
            run.score(step, stepping.state_of(state.params, number))
    stopped_by = preemption.passed(step)
    if stopped_by:
        progress.say(f"{signal.Signals(stopped_by).name}: stopping after step {step}, saving")
    for _, run in going:
        run.step = step
    # A run may give up between evaluations, where its least number of updates is reached. Where others go on it is
    # saved there too: who resumes finds it ended.
    leaves = len(runs) > 1 and any(run.gives_up() for _, run in going)
    if evaluated or stopped_by or leaves or _is_due(step, config.checkpoint.every_steps):
        for _, run in going:
            run.flush()
        stepping.verify_copies(step, state, update.sums)
        with wall_clock.during("checkpoint"), progress.state("saving"):
            _save(going, state, update.sums, stepping)
    if stopped_by:
        for _, run in going:
            run.member.checkpoints.wait()
        raise Preempted(stopped_by, step)
    for number, run in going:
        if run.gives_up():
            run.end(stepping.state_of(state.params, number))
    return all(run.ended for run in runs)


def _pause_where_asked(runs: Sequence[Run], pause: Pause) -> None:
    """Raises Paused, once their save is whole, where the runs are to stop after the step that they stand at."""
    going = [run for run in runs if not run.ended]
    if not going or not 0 < going[0].step < going[0].member.setup.total_steps:
        return  # nothing is saved yet, or no update follows
    if not pause(going[0].step, going[0].member.setup.total_steps):
        return
    for run in going:
        run.member.checkpoints.wait()
    raise Paused(going[0].step)


def _save(going: Sequence[tuple[int, Run]], state: TrainState, sums: Sums, stepping: Stepping) -> None:
    """Starts a save of each run; none begins before the last ones have ended, so that all have one whole step."""
    if len(going) > 1:
        for _, run in going:
            run.member.checkpoints.wait()
    of_runs = stepping.sums_of(sums)
    for number, run in going:
        run.save(stepping.state_of(state, number), of_runs[number])


def _batches(run: Run, first: int) -> Any:
    """Returns the batches of a run from step `first` on."""
    return run.member.setup.batches.iterate(first, run.member.setup.total_steps)


def _on_devices(
    stepping: Stepping, batches: Sequence[Iterator[Batch]], wall_clock: WallClock
) -> Iterator[Mapping[str, jax.Array]]:
    """Puts a batch of each run on the devices; the time until they lie there counts as waiting for data."""
    while True:
        with wall_clock.during("wait for data"):
            of_runs = [batch for each in batches if (batch := next(each, None)) is not None]
            if len(of_runs) < len(batches):
                return
            placed = stepping.shard(of_runs)
        yield placed


def _profile(
    lead: Member,
    first: int,
    programs: Mapping[int, jax.stages.Compiled],
    progress: Progress,
    wall_clock: WallClock,
) -> StepProfile:
    """Returns what records the steps that are asked for, in the first process alone: all of them do the same."""
    steps = lead.setup.profiled if distributed.is_main() else range(0)

    def program() -> str:
        return programs[lead.setup.batches.size(steps.start)].as_text() or ""

    return StepProfile(steps, first, lead.workdir / "profile", program, progress=progress, wall_clock=wall_clock)


def _restore(runs: Sequence[Run], stepping: Stepping, wall_clock: WallClock) -> tuple[TrainState, Sums]:
    """Restores all runs and returns their states and sums; those that go on are at the same step.

    That is the newest step of which all of these have a whole checkpoint. A run that has ended stays where it is.
    """
    session = stepping.session
    everything: Any = None
    late, at_most = list(enumerate(runs)), None
    while late:
        for number, run in late:
            state, sums = run.restore(session.abstract, session.empty_sums(), at_most)
            everything = stepping.put(everything, number, state, sums)
        going = [(number, run) for number, run in enumerate(runs) if not run.ended]
        at_most = min((run.step for _, run in going), default=0)
        late = [(number, run) for number, run in going if run.step > at_most]
        for _, run in late:
            run.say(f"goes back from step {run.step}: other runs have none after step {at_most}")
    for number, run in enumerate(runs if going else ()):
        if run.ended:  # its place goes on with the others, for nothing
            run.end(stepping.state_of(everything[0].params, number))
    newest = max(runs, key=lambda run: run.step)
    # An attempt may have been killed before its first checkpoint. The runs of a loop share its time.
    newest.spent.resume(wall_clock, newest.seconds_before)
    if newest.step:
        step = at_most if going else newest.step
        newest.say(f"resuming after step {step} of {newest.member.setup.total_steps}")
    return everything


def describe(program: jax.stages.Compiled, setup: Setup, config: Config, task: Task, runs: int = 1) -> str:
    """Returns what a person wants to know before step 1; `runs`: how many runs the program steps."""
    memory = program.memory_analysis()
    peak = "not known"
    if memory is not None:  # some backends do not say
        held = held_bytes(memory)
        peak = f"{(held + memory.temp_size_in_bytes) / 2**20:,.0f} MiB a device"
    rows, volume, mesh = len(task.datasets["train"]), setup.volume, setup.session.mesh
    units = config.train.batch_size * volume.per_row
    shape = " x ".join(f"{size} {axis}" for axis, size in mesh.shape.items())
    model = setup.model_size
    at_once = f"{runs} runs at once, each of " if runs > 1 else ""
    return (
        f"{at_once}{model.parameters:,} parameters, {model.trainable_parameters:,} of them trained "
        f"({model.share:.2%}), "
        f"optimizer state {model.optimizer_bytes / 2**20:,.2f} MiB; {mesh.size} device(s) as {shape}; "
        f"a step's arrays need {peak} (not counted: data, programs, libraries)\n"
        f"{rows:,} rows of {volume.per_row} {volume.unit}, {volume.useful_share:.1%} of them useful; "
        f"{setup.total_steps:,} steps of {config.train.batch_size} rows ({units:,} {volume.unit}){_growth(setup)}"
    )


def _growth(setup: Setup) -> str:
    sizes = setup.batches.sizes
    return f", of {', '.join(map(str, sizes[:-1]))} rows first" if len(sizes) > 1 else ""


def _is_due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
