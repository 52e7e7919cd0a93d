"""One worker of a search: takes trials that have something to do, one at a time, until all have come to their end.

A trial is an ordinary run, in its own directory. Whoever works on it holds a lock file beside it, which the system
gives free when the process ends, however it ends: what a killed worker began is gone on with by the next one, from the
trial's last checkpoint. Every step may be done twice, with the same result.
"""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.spent import SpentTime
from jaxfm.observe.summary import number
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.preemption import Paused
from jaxfm.training import continuation
from jaxfm.training import workdir as workdirs
from jaxfm.training.fit import Pause
from jaxfm.tuning import costs, optuna_sampling
from jaxfm.tuning.costs import COSTS, PARAMETERS, CostModel
from jaxfm.tuning.optuna_sampling import Drawn
from jaxfm.tuning.pruning import Job, Pruner, Takeover
from jaxfm.tuning.space import Space, with_params
from jaxfm.tuning.storage import Store
from jaxfm.tuning.trials import Generation, Trial, best

TRIALS_DIR = "trials"
SECONDS = "seconds"
OBJECTIVES = (SECONDS, *COSTS)
"""Objectives beside the metrics of the task; of all of them less is better."""
FORMATS = {SECONDS: ",.1f"} | costs.FORMATS
MOST_DRAWS = 100
"""Draws of a trial's values until one is within the limits."""
_DRAWS_OF_SAMPLER = 20  # then at random: a sampler may look where good trials were, beyond the limits, for ever
_POLL_SECONDS = 1.0
# What XLA says where a model, or a batch, does not fit into the devices' memory.
_NO_MEMORY = "RESOURCE_EXHAUSTED"


class Train(Protocol):
    """Runs or resumes a run, as `jaxfm.train` does."""

    def __call__(self, config: Config, workdir: pathlib.Path, *, pause: Pause) -> Mapping[str, Any]:
        """Returns the content of report.json."""
        ...


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
      folder: of the search.
      config: that all trials start from, its metric chosen.
      space: the keys that are varied.
      sampler: one of `optuna_sampling.SAMPLERS`.
      seed: of the sampler.
      pruner: which trials are stopped.
      objectives: metrics of the validation split, or `OBJECTIVES`; trials are stopped by `config.eval.metric`.
      more_is_better: of each objective.
      total: trials in all.
      cost_model: what a trial's model costs, before it is trained; None: nobody asks.
      limits: the most that it may cost; trials above are never trained.
    """

    folder: pathlib.Path
    config: Config
    space: Space
    sampler: str
    seed: int
    pruner: Pruner
    objectives: tuple[str, ...]
    more_is_better: tuple[bool, ...]
    total: int
    cost_model: CostModel | None = None
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def workdir(self, number: int, generation: int = 0) -> pathlib.Path:
        """Returns the run directory of a trial: 0003, and 0003.1, 0003.2 ... each time it took over another one."""
        return self.folder / TRIALS_DIR / (f"{number:04}" + (f".{generation}" if generation else ""))

    def current_workdir(self, trial: Trial) -> pathlib.Path:
        """Returns the run directory by which a trial goes on."""
        return self.workdir(trial.number, len(trial.generations))

    def values(self, trial: Trial) -> dict[str, Any]:
        """Returns the values of a trial as the config has them."""
        return self.values_of(trial.current_params)

    def values_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what a storage keeps of values as the config has them; empty before they are drawn."""
        return {each.key: each.value_of(params[each.key]) for each in self.space if params}

    def costs_of(self, params: Mapping[str, Any]) -> Mapping[str, float]:
        """Returns what a model with these values costs, before it is trained; UserError where it is above a limit."""
        config = with_params(self.config, self.values_of(params))
        found = {} if self.cost_model is None else self.cost_model(config)
        if reason := costs.above(found, self.limits):
            raise UserError(reason)
        return found

    def trials(self, store: Store) -> dict[int, Trial]:
        """Returns the trials of this search by number; a storage may have later ones, of a larger total."""
        return {name: trial for name, trial in store.trials().items() if name < self.total}


def work(search: Search, store: Store, train: Train, say: Callable[[str], None], after: Callable[[], None]) -> None:
    """Does what there is to do until nothing is left, or waits for other workers.

    Args:
      search: what is searched.
      store: where its trials are kept.
      train: runs a trial.
      say: prints a line.
      after: called after each trial that was worked on.

    Raises:
      UserError: a run directory that holds something else, or a storage that cannot be reached any more.
      Preempted: stopped by a signal, after saving; the trial goes on later.
    """
    is_waiting = False
    while jobs := search.pruner.jobs(search.trials(store), search.total):
        if any(_attempt(search, store, job, train, say) for job in jobs):
            is_waiting = False
            after()
            continue
        if not is_waiting:
            say(f"waiting for other workers, at trials {', '.join(str(job.number) for job in jobs[:10])}")
        is_waiting = True
        time.sleep(_POLL_SECONDS)


def _attempt(search: Search, store: Store, job: Job, train: Train, say: Callable[[str], None]) -> bool:
    """Does a job unless another worker is at its trial; returns whether nobody was."""
    lock = search.folder / TRIALS_DIR / f"{job.number:04}.lock"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(files.held(lock, f"trial {job.number}"))
        except UserError:
            return False
        known = search.trials(store)
        if job not in search.pruner.jobs(known, search.total):  # another worker has just done it
            return True
        trial = store.take(job.number)
        if not trial.params:
            store.set_params(job.number, _draw(search, job.number, list(known.values())))
            trial = store.trials()[job.number]
        if (taken := search.pruner.takes_over(known, job, search.space)) is not None:
            trial = _take_over(search, store, trial, taken, job.level - 1, say)
        if not trial.is_over:
            _go_on(search, store, trial, job.level, train, say)
    return True


def _take_over(
    search: Search, store: Store, trial: Trial, taken: Takeover, level: int, say: Callable[[str], None]
) -> Trial:
    """Makes the run by which a trial goes on with the state of another one; returns the trial, which may have failed.

    Nobody works on the parent meanwhile: it is no job before this is noted.
    """
    parent, values = taken.parent, search.values_of(taken.params)
    folder = search.workdir(trial.number, len(trial.generations) + 1)
    say(f"trial {trial.number}: takes over trial {parent.number} at step {parent.steps:,}: {describe(values)}")
    try:
        continuation.begin(
            search.current_workdir(parent),
            parent.steps,
            with_params(search.config, values),
            folder,
            may_change=[each.key for each in search.space],
            why=f"trial {trial.number} of a population took over trial {parent.number}",
        )
    except UserError as error:
        _fail(store, trial, str(error), say)
        return store.trials()[trial.number]
    generation = Generation(level, parent.number, parent.steps, taken.params)
    generations = [dataclasses.asdict(each) for each in (*trial.generations, generation)]
    store.note(trial.number, (), {"generations": generations})
    return store.trials()[trial.number]


def _draw(search: Search, number: int, known: Sequence[Trial]) -> Drawn:
    """Draws the values of a trial, again where its model has no such sizes together, or costs more than it may.

    Of a grid each draw is a trial, which then fails without being trained.

    Raises:
      UserError: no draw is within the limits.
    """
    reason = ""
    for attempt in range(MOST_DRAWS):
        sampler = search.sampler if search.sampler == "grid" or attempt < _DRAWS_OF_SAMPLER else "random"
        drawn = optuna_sampling.draw(sampler, search.space, search.seed, number, known, search.more_is_better, attempt)
        if search.cost_model is None or search.sampler == "grid":
            return drawn
        try:
            search.costs_of(drawn.params)
            return drawn
        except UserError as error:
            reason = str(error)
    raise UserError(
        f"--most: none of {MOST_DRAWS} draws for trial {number} can be trained; the last: {reason.rstrip('.')}. Raise "
        "the limits, or give smaller sizes in the space."
    )


def _go_on(search: Search, store: Store, trial: Trial, level: int, train: Train, say: Callable[[str], None]) -> None:
    """Trains a trial to a rung, or to its end, and keeps what came of it."""
    folder, metric = search.current_workdir(trial), search.config.eval.metric
    rungs = search.pruner.rungs_of(trial.number)
    others = [each for each in search.trials(store).values() if each.number < trial.number and each.is_over]
    known = [each for each in others if each.state != "failed"]
    name = f"trial {trial.number}"
    until = f" (until {rungs[level]:.0%} of its updates)" if level < len(rungs) else ""
    say(f"{name} of {search.total}{until}: {describe(search.values(trial))}")
    seen = trial

    def pause(step: int, total_steps: int) -> bool:
        nonlocal seen
        curve = read_curve(folder, metric, until=step)
        seen = dataclasses.replace(trial, curve=curve, total_steps=total_steps)
        if level < len(rungs):
            return step >= rungs[level] * total_steps - 1e-9
        return search.pruner.stops(seen, known)

    try:
        config = with_params(search.config, search.values(trial))
        if not trial.costs and search.cost_model is not None:
            trial = seen = dataclasses.replace(trial, costs=search.costs_of(trial.params))
            store.note(trial.number, (), {"costs": dict(trial.costs)})
    except UserError as error:  # keys that are right alone and not together, a model above a limit
        _fail(store, trial, str(error), say)
        return
    workdirs.status(folder, workdirs.with_chosen(folder, config))  # what is wrong there is not due to the values
    try:
        report = train(config, folder, pause=pause)
    except Paused:
        _keep_pause(search, store, seen, level, rungs, say)
    except UserError as error:
        _fail(store, trial, str(error), say)
    except jax.errors.JaxRuntimeError as error:
        if _NO_MEMORY not in str(error):
            raise
        _fail(store, trial, f"does not fit into the memory of the devices: {str(error).splitlines()[0]}", say)
    else:
        _keep_end(search, store, seen, report, say)


def _keep_pause(
    search: Search, store: Store, seen: Trial, level: int, rungs: Sequence[float], say: Callable[[str], None]
) -> None:
    folder, score = search.current_workdir(seen), seen.curve[-1][1] if seen.curve else math.nan
    facts: dict[str, Any] = {"total_steps": seen.total_steps, "seconds": _spent(folder)}
    at = f"at step {seen.steps:,} of {seen.total_steps:,}: {search.config.eval.metric} {score:.4f}"
    if level < len(rungs):
        scores = [*seen.rung_scores[:level], score]
        facts["rung_scores"] = [None if math.isnan(each) else each for each in scores]
        store.note(seen.number, seen.curve, facts)
        store.wait(seen.number)
        say(f"trial {seen.number}: stands {at}")
    else:
        store.note(seen.number, seen.curve, facts)
        store.stop(seen.number)
        say(f"trial {seen.number}: stopped {at}, worse than the median of the others")


def _keep_end(
    search: Search, store: Store, trial: Trial, report: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    metric, folder = search.config.eval.metric, search.current_workdir(trial)
    scores = report["splits"].get("valid", {})
    spent = {SECONDS: report["training"]["seconds"], PARAMETERS: report.get("model", {}).get("parameters")}
    facts = dict(trial.costs) | spent
    values = [number(facts[name] if name in OBJECTIVES else scores.get(name)) for name in search.objectives]
    steps = int(report["training"]["steps"])
    total = trial.total_steps or steps
    store.note(
        trial.number,
        read_curve(folder, metric, until=steps),
        {"total_steps": total, "seconds": float(spent[SECONDS])},
    )
    undefined = [name for name, value in zip(search.objectives, values, strict=True) if not math.isfinite(value)]
    if undefined:
        _fail(store, trial, f"its {undefined[0]} on valid is not defined", say)
        return
    store.finish(trial.number, values)
    named = "  ".join(f"{name} {shown(name, value)}" for name, value in zip(search.objectives, values, strict=True))
    first = best(list(search.trials(store).values()), search.more_is_better[0])
    mark = ""
    if len(values) == 1 and first is not None:
        so_far = f"best: {first.values[0]:.4f}, trial {first.number}"
        mark = " (best so far)" if first.number == trial.number else f" ({so_far})"
    say(f"trial {trial.number}: {named}{mark} after {steps:,} updates in {spent[SECONDS]:.0f} s")


def _fail(store: Store, trial: Trial, error: str, say: Callable[[str], None]) -> None:
    store.note(trial.number, (), {"error": error})
    store.fail(trial.number)
    say(f"trial {trial.number}: failed: {error}")


def read_curve(folder: pathlib.Path, metric: str, *, until: int) -> tuple[tuple[int, float], ...]:
    """Returns (updates done, score) of the validation split of a run, of its first `until` updates."""
    path = folder / "metrics.jsonl"
    lines = read_metrics(path) if path.is_file() else []
    found = {
        line["step"]: float(line[metric])
        for line in lines
        if line["split"] == "valid" and metric in line and 0 < line["step"] <= until
    }
    return tuple(sorted(found.items()))


def shown(objective: str, value: float) -> str:
    """Returns a value of an objective for a person."""
    return format(value, FORMATS.get(objective, ".4f"))


def describe(values: Mapping[str, Any]) -> str:
    """Returns values of keys in a line."""
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def _spent(folder: pathlib.Path) -> float:
    """Returns the seconds that a run has spent, over all restarts, as its file says."""
    return sum(SpentTime(folder).lost_since({}).values())
