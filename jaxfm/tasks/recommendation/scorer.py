"""Scores of a split of histories: where the item that a user took stands in the ranking of the whole catalogue."""

# N users, I items, K listed

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxfm.core.evaluation import Evaluation
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.histories import Histories, Target
from jaxfm.evaluation.recommendation import (
    COVERAGE,
    LIST,
    POPULARITY,
    Ranked,
    baselines,
    list_scores,
    recommendation_data,
)
from jaxfm.observe.tables import Table
from jaxfm.tasks.recommendation.rows import AskedRows

METRIC = "ndcg@10"
DIRECTIONS = {
    **{f"ndcg@{k}": True for k in (5, 10, 20)},
    **{f"recall@{k}": True for k in (1, 5, 10, 20)},
    "mrr": True,
    "loss": False,
}
_SHOWN = 5  # last items of a history in a prediction
_POPULAR = "popularity"


@dataclasses.dataclass(frozen=True, eq=False)
class RecommendationScorer:
    """A split's targets (implements jaxfm.core.task.Scorer).

    Attributes:
      histories: of all users.
      targets: what is predicted, in the order of the histories of `rows`.
      rows: of which the model gave outputs.
      seen: of each target the items that are not recommended.
    """

    histories: Histories
    targets: tuple[Target, ...]
    rows: AskedRows
    seen: tuple[np.ndarray, ...]

    @functools.cached_property
    def gold(self) -> np.ndarray:
        """Number of each target, int64 [N]; below 0: not of the catalogue."""
        return np.asarray([self.histories.item(target) for target in self.targets], np.int64)

    @functools.cached_property
    def others(self) -> Mapping[str, Ranked]:
        """What rankings without training give."""
        before = [self.histories.before(target) for target in self.targets]
        training = [self.histories.training(user) for user in range(len(self.histories.users))]
        return baselines(training, len(self.histories.items), before, self.gold, self.seen)

    def ranked(self, outputs: Mapping[str, np.ndarray]) -> Ranked:
        """Returns the model's rankings."""
        row, user, _ = self.rows.packed.example_locations.T
        rank_N = outputs["rank"][row, user].astype(np.float64)
        listed_NK = np.where(np.isfinite(outputs["scores"]), outputs["items"], -1)[row, user]
        return Ranked(np.where(rank_N > 0, rank_N, np.inf), listed_NK)

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Means over users of recall, nDCG and reciprocal rank, and of the loss over the whole catalogue."""
        row, user, _ = self.rows.packed.example_locations.T
        known = self.gold >= 0
        loss = float(outputs["loss"][row, user][known].mean()) if known.any() else float("nan")
        return {**self._means(self.ranked(outputs)), "loss": loss}

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where the model is no better than what is popular."""
        own, popular = (self._means(ranked)[METRIC] for ranked in (self.ranked(outputs), self.others[_POPULAR]))
        if own > popular:
            return ()
        return (
            f"{METRIC} is {own:.4f}, and {popular:.4f} where everybody gets what is popular: nothing is learned yet. "
            "Train longer (config.train.epochs), which is what recommenders lack most often.",
        )

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns the scores beside those of rankings without training."""
        del calibration
        ranked, metrics = self.ranked(outputs), dict(self.metrics(outputs))
        identity = [
            (self.histories.users[target.user], int(gold))
            for target, gold in zip(self.targets, self.gold.tolist(), strict=True)
        ]
        data = recommendation_data(ranked, identity)
        columns = {"model": self._all(ranked)} | {name: self._all(found) for name, found in self.others.items()}
        rows = [(name, *(found[name] for found in columns.values())) for name in columns["model"]]
        title = f"Ranking of {len(self.histories.items):,} items for each of {len(self.targets):,} users"
        return Evaluation(
            metrics=metrics,
            scores={
                **metrics,
                **{name: columns["model"][name] for name in (COVERAGE, POPULARITY)},
                "users": len(self.targets),
                "items": len(self.histories.items),
                "without_training": {name: found for name, found in columns.items() if name != "model"},
            },
            tables=(Table(title, ("metric", *columns), rows),),
            predictions=self._records(ranked),
            warnings=self.warnings(outputs),
            bootstrap_data=data,
        )

    def _means(self, ranked: Ranked) -> dict[str, float]:
        data = recommendation_data(ranked, range(len(self.targets)))
        return data.metrics(np.arange(data.count))

    def _all(self, ranked: Ranked) -> dict[str, float]:
        return self._means(ranked) | list_scores(ranked.items, self.histories.counts(), self.gold)

    def _records(self, ranked: Ranked) -> Iterator[dict[str, Any]]:
        """Yields one record a user: the end of the history, what came then, and what was recommended."""
        items = self.histories.items
        for target, gold, rank, listed in zip(
            self.targets, self.gold.tolist(), ranked.rank.tolist(), ranked.items, strict=True
        ):
            yield {
                "user": self.histories.users[target.user],
                "history": [items[number] for number in self.histories.before(target)[-_SHOWN:].tolist()],
                "gold": items[gold] if gold >= 0 else None,
                "rank": rank if np.isfinite(rank) else None,
                "correct": rank <= 1,
                "predicted": [items[number] for number in listed[:LIST].tolist() if number >= 0],
            }
