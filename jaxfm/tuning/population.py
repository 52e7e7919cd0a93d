"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846): trials that take over weights of better ones.

All trials train side by side. At each rung, a share of a run, all stand still; each of the worst then takes over the
whole state of one of the best (truncation selection, section 4.1.1: weights, optimizer, place in the data) with values
that are perturbed, and goes on as a new run (`jaxfm.training.continuation`). Who takes over from whom, and by which
values, depends on the scores at that rung, the seed of the search and the numbers of the trials, and nothing else.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import schema
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.tuning.pruning import Job, Pruner, Takeover, checked_rungs
from jaxfm.tuning.space import Dimension, Space
from jaxfm.tuning.trials import Trial, loss

NAME = "population"
RUNGS = (0.25, 0.5, 0.75)
REDUCTION = 4
FACTORS = (0.8, 1.2)
RESAMPLED = 0.25
"""Probability that a value is drawn anew from the space, not perturbed (section 4.1.1)."""
_PARENT, _VALUES = 0, 1  # streams of random numbers


@dataclasses.dataclass(frozen=True)
class Population(Pruner):
    """Trials that take over from one another (in place of `Pruner`).

    Attributes:
      seed: of the search.
    """

    seed: int = 0

    def jobs(self, trials: Mapping[int, Trial], total: int) -> list[Job]:
        """See `Pruner.jobs`. Whom others take over from goes on once all of these have its checkpoint."""
        members = [trials.get(number) or Trial(number) for number in range(total)]
        for level in range(len(self.rungs) + 1):
            waiting = [each for each in members if not each.is_over and len(each.rung_scores) <= level]
            if not waiting:
                continue
            heirs = self.heirs(members, level - 1) if level else {}
            by_number = {each.number: each for each in members}
            needed = {parent for heir, parent in heirs.items() if not _has_taken(by_number[heir], level - 1)}
            ready = [each for each in waiting if each.number not in needed]
            return [
                Job(each.number, level) for each in sorted(ready, key=lambda each: (not each.has_begun, each.number))
            ]
        return []

    def takes_over(self, trials: Mapping[int, Trial], job: Job, space: Space) -> Takeover | None:
        """See `Pruner.takes_over`."""
        if not job.level or _has_taken(trials[job.number], job.level - 1):
            return None
        number = self.heirs(list(trials.values()), job.level - 1).get(job.number)
        if number is None:
            return None
        parent = trials[number]
        return Takeover(parent, self.perturbed(space, parent.current_params, job))

    def heirs(self, members: Sequence[Trial], level: int) -> dict[int, int]:
        """Returns who takes over at a rung -> from whom: each of the worst trials that came there from one of the best.

        Both are one in `reduction` of these trials, at least one, at most half. Trials that failed before the rung have
        no place.
        """
        ranked = [each for each in members if len(each.rung_scores) > level]
        ranked.sort(key=lambda each: (loss(each.rung_scores[level], self.more_is_better), each.number))
        count = min(max(1, len(ranked) // self.reduction), len(ranked) // 2)
        best, worst = ranked[:count], ranked[len(ranked) - count :]
        draws = {each.number: np.random.default_rng([self.seed, each.number, level, _PARENT]) for each in worst}
        return {number: best[int(draw.integers(count))].number for number, draw in draws.items()}

    def perturbed(self, space: Space, params: Mapping[str, Any], job: Job) -> dict[str, Any]:
        """Returns the values by which a trial goes on with the state of one that has `params`, as a storage keeps them.

        Numbers of a range are multiplied by 0.8 or 1.2, and stay in the range; of listed values it is a neighbour. With
        a probability of a quarter a value is drawn anew.
        """
        draw = np.random.default_rng([self.seed, job.number, job.level - 1, _VALUES])
        return {each.key: _perturbed(each, params[each.key], *draw.random(3)) for each in space}


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of the life of some weights: from `step` on, until the next part, trial `number` trained them."""

    step: int
    number: int
    params: Mapping[str, Any]


def ancestry(trials: Mapping[int, Trial], number: int) -> tuple[Segment, ...]:
    """Returns by which values the weights of a trial were trained, the first update first."""
    found: list[Segment] = []
    trial, generations = trials[number], trials[number].generations
    while generations:
        *earlier, last = generations
        found.append(Segment(last.step, trial.number, last.params))
        # What was taken over is the parent as it was at that rung: it may have taken over itself, before.
        trial = trials[last.parent]
        generations = tuple(each for each in trial.generations if each.level < last.level)
    return (Segment(0, trial.number, trial.params), *reversed(found))


def make_population(rungs: Sequence[float], reduction: int, more_is_better: bool, seed: int, total: int) -> Population:
    """Returns the population; UserError for rungs that are no shares, and for too few trials."""
    if reduction < 2:
        raise UserError(f"--reduction={reduction}: must be at least 2: one in so many trials takes over another.")
    if total < 2:
        raise UserError(f"--trials={total}: --pruner={NAME} needs several trials, of which some take over others.")
    return Population(NAME, checked_rungs(tuple(rungs) or RUNGS), reduction, more_is_better, seed)


def check_space(space: Space, config: Config) -> None:
    """Raises UserError for a key that cannot change in the middle of a run, or not to all values of the space."""
    for each in space:
        rules = schema.rules_of(config, each.key)
        when = str(rules.get("adjustable", ""))
        if not when:
            raise UserError(
                f"--space: {each.key}: cannot change in the middle of a run: what a checkpoint holds, the data or the "
                f"number of updates depend on it. Take another --pruner; --pruner={NAME} varies "
                f"{', '.join(adjustable_keys(config))}."
            )
        smallest = min((value for value in each.choices if value is not None), default=1) if each.choices else each.low
        if when == "above 0" and not smallest > 0:
            raise UserError(
                f"--space: {each.key}: has the value {smallest}, which switches it off, and that cannot change in the "
                f"middle of a run (--pruner={NAME}). Give values above 0."
            )
        if when.startswith("unless "):
            other = f"{each.key.rpartition('.')[0]}.{when.removeprefix('unless ')}"
            if schema.flatten(schema.to_dict(config))[other]:
                raise UserError(f"--space: {each.key}: is only a first value where config.{other} is true.")


def adjustable_keys(config: Config) -> list[str]:
    """Returns the keys of a config that may change in the middle of a run."""
    keys = schema.flatten(schema.to_dict(config))
    return sorted(key for key in keys if schema.rules_of(config, key).get("adjustable"))


def _has_taken(trial: Trial, level: int) -> bool:
    """Whether a trial that is to take over at a rung has done so, or never will."""
    return trial.is_over or any(each.level == level for each in trial.generations)


def _perturbed(dimension: Dimension, value: Any, kind: float, direction: float, place: float) -> Any:
    """`kind`, `direction` and `place` are random numbers from 0 to below 1."""
    up, cells = bool(direction < 0.5), dimension.cells()
    if cells is not None:
        if kind < RESAMPLED:
            return cells[int(place * len(cells))]
        # A perturbed number may lie between two cells no more than a drawn one: nearest, for the rounding of steps.
        index = cells.index(value) if dimension.choices else int(np.argmin([abs(cell - value) for cell in cells]))
        neighbours = [near for near in (index - 1, index + 1) if 0 <= near < len(cells)]
        return cells[neighbours[-1 if up else 0]] if neighbours else value
    low, high = dimension.low, dimension.high
    if kind >= RESAMPLED:
        new = value * FACTORS[up]
    elif dimension.log:
        new = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    else:
        new = low + place * (high - low)
    new = min(max(new, low), high)
    return round(new) if dimension.is_integer else float(new)
