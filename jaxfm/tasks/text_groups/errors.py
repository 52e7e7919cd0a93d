"""What a model of vectors has most wrong: queries whose texts it ranks last, pairs that it orders worst."""

# Q queries, C documents, M pairs, K ranks

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxfm.data.records.text_groups import TextGroup
from jaxfm.observe.examples import SHOWN, View, WrongExample


class RankedTexts(Protocol):
    """Queries, and the documents ranked for each (`group_texts.EvaluatedGroups`)."""

    @property
    def queries(self) -> tuple[str, ...]:
        """Their texts."""
        ...

    @property
    def documents(self) -> tuple[str, ...]:
        """Their texts."""
        ...

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """Of each group the number of its query, then those of its documents."""
        ...


def worst_queries(
    evaluated: RankedTexts,
    groups: Sequence[TextGroup],
    order_QK: np.ndarray,
    relevant: Sequence[Mapping[int, float]],
) -> tuple[WrongExample, ...]:
    """Returns the queries whose first relevant document has the worst rank, at most `SHOWN`; no query that is right."""
    origins: dict[int, str] = {}
    for group, (query, *_) in zip(groups, evaluated.members, strict=True):
        origins.setdefault(query, group.origin)
    ranks_Q = np.asarray(
        [_first_rank(order_K, known) for order_K, known in zip(order_QK, relevant, strict=True)], np.int64
    )
    shown = []
    for query in np.argsort(-ranks_Q, kind="stable")[:SHOWN].tolist():
        rank = int(ranks_Q[query])
        if rank == 1:
            break
        said = f"{rank:,}" if rank <= order_QK.shape[1] else f"after {order_QK.shape[1]:,}"
        gold, found = next(iter(relevant[query])), int(order_QK[query, 0])
        views = (
            View("query", evaluated.queries[query]),
            View("gold", evaluated.documents[gold]),
            View("found first", evaluated.documents[found]),
        )
        shown.append(WrongExample(origins[query], views, (("rank", said),)))
    return tuple(shown)


def _first_rank(order_K: np.ndarray, known: Mapping[int, float]) -> int:
    """Returns the rank of the first document that is known, counted from 1; one more than K where none is found."""
    hits = np.flatnonzero(np.isin(order_K, list(known)))
    return int(hits[0]) + 1 if len(hits) else len(order_K) + 1


def worst_pairs(groups: Sequence[TextGroup], found_M: np.ndarray) -> tuple[WrongExample, ...]:
    """Returns the pairs whose place by similarity is furthest from their place by score, at most `SHOWN`."""
    gold_M = np.asarray([group.scores[0] for group in groups], np.float64)
    apart_M = _places(found_M) - _places(gold_M)
    shown = []
    for index in np.argsort(-np.abs(apart_M), kind="stable")[:SHOWN].tolist():
        group = groups[index]
        facts = (("gold", float(gold_M[index])), ("similarity", float(found_M[index])))
        views = (View("text", group.anchor), View("pair", group.others[0]))
        shown.append(WrongExample(group.origin, views, facts))
    return tuple(shown)


def _places(values_M: np.ndarray) -> np.ndarray:
    """Returns the share of the values that are below each one, equal ones counted half [M]."""
    ordered = np.sort(values_M)
    below = np.searchsorted(ordered, values_M, side="left") + np.searchsorted(ordered, values_M, side="right")
    return below / (2 * max(len(values_M), 1))
