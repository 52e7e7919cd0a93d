"""How BM25 ranks the documents of a split: what vectors are compared with in a report."""

# Q queries, C documents

import importlib.util
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.data.text.bm25 import Bm25
from jaxfm.evaluation import ranking

# Each score is a pass over the documents on the host; more would make a report wait for minutes.
_MOST_SCORES = 50_000_000


def bm25_scores(
    queries: Sequence[str],
    documents: Sequence[str],
    relevant: Sequence[Mapping[int, float]],
    cutoffs: Mapping[str, Sequence[int]],
    ranks: int,
) -> dict[str, float]:
    """Returns the metrics of BM25's rankings; empty where it is not installed or the split is too large for it.

    Args:
      queries: [Q].
      documents: [C], of which all are ranked for each query.
      relevant: of each query the numbers of the documents that belong to it, with grades.
      cutoffs: see `ranking.per_query`.
      ranks: that are looked at.
    """
    if importlib.util.find_spec("bm25s") is None or len(queries) * len(documents) > _MOST_SCORES:
        return {}
    if not any(any(letter.isalnum() for letter in text) for text in documents):
        return {}
    order_QK, scores_QK = Bm25(documents).top(queries, ranks)
    judged = [
        ranking.judge(order_K.tolist(), scores_K.tolist(), known)
        for order_K, scores_K, known in zip(order_QK, scores_QK, relevant, strict=True)
    ]
    return {name: float(np.nanmean(values)) for name, values in ranking.per_query(judged, cutoffs).items()}
