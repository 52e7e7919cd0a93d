"""One run of a training loop: its log, its evaluations and best checkpoint, when it gives up, and what it comes to."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxfm.config import Config
from jaxfm.core.objective import HasPhases
from jaxfm.core.task import Task
from jaxfm.errors import UserError
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.metrics import Sums
from jaxfm.observe.progress import Progress
from jaxfm.observe.spent import SpentTime
from jaxfm.observe.trackers import Tracker
from jaxfm.observe.wall_clock import WallClock
from jaxfm.observe.writers import MetricsWriter
from jaxfm.parallel import distributed
from jaxfm.schema import flatten, to_dict
from jaxfm.training.best import Best, tie_breaker
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.schedule import is_evaluation
from jaxfm.training.session import Session
from jaxfm.training.setup import Setup
from jaxfm.training.skipped_batch import stop_after_skips
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


@dataclasses.dataclass(frozen=True)
class Member:
    """What a loop is given of a run.

    Attributes:
      config: of the run.
      task: with its data.
      setup: of the run.
      checkpoints: that it saves.
      workdir: its run directory.
      name: what its lines begin with where a loop has several runs; "" for one that is alone.
    """

    config: Config
    task: Task
    setup: Setup
    checkpoints: Checkpoints
    workdir: pathlib.Path
    name: str = ""


@dataclasses.dataclass
class Log:
    """Turns sums into log lines, one dispatch after the step they end with, so that no step waits for the host."""

    member: Member
    writer: MetricsWriter
    progress: Progress
    wall_clock: WallClock
    spent: SpentTime
    pending: tuple[int, Sums] | None = None
    last: tuple[int, float] = (0, 0.0)
    skipped_in_a_row: int = 0
    phase: str = ""

    def flush(self) -> None:
        """Fetches and writes the interval that was closed last, if it is not written yet."""
        if self.pending is None:
            return
        setup = self.member.setup
        (step, sums), self.pending = self.pending, None
        values = metrics_lib.means(sums)
        now, (last_step, since) = self.wall_clock.busy(), self.last
        self.last = (step, now)
        rate = setup.learning_rate(step - 1)
        rows = setup.batches.rows_before(step) - setup.batches.rows_before(last_step)
        volume = setup.volume
        speed = rows * volume.useful_per_row / max(now - since, 1e-9)
        epoch = setup.batches.epoch_of(step)
        mfu = None if setup.mfu_of_unit is None else speed * setup.mfu_of_unit
        facts = {"epoch": epoch, "learning_rate": rate, f"useful_{volume.unit}_per_second": speed}
        self.writer.write(step, "train", values | facts | ({} if mfu is None else {"mfu": mfu}))
        self.spent.write(self.wall_clock.seconds())
        self.progress.update(
            step,
            run=self.member.name,
            epoch=epoch,
            loss=None if setup.privacy is not None else values["loss"],
            learning_rate=rate,
            speed=f"{speed:,.0f} useful {volume.unit}/s",
            mfu=mfu,
        )
        self._say_phase(step)
        self._stop_after_skips(step, step - last_step, values)

    def _say_phase(self, step: int) -> None:
        """Says what the steps of a part of the run do, once it is on."""
        objective = self.member.task.objective
        progress = (step - 1) / self.member.setup.total_steps
        phases = objective.phases if isinstance(objective, HasPhases) else ()
        phase = next((name for start, name in reversed(phases) if progress >= start), "")
        if phase != self.phase:
            self.progress.say(f"step {step}: {phase}")
        self.phase = phase

    def _stop_after_skips(self, step: int, updates: int, values: Mapping[str, float]) -> None:
        """Warns of updates of the interval that were skipped, and ends the run where these are too many."""
        # A mean gradient norm over a skipped update would be NaN too: said in words, and in the log as it is.
        skipped = round(values["skipped"] * updates)
        spikes = round(values.get("spikes", 0.0) * updates)
        of_run = f" of {self.member.name}" if self.member.name else ""
        if skipped:
            self.progress.say(
                f"WARNING: {skipped} of the last {updates} updates{of_run} were skipped: gradient not finite."
            )
        if spikes:
            self.progress.say(
                f"WARNING: {spikes} of the last {updates} updates{of_run} were skipped: gradient norm far above those "
                "before (config.optim.spike_factor)."
            )
        all_skipped = values["skipped"] + values.get("spikes", 0.0) > 1.0 - 1e-6
        self.skipped_in_a_row = self.skipped_in_a_row + skipped + spikes if all_skipped else 0
        member = self.member
        try:
            stop_after_skips(member.config, member.setup, member.workdir, step, self.skipped_in_a_row)
        except UserError as error:
            if not member.name:
                raise
            raise UserError(
                f"{member.name}: {error} It ends the program; without its rate the same command goes on with the other "
                "runs."
            ) from error


class Run:
    """A member while the loop goes on.

    Attributes:
      member: what the loop was given of it.
      step: updates done, as far as they count for this run.
      best: its best evaluation so far.
      ended: whether it needs no more updates: it has given up, or was restored after its last one.
      log: after `open`.
    """

    log: Log

    def __init__(self, member: Member, progress: Progress, wall_clock: WallClock):
        """Begins at step 0."""
        self.member, self._progress, self._clock = member, progress, wall_clock
        self.step, self.best, self.ended = 0, Best(), False
        self.spent = SpentTime(member.workdir, silent=not distributed.is_main())
        self.seconds_before: Mapping[str, float] = {}
        self._writer: MetricsWriter
        self._untrained = math.nan
        self._outputs: Mapping[str, Any] | None = None
        self._last_params: Any = None

    def say(self, text: str) -> None:
        """Prints a line."""
        self._progress.say(f"{self.member.name}: {text}" if self.member.name else text)

    def restore(self, abstract: TrainState, empty_sums: Sums, at_most: int | None) -> tuple[TrainState, Sums]:
        """Returns where the run goes on: state and open sums of its newest whole checkpoint, or of step 0.

        Args:
          abstract: shapes and shardings of the state of one run.
          empty_sums: of step 0.
          at_most: the latest step that is taken; None: any.

        Raises:
          UserError: the checkpoint is of other data, or none is whole.
        """
        # Where the state comes from, exactly one of:
        # 1. this run's own newest whole checkpoint, 2. loaded weights, with what they lack drawn at random, 3. all
        # random. (2 and 3 are one call: `setup.initial_state` knows which parameters are loaded.)
        setup = self.member.setup
        shapes = {name: _shape(leaf) for name, leaf in empty_sums.items()}
        restored = self.member.checkpoints.restore_latest(abstract, shapes, at_most=at_most)
        if restored is None:
            self.step, self.best, self.seconds_before, self.ended = 0, Best(), {}, False
            return setup.initial_state(), empty_sums
        state, sums, meta = restored
        # Runs of older versions do not know the validation split's.
        valid = meta.get("valid_fingerprint", setup.valid_fingerprint)
        now = {"training": setup.fingerprint, "validation": setup.valid_fingerprint}
        changed = [
            split
            for split, before in (("training", meta["fingerprint"]), ("validation", valid))
            if before != now[split]
        ]
        if changed:
            raise UserError(
                f"the checkpoint was made with other {' and '.join(changed)} data (or another tokenizer or row "
                "length): what is packed now has another fingerprint. Put the data back as it was, or start a new "
                "--workdir."
            )
        if (before := meta.get("constants_hash", "")) != setup.constants_hash and before:
            raise UserError(
                "the checkpoint was made with other weights of the teacher than config.distil.teacher names now, or of "
                "the masked LM than config.augment.masked_lm. Put them back as they were, or start a new --workdir."
            )
        self.step, self.best, self.seconds_before = int(state.step), Best.restored(meta["best"]), meta["goodput"]
        self.ended = self.step >= setup.total_steps or self.gives_up()
        return state, sums

    def open(self, held: contextlib.ExitStack) -> None:
        """Opens what the run writes to until `held` is closed."""
        member, first = self.member, self.step
        config, workdir = member.config, member.workdir
        writer = MetricsWriter(
            workdir,
            resume_step=first or None,
            tensorboard=config.log.tensorboard,
            silent=not distributed.is_main(),
            tracker=_tracker(config, workdir, first),
        )
        self._writer = held.enter_context(writer)
        self.log = Log(member, writer, self._progress, self._clock, self.spent)

    def score_first(self, params: Any) -> None:
        """Scores the validation split by the first weights and writes the numbers.

        Does nothing where nobody asks for it (`eval.first`), or there is no such split.
        """
        config, task = self.member.config, self.member.task
        if not config.eval.first or "valid" not in task.datasets:
            return
        rows = task.datasets["valid"]
        with self._clock.during("evaluate"), self._progress.task("validating the first weights", len(rows)) as advance:
            metrics = task.scorer("valid").metrics(self.member.setup.evaluate(params, rows, advance))
        self._writer.write(0, "valid", metrics)
        self._untrained = value = metrics.get(config.eval.metric, math.nan)
        others = "  ".join(f"{key} {number:.4f}" for key, number in metrics.items() if key != config.eval.metric)
        self.say(f"valid before the first update: {config.eval.metric} {value:.4f}  {others}")

    def is_scored_after(self, step: int) -> bool:
        """Whether the validation split is scored, and the state saved, after `step` updates."""
        setup = self.member.setup
        return is_evaluation(step, self.member.config, setup.batches, setup.total_steps)

    def score(self, step: int, params: Any) -> None:
        """Scores the validation split after `step` updates and writes the numbers.

        Keeps what was scored where no update follows: it is the run's own result then.
        """
        member, config, task = self.member, self.member.config, self.member.task
        rows, scorer = task.datasets["valid"], task.scorer("valid")
        with self._clock.during("evaluate"), self._progress.task("validating", len(rows)) as advance:
            outputs = member.setup.evaluate(params, rows, advance)
            metrics, warnings = scorer.metrics(outputs), scorer.warnings(outputs)
        self._writer.write(step, "valid", metrics)
        name = config.eval.metric
        value, (loss_name, loss) = metrics.get(name, math.nan), tie_breaker(metrics, task.directions)
        self.best = best = self.best.update(
            step, value, more_is_better=task.directions[name], keep=config.adapt.average_best, loss=loss
        )
        others = "  ".join(f"{key} {number:.4f}" for key, number in metrics.items() if key != name)
        mark = "best so far" if best.step == step else f"best: {best.describe_value()}, at step {best.step}"
        self.say(f"valid at step {step}: {name} {value:.4f} ({mark})  {others}")
        if math.isnan(value):
            unknown = loss is None or math.isnan(loss)
            by = "nor is another" if unknown else f"checkpoints are compared by {loss_name} instead"
            self.say(f"WARNING: {name} is not defined for these labels and the predictions of step {step}; {by}.")
        for warning in warnings:
            self.say(warning)
        ends = step == member.setup.total_steps or gives_up(best, config, step)
        self._outputs = outputs if ends else None

    def save(self, state: TrainState, sums: Sums) -> None:
        """Starts a save in the background."""
        setup = self.member.setup
        meta = {
            "fingerprint": setup.fingerprint,
            "valid_fingerprint": setup.valid_fingerprint,
            "constants_hash": setup.constants_hash,
            "best": dataclasses.asdict(self.best),
            "goodput": self._clock.seconds(),
        }
        self.member.checkpoints.save(state, sums, meta, keep=self.best.kept)

    def flush(self) -> None:
        """Writes the log as far as it goes, and waits for the disk."""
        self.log.flush()
        self._writer.flush()

    def gives_up(self) -> bool:
        """Whether the run stops early."""
        return gives_up(self.best, self.member.config, self.step)

    def end(self, params: Any) -> None:
        """Keeps the parameters of a run that has given up while others go on."""
        self.ended, self._last_params = True, params

    def say_how_it_ended(self) -> None:
        """Says that it stopped early, and warns where no checkpoint is better than the first weights."""
        config, best = self.member.config, self.best
        metric = config.eval.metric
        if self.gives_up():
            self.say(f"stopped early: {best.waited} evaluations without a better {metric}")
        self.log.flush()
        if math.isnan(self._untrained) or best.value is None:
            return
        more = self.member.task.directions[metric]
        gain = best.value - self._untrained if more else self._untrained - best.value
        if gain <= 0:
            self.say(
                f"WARNING: the first weights are no worse than the best checkpoint ({metric} {self._untrained:.4f} "
                f"and {best.value:.4f}): training gained nothing. Try a lower config.optim.learning_rate, or other "
                "data."
            )

    def result(self, last_params: Callable[[], Any], session: Session) -> TrainResult:
        """Returns what the run comes to; `last_params` makes its parameters after the last step of the loop."""
        best, step = self.best, self.step
        chosen = best.step
        if self.member.config.eval.select == "last" or chosen is None or chosen == step:
            params = last_params() if self._last_params is None else self._last_params
            return TrainResult(params, step, step, best, valid_outputs=self._outputs)
        params = self.member.checkpoints.restore_or_set_aside(chosen, session.abstract.params)
        if params is None:  # rather the weights that are at hand than a run that can never end
            self.say(f"WARNING: the best checkpoint, of step {chosen}, is damaged: the last one, of {step}, is used")
            return TrainResult(last_params() if self._last_params is None else self._last_params, step, step, best)
        return TrainResult(params, chosen, step, best)


def gives_up(best: Best, config: Config, step: int) -> bool:
    """Whether a run stops early: not before its least number of updates, where nobody gave their number.

    A few dozen validation examples may be right by chance at the first evaluation, before anything is learned.
    """
    enough = config.train.steps > 0 or step >= config.train.min_steps
    return bool(config.eval.patience) and enough and best.waited >= config.eval.patience


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _tracker(config: Config, workdir: pathlib.Path, first: int) -> Callable[[], Tracker] | None:
    """Returns what opens the tracker that the config names."""
    if not config.log.tracker:
        return None
    kind, project, values = config.log.tracker, config.log.project, flatten(to_dict(config))
    return lambda: Tracker(kind, project, workdir, values, resume_step=first or None)
