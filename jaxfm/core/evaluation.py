"""What scoring a split gives."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from jaxfm.observe.examples import WrongExample
from jaxfm.observe.tables import Table, to_html, to_rich

Units = Mapping[str, np.ndarray]
# What a prior's outcomes are worth together, wrong ones and right ones alike, in units; see docs/trust.md.
PRIOR_WEIGHT = 0.5


@dataclasses.dataclass(frozen=True)
class Prior:
    """Outcomes that a split may not have shown, each counting as a fraction of a unit (`evaluation/intervals.py`).

    Attributes:
      units: name -> array [M, ...], as those of `BootstrapData`.
      weights: [M] how much of a unit each of them is worth, above 0.
      metrics: names of the metrics whose interval takes them into account.
    """

    units: Units
    weights: np.ndarray
    metrics: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BootstrapData:
    """A split's metrics as a function of its independent units: sentences, examples or rows.

    Attributes:
      sampling_unit: what a unit is, a noun in the plural ("sentences").
      units: name -> array [N, ...] of what the metrics need of each unit.
      computed: (such arrays of M units, how often each of them counts in each round: float64 [R, M]) -> metric -> [R].
        That is all there is to drawing units (counts of each) and exchanging them (0 or 1 for each model's).
      identity: [N] what each unit is, its gold target included: equal for two models scored on the same data.
      classes: names of the classes the arrays are laid out by, in that order; empty where there are none.
      right: bool [N], whether the model has the unit wholly right; None where a unit is not right or wrong.
      less_is_better: names of the metrics of which less is better.
      shares: names of the metrics that are the share of the units in `right`.
      prior: of the metrics that hardly vary where hardly a unit is wrong; None: none is like that.
    """

    sampling_unit: str
    units: Units
    computed: Callable[[Units, np.ndarray], dict[str, np.ndarray]]
    identity: Sequence[Any]
    classes: tuple[str, ...] = ()
    right: np.ndarray | None = None
    less_is_better: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    prior: Prior | None = None

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.identity)

    def metrics(self, index_N: np.ndarray) -> dict[str, float]:
        """Returns the metrics of the units that `index_N` picks, some perhaps several times."""
        weight_1N = np.bincount(index_N, minlength=self.count).astype(np.float64)[None]
        return {name: float(value) for name, (value,) in self.computed(self.units, weight_1N).items()}


def own_metrics_table(own: Mapping[str, float]) -> tuple[Table, ...]:
    """Returns a table of registered metrics, () without any."""
    return (Table("Registered metrics", ("metric", "value"), list(own.items())),) if own else ()


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """A split's result.

    Attributes:
      metrics: name -> number, for the log; one of them chooses the best checkpoint.
      scores: the same and more, nested, as JSON values for report.json.
      tables: for people.
      predictions: records for predictions/*.jsonl, made as they are asked for.
      warnings: sentences for the person who reads the scores, where these mislead or the model has not learned.
      bootstrap_data: the metrics as a function of independent units, for intervals and comparisons; None without units.
      group_data: further metrics, of groups of those units (the ranking of the pairs of each query), as a function of
        the groups; their names are other ones. None without groups.
      plots: name -> what draws it as a PNG file.
      wrong: some of what the model has wrong, the worst first.
    """

    metrics: Mapping[str, float]
    scores: Mapping[str, Any]
    tables: tuple[Table, ...]
    predictions: Iterable[Mapping[str, Any]]
    warnings: tuple[str, ...] = ()
    bootstrap_data: BootstrapData | None = None
    group_data: BootstrapData | None = None
    plots: Mapping[str, Callable[[pathlib.Path], None]] = dataclasses.field(default_factory=dict)
    wrong: tuple[WrongExample, ...] = ()

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(f'{name}={value:.4f}' for name, value in self.metrics.items())})"

    def __rich__(self) -> RenderableType:
        return Group(*map(to_rich, self.tables))

    def _repr_html_(self) -> str:
        return "".join(map(to_html, self.tables))
