"""Which trial goes on, and how far: successive halving over rungs, brackets of it, and the median rule.

A rung is a share of a run, after which it stands still at its next evaluation and keeps its checkpoint. Schedules are
those of the whole run from its first update on, so a trial that is promoted goes on, and ends, exactly as a run that
never stopped. Nothing here depends on who asks, or when: the same trials give the same answer.

Sources: successive halving, arXiv 1502.07943; Hyperband, arXiv 1603.06560; the median rule, Golovin et al., Google
Vizier (KDD 2017).
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.errors import UserError
from jaxfm.tuning.space import Space
from jaxfm.tuning.trials import Trial, loss

PRUNERS = ("none", "median", "halving", "hyperband")
REDUCTION = 3
MEDIAN_FROM = 5
"""Trials that the median rule must know at a point before it stops another one there."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a trial does next: it goes on to its rung of that number, or to its end where it has no such rung."""

    number: int
    level: int


@dataclasses.dataclass(frozen=True)
class Takeover:
    """A trial that goes on with the state of another one, `parent`, by the values `params`, as a storage keeps them."""

    parent: Trial
    params: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Pruner:
    """How trials are stopped.

    Attributes:
      name: one of `PRUNERS`.
      rungs: shares of a run, ascending, between 0 and 1; empty unless it halves.
      reduction: of the trials that come to a rung, one in so many goes on.
      more_is_better: of the score.
    """

    name: str
    rungs: tuple[float, ...] = ()
    reduction: int = 3
    more_is_better: bool = True

    def rungs_of(self, number: int) -> tuple[float, ...]:
        """Returns the rungs at which a trial stands still: bracket n leaves out the first n."""
        return self.rungs[self.bracket_of(number) :]

    def bracket_of(self, number: int) -> int:
        """Returns the bracket of a trial, 0 unless there are several.

        Brackets get trials in the proportions that give all of them the same budget, evenly over the numbers.
        """
        if self.name != "hyperband":
            return 0
        last = len(self.rungs)
        shares = [self.reduction ** (last - bracket) / (last - bracket + 1) for bracket in range(last + 1)]
        counts = [0] * len(shares)
        bracket = 0
        for drawn in range(1, number + 2):
            missing = [share / sum(shares) * drawn - count for share, count in zip(shares, counts, strict=True)]
            bracket = missing.index(max(missing))
            counts[bracket] += 1
        return bracket

    def jobs(self, trials: Mapping[int, Trial], total: int) -> list[Job]:
        """Returns what can be done now, what has begun before first; empty: every trial has come to its end.

        Of the trials of a bracket that came to a rung, the best go on once all have come there: one in `reduction` of
        those that set out for it, at least one. Those that failed leave their place to the next best.

        Args:
          trials: by number; those that are missing are new.
          total: trials of the search.
        """
        found: list[Job] = []
        brackets: dict[int, list[int]] = {}
        for number in range(total):
            brackets.setdefault(self.bracket_of(number), []).append(number)
        for numbers in brackets.values():
            found += self._of_bracket(trials, numbers)
        return sorted(found, key=lambda job: (not _known(trials, job.number).has_begun, job.level, job.number))

    def _of_bracket(self, trials: Mapping[int, Trial], numbers: Sequence[int]) -> list[Job]:
        members, planned = list(numbers), len(numbers)
        for level in range(len(self.rungs_of(numbers[0])) + 1):
            known = [_known(trials, number) for number in members]
            waiting = [each for each in known if not each.is_over and len(each.rung_scores) <= level]
            if waiting:
                return [Job(each.number, level) for each in waiting]
            planned = max(1, planned // self.reduction)
            alive = [each for each in known if each.state != "failed"]
            alive.sort(key=lambda each: (self._loss_at(each, level), each.number))
            members = [each.number for each in alive[:planned]]
        return []

    def _loss_at(self, trial: Trial, level: int) -> float:
        """Returns the loss of a trial at a rung; that of its end where it ended before."""
        score = (
            trial.rung_scores[level] if level < len(trial.rung_scores) else trial.values[0] if trial.values else None
        )
        return float("inf") if score is None else loss(score, self.more_is_better)

    def takes_over(self, trials: Mapping[int, Trial], job: Job, space: Space) -> Takeover | None:
        """Returns whose state is taken over before a job is done; None: the trial goes on with its own.

        Here it is always None; in a population (`tuning/population.py`) some take over others.
        """
        del trials, job, space
        return None

    def stops(self, trial: Trial, others: Sequence[Trial]) -> bool:
        """Whether the median rule stops a trial where its curve ends.

        Its best score so far is worse than the median of the best scores that `others` had after the same share of
        their updates; five of them must have come so far.
        """
        if self.name != "median" or not trial.curve or not trial.total_steps:
            return False
        share = trial.curve[-1][0] / trial.total_steps
        bests = [self._best_until(each, share) for each in others if each.curve and each.total_steps]
        reached = [value for value in bests if value is not None]
        own = self._best_until(trial, share)
        return own is not None and len(reached) >= MEDIAN_FROM and own > statistics.median(reached)

    def _best_until(self, trial: Trial, share: float) -> float | None:
        """Returns the smallest loss of a trial until a share of its updates; None where it was not scored so early."""
        until = share * trial.total_steps + 1e-9
        losses = [loss(score, self.more_is_better) for step, score in trial.curve if step <= until]
        return min(losses, default=None)


def make_pruner(name: str, rungs: Sequence[float], reduction: int, more_is_better: bool) -> Pruner:
    """Returns a pruner. Without `rungs`, halving has two: 1 / reduction^2 and 1 / reduction of a run.

    Raises UserError for rungs that are no shares, or that the pruner does not have.
    """
    if name not in ("halving", "hyperband"):
        if rungs:
            raise UserError(f"--rungs: --pruner={name} has none; --pruner=halving and hyperband do.")
        return Pruner(name, more_is_better=more_is_better)
    if reduction < 2:
        raise UserError(f"--reduction={reduction}: must be at least 2: one in so many trials goes on.")
    shares = tuple(rungs) or (1 / reduction**2, 1 / reduction)
    return Pruner(name, checked_rungs(shares), reduction, more_is_better)


def checked_rungs(shares: Sequence[float]) -> tuple[float, ...]:
    """Returns the shares; UserError unless they are ascending, and between 0 and 1."""
    if not all(0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
        listed = ",".join(f"{share:g}" for share in shares)
        raise UserError(f"--rungs={listed}: must be ascending shares of a run, between 0 and 1, as 0.1,0.3.")
    return tuple(shares)


def _known(trials: Mapping[int, Trial], number: int) -> Trial:
    return trials.get(number) or Trial(number)
