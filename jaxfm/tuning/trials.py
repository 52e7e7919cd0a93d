"""What is known of a trial: a run of a search, by its number."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

State = Literal["waiting", "running", "stopped", "finished", "failed"]


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a trial took over from another one (`tuning/population.py`).

    Attributes:
      level: number of the rung.
      parent: the trial whose state it was.
      step: updates done then.
      params: key -> value from there on, as a storage keeps it.
    """

    level: int
    parent: int
    step: int
    params: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial as the storage has it.

    Attributes:
      number: from 0.
      state: "waiting": nobody has begun it, or it stands at a rung; "running": begun, by a worker that may be gone;
        "stopped": it ended early for good; "finished" and "failed" are for good too.
      params: key -> value at first, as a storage keeps it; empty before they are drawn.
      curve: scores of the validation split: (updates done, score).
      total_steps: updates of the whole run; 0 before that is known.
      rung_scores: the score at each rung that it has come to, the first one first.
      values: of the objectives, of a finished trial.
      seconds: of training, over all restarts, as far as they are known.
      error: why it failed.
      attributes: what the sampler keeps with it.
      generations: what it took over, the earliest first.
      costs: of its model, known before training; empty where nobody asks for them.
    """

    number: int
    state: State = "waiting"
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    total_steps: int = 0
    rung_scores: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generations: tuple[Generation, ...] = ()
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def current_params(self) -> Mapping[str, Any]:
        """The values by which it goes on."""
        return self.generations[-1].params if self.generations else self.params

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do for it, whatever the others come to."""
        return self.state in ("stopped", "finished", "failed")

    @property
    def steps(self) -> int:
        """Updates until its last score."""
        return self.curve[-1][0] if self.curve else 0

    @property
    def has_begun(self) -> bool:
        """Whether parts of it are done: it is gone on with before any other is begun."""
        return self.state == "running"


def best(trials: Sequence[Trial], more_is_better: bool) -> Trial | None:
    """Returns the finished trial with the best first objective, of equal ones the first; None without any."""
    finished = [each for each in trials if each.state == "finished"]
    return min(finished, key=lambda each: loss(each.values[0], more_is_better), default=None)


def pareto_front(trials: Sequence[Trial], more_is_better: Sequence[bool]) -> list[Trial]:
    """Returns the finished trials that no other one surpasses: as good in every objective, and better in one."""
    finished = [each for each in trials if each.state == "finished"]
    losses = {each.number: [loss(*pair) for pair in zip(each.values, more_is_better, strict=True)] for each in finished}

    def surpasses(first: Trial, second: Trial) -> bool:
        pairs = list(zip(losses[first.number], losses[second.number], strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [each for each in finished if not any(surpasses(other, each) for other in finished)]


def loss(score: float, more_is_better: bool) -> float:
    """Returns a number that is the smaller the better; infinity for a score that is not defined."""
    if math.isnan(score):
        return math.inf
    return -score if more_is_better else score
