"""How sure a score is: the units of a split that can be drawn anew (bootstrap) or exchanged between two models."""

# N units

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Units = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Resample:
    """A split's metrics as a function of its independent units: sentences, examples or rows.

    Attributes:
      unit: what a unit is, a noun in the plural ("sentences").
      units: name -> array [N, ...] of what the metrics need of each unit.
      computed: (such arrays, how often each unit counts: float64 [N]) -> metric -> number.
      identity: [N] what each unit is, its gold target included: equal for two models scored on the same data.
      classes: names of the classes the arrays are laid out by, in that order; empty where there are none.
      right: bool [N], whether the model has the unit wholly right; None where a unit is not right or wrong.
    """

    unit: str
    units: Units
    computed: Callable[[Units, np.ndarray], dict[str, float]]
    identity: Sequence[Any]
    classes: tuple[str, ...] = ()
    right: np.ndarray | None = None

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.identity)

    def metrics(self, index_N: np.ndarray) -> dict[str, float]:
        """Returns the metrics of the units that `index_N` picks, some perhaps several times."""
        return self.computed(self.units, np.bincount(index_N, minlength=self.count).astype(np.float64))
