"""A run: where the state comes from, then step, log, evaluate, save until done. It knows no task by name."""

import contextlib
import dataclasses
import math
import pathlib
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxfm.analysis.profiling import StepProfile
from jaxfm.config import Config
from jaxfm.core.task import Task
from jaxfm.errors import UserError
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.metrics import Sums
from jaxfm.observe.progress import Progress
from jaxfm.observe.wall_clock import WallClock
from jaxfm.observe.writers import MetricsWriter
from jaxfm.parallel import distributed
from jaxfm.parallel.compilation import held_bytes
from jaxfm.parallel.preemption import Preempted, PreemptionFlag
from jaxfm.training.best import Best, tie_breaker
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.run_ahead import DispatchAhead
from jaxfm.training.schedule import is_evaluation
from jaxfm.training.session import Session
from jaxfm.training.setup import Setup
from jaxfm.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A run after its last step.

    Attributes:
      params: of the checkpoint that `config.eval.select` chooses.
      step: the step they are of.
      last_step: updates done.
      best: the best evaluation; its step is None without a validation split.
      averaged: the parameters are the mean of the checkpoints of these steps, best first; empty: of `step` alone.
      valid_outputs: what `setup.evaluate` gives for these parameters on "valid"; None where that is not known.
    """

    params: Any
    step: int
    last_step: int
    best: Best
    averaged: tuple[int, ...] = ()
    valid_outputs: Mapping[str, Any] | None = None


@dataclasses.dataclass
class _Log:
    """Turns sums into log lines, one dispatch after the step they end with, so that no step waits for the host."""

    setup: Setup
    writer: MetricsWriter
    progress: Progress
    wall_clock: WallClock
    pending: tuple[int, Sums] | None = None
    last: tuple[int, float] = (0, 0.0)
    skipped_in_a_row: int = 0

    def flush(self) -> None:
        """Fetches and writes the interval that was closed last, if it is not written yet."""
        if self.pending is None:
            return
        (step, sums), self.pending = self.pending, None
        values = metrics_lib.means(sums)
        now, (last_step, since) = self.wall_clock.busy(), self.last
        self.last = (step, now)
        rate = self.setup.learning_rate(step - 1)
        rows = self.setup.batches.rows_before(step) - self.setup.batches.rows_before(last_step)
        volume = self.setup.volume
        speed = rows * volume.useful_per_row / max(now - since, 1e-9)
        epoch = self.setup.batches.epoch_of(step)
        # A mean gradient norm over a skipped update would be NaN too: said in words, and in the log as it is.
        skipped = round(values["skipped"] * (step - last_step))
        mfu = None if self.setup.mfu_of_unit is None else speed * self.setup.mfu_of_unit
        facts = {"epoch": epoch, "learning_rate": rate, f"useful_{volume.unit}_per_second": speed}
        self.writer.write(step, "train", values | facts | ({} if mfu is None else {"mfu": mfu}))
        self.progress.update(
            step,
            epoch=epoch,
            loss=values["loss"],
            learning_rate=rate,
            speed=f"{speed:,.0f} useful {volume.unit}/s",
            mfu=mfu,
        )
        if skipped:
            self.progress.say(
                f"WARNING: {skipped} of the last {step - last_step} updates were skipped: gradient not finite."
            )
        self.skipped_in_a_row = self.skipped_in_a_row + skipped if values["skipped"] == 1.0 else 0
        if self.skipped_in_a_row >= 20:
            raise UserError(
                f"training diverged: the last {self.skipped_in_a_row} updates up to step {step} had gradients that are "
                "not finite (none of them reached the weights). Try a lower config.optim.learning_rate, a longer "
                "config.optim.warmup_fraction, config.optim.clip_norm=1.0 or config.train.precision=f32."
            )


def fit(
    config: Config,
    task: Task,
    setup: Setup,
    checkpoints: Checkpoints,
    workdir: pathlib.Path,
    progress: Progress,
    wall_clock: WallClock,
) -> TrainResult:
    """Runs, or goes on with, a run up to its last step.

    Raises:
      Preempted: a signal came to this process or another of the run; all have saved the same step.
      UserError: the checkpoints are of other data, or training diverged.
    """
    # Where the state comes from, exactly one of:
    # 1. this run's own newest whole checkpoint, 2. loaded weights, with what they lack drawn at random, 3. all random.
    # (2 and 3 are one call: `setup.initial_state` knows which parameters are loaded.)
    session = setup.session
    state, sums, best = _restore(setup, checkpoints, wall_clock, progress)
    with wall_clock.during("compile"), progress.state("compiling"):
        programs = {size: session.compiled(size) for size in setup.batches.sizes}
        # gloo (collectives on CPU) gives all processes 30 s to come to the first step; compiling may differ by more.
        distributed.agree("compiled", {})
    progress.say(describe(programs[config.train.batch_size], setup, config, task))
    step = first = int(state.step)
    progress.start_at(first)
    ahead, outputs = DispatchAhead(), None
    with (
        contextlib.closing(setup.batches.iterate(first, setup.total_steps)) as batches,
        MetricsWriter(
            workdir,
            resume_step=first or None,
            tensorboard=config.log.tensorboard,
            silent=not distributed.is_main(),
        ) as writer,
        PreemptionFlag(distributed.shared_stop()) as preemption,
        _profile(setup, first, programs, workdir, progress, wall_clock) as profile,
    ):
        preemption.passed(first)
        untrained = _score_first(state, config, task, setup, writer, progress, wall_clock) if first == 0 else math.nan
        log = _Log(setup, writer, progress, wall_clock, last=(first, wall_clock.busy()))
        wall_clock.enter("train")
        waiting = () if _gives_up(best, config, step) else _on_devices(session, batches, wall_clock)
        for update in session.steps(state, waiting, sums=sums):
            step, state = update.step, update.state
            progress.dispatched(step)
            ahead.after(step, state.step)
            profile.after(step, state)
            log.flush()  # the interval before this step: the device is busy with this one meanwhile
            if step % config.log.every_steps == 0 or step == setup.total_steps:
                log.pending = (step, update.take_sums())
            evaluated = is_evaluation(step, config, setup.batches, setup.total_steps)
            if evaluated and "valid" in task.datasets:
                log.flush()
                jax.block_until_ready(state)  # else the steps under way would be counted as evaluation
                best, outputs = _evaluate(step, state, config, task, setup, best, writer, progress, wall_clock)
            stopped_by = preemption.passed(step)
            if stopped_by:
                progress.say(f"{signal.Signals(stopped_by).name}: stopping after step {step}, saving")
            if evaluated or stopped_by or _is_due(step, config.checkpoint.every_steps):
                log.flush()
                writer.flush()
                with wall_clock.during("checkpoint"), progress.state("saving"):
                    checkpoints.save(state, update.sums, _meta(setup, best, wall_clock), keep=best.kept)
            if stopped_by:
                checkpoints.wait()
                raise Preempted(stopped_by, step)
            if _gives_up(best, config, step):
                break
        if _gives_up(best, config, step):
            progress.say(f"stopped early: {best.waited} evaluations without a better {config.eval.metric}")
        log.flush()
        _say_if_worse(untrained, best, config, task, progress)
        with wall_clock.during("checkpoint"), progress.state("saving"):
            checkpoints.wait()
    if config.eval.select == "last" or best.step is None or best.step == step:
        return TrainResult(state.params, step, step, best, valid_outputs=outputs)
    return TrainResult(checkpoints.restore_params(best.step, session.abstract.params), best.step, step, best)


def _on_devices(
    session: Session, batches: Iterator[Mapping[str, Any]], wall_clock: WallClock
) -> Iterator[Mapping[str, jax.Array]]:
    """Puts batches on the devices; the time until the next one lies there counts as waiting for data."""
    while True:
        with wall_clock.during("wait for data"):
            batch = next(batches, None)
            if batch is None:
                return
            placed = session.shard(batch)
        yield placed


def _meta(setup: Setup, best: Best, wall_clock: WallClock) -> dict[str, Any]:
    """What a checkpoint remembers beside arrays."""
    return {
        "fingerprint": setup.fingerprint,
        "valid_fingerprint": setup.valid_fingerprint,
        "best": dataclasses.asdict(best),
        "goodput": wall_clock.seconds(),
    }


def _profile(
    setup: Setup,
    first: int,
    programs: Mapping[int, jax.stages.Compiled],
    workdir: pathlib.Path,
    progress: Progress,
    wall_clock: WallClock,
) -> StepProfile:
    """Returns what records the steps that are asked for, in the first process alone: all of them do the same."""
    steps = setup.profiled if distributed.is_main() else range(0)

    def program() -> str:
        return programs[setup.batches.size(steps.start)].as_text() or ""

    return StepProfile(steps, first, workdir / "profile", program, progress=progress, wall_clock=wall_clock)


def _restore(
    setup: Setup, checkpoints: Checkpoints, wall_clock: WallClock, progress: Progress
) -> tuple[TrainState, Sums, Best]:
    sums = setup.session.empty_sums()
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), sums)
    restored = checkpoints.restore_latest(setup.session.abstract, shapes)
    if restored is None:
        return setup.initial_state(), sums, Best()
    state, sums, meta = restored
    # Runs of older versions do not know the validation split's.
    valid = meta.get("valid_fingerprint", setup.valid_fingerprint)
    now = {"training": setup.fingerprint, "validation": setup.valid_fingerprint}
    changed = [
        split for split, before in (("training", meta["fingerprint"]), ("validation", valid)) if before != now[split]
    ]
    if changed:
        raise UserError(
            f"the checkpoint was made with other {' and '.join(changed)} data (or another tokenizer or row length): "
            "what is packed now has another fingerprint. Put the data back as it was, or start a new --workdir."
        )
    wall_clock.add(meta["goodput"])
    progress.say(f"resuming after step {int(state.step)} of {setup.total_steps}")
    return state, sums, Best.restored(meta["best"])


def _evaluate(
    step: int,
    state: TrainState,
    config: Config,
    task: Task,
    setup: Setup,
    best: Best,
    writer: MetricsWriter,
    progress: Progress,
    wall_clock: WallClock,
) -> tuple[Best, Mapping[str, Any] | None]:
    """Scores the validation split and writes the numbers.

    Returns the best so far and, where no update follows, the outputs that were scored: they are the run's own.
    """
    rows, scorer = task.datasets["valid"], task.scorer("valid")
    with wall_clock.during("evaluate"), progress.task("validating", len(rows)) as advance:
        outputs = setup.evaluate(state.params, rows, advance)
        metrics, warnings = scorer.metrics(outputs), scorer.warnings(outputs)
    writer.write(step, "valid", metrics)
    name = config.eval.metric
    value, (loss_name, loss) = metrics.get(name, math.nan), tie_breaker(metrics, task.directions)
    best = best.update(step, value, more_is_better=task.directions[name], keep=config.adapt.average_best, loss=loss)
    others = "  ".join(f"{key} {number:.4f}" for key, number in metrics.items() if key != name)
    mark = "best so far" if best.step == step else f"best: {best.describe_value()}, at step {best.step}"
    progress.say(f"valid at step {step}: {name} {value:.4f} ({mark})  {others}")
    if math.isnan(value):
        unknown = loss is None or math.isnan(loss)
        by = "nor is another" if unknown else f"checkpoints are compared by {loss_name} instead"
        progress.say(f"WARNING: {name} is not defined for these labels and the predictions of step {step}; {by}.")
    for warning in warnings:
        progress.say(warning)
    return best, outputs if step == setup.total_steps or _gives_up(best, config, step) else None


def _score_first(
    state: TrainState,
    config: Config,
    task: Task,
    setup: Setup,
    writer: MetricsWriter,
    progress: Progress,
    wall_clock: WallClock,
) -> float:
    """Scores the validation split by the first weights and writes the numbers; returns the run's metric.

    NaN where nobody asks for it (`eval.first`), or there is no such split.
    """
    if not config.eval.first or "valid" not in task.datasets:
        return math.nan
    rows = task.datasets["valid"]
    with wall_clock.during("evaluate"), progress.task("validating the first weights", len(rows)) as advance:
        metrics = task.scorer("valid").metrics(setup.evaluate(state.params, rows, advance))
    writer.write(0, "valid", metrics)
    value = metrics.get(config.eval.metric, math.nan)
    others = "  ".join(f"{key} {number:.4f}" for key, number in metrics.items() if key != config.eval.metric)
    progress.say(f"valid before the first update: {config.eval.metric} {value:.4f}  {others}")
    return value


def _say_if_worse(untrained: float, best: Best, config: Config, task: Task, progress: Progress) -> None:
    """Warns where no checkpoint is better than the first weights, whose metric is `untrained` (NaN: not known)."""
    if math.isnan(untrained) or best.value is None:
        return
    gain = best.value - untrained if task.directions[config.eval.metric] else untrained - best.value
    if gain <= 0:
        progress.say(
            f"WARNING: the first weights are no worse than the best checkpoint ({config.eval.metric} {untrained:.4f} "
            f"and {best.value:.4f}): training gained nothing. Try a lower config.optim.learning_rate, or other data."
        )


def describe(program: jax.stages.Compiled, setup: Setup, config: Config, task: Task) -> str:
    """Returns what a person wants to know before step 1."""
    memory = program.memory_analysis()
    peak = "not known"
    if memory is not None:  # some backends do not say
        held = held_bytes(memory)
        peak = f"{(held + memory.temp_size_in_bytes) / 2**20:,.0f} MiB a device"
    rows, volume, mesh = len(task.datasets["train"]), setup.volume, setup.session.mesh
    units = config.train.batch_size * volume.per_row
    shape = " x ".join(f"{size} {axis}" for axis, size in mesh.shape.items())
    model = setup.model_size
    return (
        f"{model.parameters:,} parameters, {model.trainable_parameters:,} of them trained ({model.share:.2%}), "
        f"optimizer state {model.optimizer_bytes / 2**20:,.2f} MiB; {mesh.size} device(s) as {shape}; "
        f"a step's arrays need {peak} (not counted: data, programs, libraries)\n"
        f"{rows:,} rows of {volume.per_row} {volume.unit}, {volume.useful_share:.1%} of them useful; "
        f"{setup.total_steps:,} steps of {config.train.batch_size} rows ({units:,} {volume.unit}){_growth(setup)}"
    )


def _growth(setup: Setup) -> str:
    sizes = setup.batches.sizes
    return f", of {', '.join(map(str, sizes[:-1]))} rows first" if len(sizes) > 1 else ""


def _gives_up(best: Best, config: Config, step: int) -> bool:
    """Whether a run stops early: not before its least number of updates, where nobody gave their number.

    A few dozen validation examples may be right by chance at the first evaluation, before anything is learned.
    """
    enough = config.train.steps > 0 or step >= config.train.min_steps
    return bool(config.eval.patience) and enough and best.waited >= config.eval.patience


def _is_due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
