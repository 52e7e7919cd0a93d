"""Scores of a split of groups of texts: how well anchors find their texts, or how well similarities order pairs."""

# Q queries, C documents, M groups, E embedding, K ranks

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.text_groups import TextGroup
from jaxfm.evaluation import ranking
from jaxfm.evaluation.classes import Scores, score_values
from jaxfm.evaluation.coverage import describe_answers, fit_threshold
from jaxfm.observe.tables import Table
from jaxfm.tasks.text_groups.bm25_scores import bm25_scores
from jaxfm.tasks.text_groups.encoding import TextsSpec
from jaxfm.tasks.text_groups.errors import worst_pairs, worst_queries
from jaxfm.tasks.text_groups.group_texts import EvaluatedGroups

# The metric that chooses a checkpoint unless the config names one.
METRIC: Mapping[str, str] = {"pairs": "ndcg@10", "teacher": "ndcg@10", "scored": "spearman"}
_CUTOFFS = {"ndcg": (10,), "mrr": (10,), "recall": (1, 5, 10, 100)}
_RANKS = 1000  # that are looked at; a text after them counts as not found
_KEPT = 10  # ranks of a prediction


def directions(kind: str) -> dict[str, bool]:
    """Returns the metrics that may choose a checkpoint -> is more better?"""
    if kind == "scored":
        return {"spearman": True, "pearson": True}
    names = [f"{name}@{k}" for name, cutoffs in _CUTOFFS.items() for k in cutoffs]
    return dict.fromkeys((*names, ranking.MAP, ranking.FIRST), True)


class _Ranked(NamedTuple):
    """All documents ranked for each query.

    Attributes:
      order: int32 [Q, K] documents, the most similar first.
      scores: f32 [Q, K].
      relevant: of each query the numbers of the documents that belong to it.
      data: the metrics over queries.
    """

    order: np.ndarray
    scores: np.ndarray
    relevant: list[dict[int, float]]
    data: BootstrapData


@dataclasses.dataclass(frozen=True)
class GroupsScorer(abc.ABC):
    """A split's groups and their texts, whatever a text becomes (implements jaxfm.core.task.Scorer)."""

    spec: TextsSpec
    groups: tuple[TextGroup, ...]
    evaluated: EvaluatedGroups

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Of pairs how the documents of the split are ranked for each query; of scored pairs both correlations."""
        if self.spec.kind == "scored":
            return _correlations(self._values(outputs))
        return self._means(self._ranked(outputs).data)

    @abc.abstractmethod
    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Warns of texts that cannot be told apart."""

    @abc.abstractmethod
    def similarities(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the similarity of the two texts of each pair, float64 [M]."""

    @abc.abstractmethod
    def rank_all(self, outputs: Mapping[str, np.ndarray], ranks: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the documents of each query, the most similar first, int32 [Q, K], and similarities f32 [Q, K]."""

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits the similarity from which on a query is answered, for `jaxfm.retrieve`; of scored pairs nothing."""
        return {} if self.spec.kind == "scored" else fit_threshold(self._best(self._ranked(outputs)))

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables and predictions."""
        if self.spec.kind == "scored":
            scores = self._values(outputs)
            found_M = self.similarities(outputs)
            metrics = _correlations(scores)
            return Evaluation(
                metrics=metrics,
                scores={**metrics, **scores.detail},
                tables=scores.tables,
                predictions=self._pairs(found_M),
                warnings=self.warnings(outputs),
                bootstrap_data=_of_correlations(scores.bootstrap_data),
                plots=scores.plots,
                wrong=worst_pairs(self.groups, found_M),
            )
        ranked = self._ranked(outputs)
        metrics = self._means(ranked.data)
        size = {"queries": len(self.evaluated.queries), "documents": len(self.evaluated.documents)}
        words = bm25_scores(
            self.evaluated.queries, self.evaluated.documents, ranked.relevant, _CUTOFFS, ranked.order.shape[1]
        )
        columns = ("metric", "value", *(("BM25",) if words else ()))
        rows = [(name, value, *((words[name],) if words else ())) for name, value in metrics.items()]
        assert ranked.data.right is not None and ranked.data.count == size["queries"]  # each has its positive
        answers, answer_tables = describe_answers(self._best(ranked), ranked.data.right, calibration)
        title = f"Ranking of {size['documents']:,} documents for each of {size['queries']:,} queries"
        return Evaluation(
            metrics=metrics,
            scores={**metrics, **size, "answers": answers, **({"bm25": words} if words else {})},
            tables=(Table(title, columns, rows), *answer_tables),
            predictions=self._rankings(ranked),
            warnings=self.warnings(outputs),
            bootstrap_data=ranked.data,
            wrong=worst_queries(self.evaluated, self.groups, ranked.order, ranked.relevant),
        )

    def _best(self, ranked: _Ranked) -> np.ndarray:
        """Returns the similarity of each query's first document, float64 [Q]."""
        return ranked.scores[:, 0].astype(np.float64)

    def _means(self, data: BootstrapData) -> dict[str, float]:
        return data.metrics(np.arange(data.count))

    def _values(self, outputs: Mapping[str, np.ndarray]) -> Scores:
        gold_M = np.asarray([group.scores[0] for group in self.groups], np.float64)
        identity = [(group.anchor, group.others[0], group.scores[0]) for group in self.groups]
        return score_values(gold_M, self.similarities(outputs), identity=identity)

    def _relevant(self) -> list[dict[int, float]]:
        """Returns of each query the documents that belong to it: positives, or a teacher's best passage."""
        relevant: list[dict[int, float]] = [{} for _ in self.evaluated.queries]
        for group, (query, *documents) in zip(self.groups, self.evaluated.members, strict=True):
            best = int(np.argmax(group.scores)) if group.scores else 0
            relevant[query][documents[best]] = 1.0
        return relevant

    def _ranked(self, outputs: Mapping[str, np.ndarray]) -> _Ranked:
        order_QK, scores_QK = self.rank_all(outputs, min(_RANKS, len(self.evaluated.documents)))
        relevant = self._relevant()
        judged = [
            ranking.judge(order_K.tolist(), scores_K.tolist(), known)
            for order_K, scores_K, known in zip(order_QK, scores_QK, relevant, strict=True)
        ]
        documents = self.evaluated.documents
        identity = [
            (query, tuple(sorted(documents[number] for number in known)))
            for query, known in zip(self.evaluated.queries, relevant, strict=True)
        ]
        return _Ranked(order_QK, scores_QK, relevant, ranking.ranking_data(judged, identity, _CUTOFFS))

    def _pairs(self, found_M: np.ndarray) -> Iterator[dict[str, Any]]:
        for group, similarity in zip(self.groups, found_M.tolist(), strict=True):
            texts = {"text": group.anchor, "pair": group.others[0]}
            yield {"origin": group.origin, **texts, "gold": group.scores[0], "predicted": round(similarity, 4)}

    def _rankings(self, ranked: _Ranked) -> Iterator[dict[str, Any]]:
        documents = self.evaluated.documents
        for number, query in enumerate(self.evaluated.queries):
            first = zip(ranked.order[number][:_KEPT].tolist(), ranked.scores[number][:_KEPT].tolist(), strict=True)
            yield {
                "text": query,
                "gold": [documents[each] for each in ranked.relevant[number]],
                "predicted": [{"text": documents[each], "score": round(score, 4)} for each, score in first],
            }


def _correlations(scores: Scores) -> dict[str, float]:
    """Returns the metrics of similarities, whose scale is not that of the scores."""
    return {name: scores.metrics[name] for name in ("spearman", "pearson") if name in scores.metrics}


def _of_correlations(data: BootstrapData | None) -> BootstrapData | None:
    """Returns the same with both correlations alone."""
    if data is None:
        return None
    inner = data.computed

    def computed(units: Any, weights: np.ndarray) -> dict[str, np.ndarray]:
        found = inner(units, weights)
        return {name: found[name] for name in ("spearman", "pearson") if name in found}

    return dataclasses.replace(data, computed=computed, less_is_better=())
