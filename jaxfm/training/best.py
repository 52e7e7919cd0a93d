"""Which evaluation of a run is its best, and which checkpoints must therefore be kept."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    An evaluation is better by its metric, at equal metrics by its loss (`tie_breaker`), and at equal losses by being
    earlier. Where the metric is not defined (NaN), the loss alone counts, and any defined metric is better.

    Attributes:
      step: whose checkpoint is kept; None before the first evaluation.
      value: its validation metric; None where that is not defined.
      waited: evaluations since, none of which was better.
      others: (step, value, loss) of those whose checkpoints are kept beside the best, the best of them first.
      loss: its validation loss; None where it is not known or not a number.
    """

    step: int | None = None
    value: float | None = None
    waited: int = 0
    others: tuple[tuple[int, float | None, float | None], ...] = ()
    loss: float | None = None

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> "Best":
        """Returns what `dataclasses.asdict` made JSON of; runs of older versions have no losses."""
        others = tuple((int(step), value, *(loss or [None])) for step, value, *loss in values.get("others", ()))
        return cls(**{**values, "others": others})

    def update(
        self, step: int, value: float | None, *, more_is_better: bool, keep: int = 1, loss: float | None = None
    ) -> "Best":
        """Returns the best after one more evaluation. The first one is the best whatever it gives.

        Args:
          step: of the evaluation.
          value: its metric; NaN or None where it is not defined.
          more_is_better: of the metric.
          keep: how many checkpoints are to be kept, the best included.
          loss: its validation loss.
        """
        new = (step, _number(value), _number(loss))
        known = [] if self.step is None else [(self.step, self.value, self.loss), *self.others]
        sign = -1.0 if more_is_better else 1.0

        def rank(each: tuple[int, float | None, float | None]) -> tuple[float, float]:
            _, metric, its_loss = each
            return (math.inf if metric is None else sign * metric, math.inf if its_loss is None else its_loss)

        comparable = [each for each in (*known, new) if each[1:] != (None, None)]
        (first, best, best_loss), *others = sorted(comparable, key=rank) or [*known, new]  # stable
        # A better loss at an equal metric counts: a tagger's F1 stays 0 for a while as its loss falls.
        waited = 0 if first == step and new[1:] != (None, None) else self.waited + 1
        return Best(first, best, waited, tuple(others[: max(keep, 1) - 1]), best_loss)

    def describe_value(self) -> str:
        """Returns the metric in words."""
        return "not defined" if self.value is None else f"{self.value:.4f}"

    @property
    def kept(self) -> tuple[int, ...]:
        """Steps whose checkpoints must outlive others, the best first."""
        return () if self.step is None else (self.step, *(step for step, *_ in self.others))


def tie_breaker(metrics: Mapping[str, float], directions: Mapping[str, bool]) -> tuple[str, float | None]:
    """Returns name and value of what decides between equal metrics: the loss, or the first of which less is better.

    `directions` is that of a task: metrics that may choose a checkpoint -> is more better?
    """
    losses = [name for name in ("loss", *directions) if name in metrics and not directions.get(name, False)]
    return (losses[0], metrics[losses[0]]) if losses else ("loss", None)


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
