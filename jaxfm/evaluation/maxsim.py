"""Exact ranking by MaxSim: of each token of a query the most similar token of a document, summed over the query.

Khattab and Zaharia 2020, equation 3.
"""

# Q queries, L tokens of a query, N documents, M tokens of all documents or of one, P numbers of a vector, K ranks

from collections.abc import Sequence

import numpy as np

from jaxfm.errors import UserError

_TOKENS = 32_768  # of documents that are compared at a time


def maxsim(query_LP: np.ndarray, document_MP: np.ndarray) -> float:
    """Returns MaxSim of two texts."""
    return float((query_LP @ document_MP.T).max(axis=1).sum())


def rank_all(
    queries: Sequence[np.ndarray], vectors_MP: np.ndarray, ends_N: np.ndarray, k: int, *, tokens: int = _TOKENS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the documents of each query, the best first, int32 [Q, K], and their MaxSim, f32 [Q, K].

    Documents are read in parts from start to end once for all queries; of equal scores the earlier document comes
    first. The parts do not change the result.

    Args:
      queries: vectors f32 [L, P] of the tokens of each, at least one token.
      vectors_MP: f32, of the tokens of all documents, one document after the other; may be memory-mapped.
      ends_N: where each document ends in them; each has at least one token.
      k: ranks wanted.
      tokens: of the documents of a part, at least; a longer document is a part by itself.

    Raises:
      UserError: k is not from 1 to N; a vector that is not finite, by the number of its text.
    """
    count = len(ends_N)
    if not 1 <= k <= count:
        raise UserError(f"k={k}: must be from 1 to the {count:,} texts of the corpus.")
    for number, query_LP in enumerate(queries, start=1):
        if not np.isfinite(query_LP).all():
            raise UserError(f"query {number}: its vectors are not finite.")
    best_QK = np.zeros((len(queries), 0), np.int64)
    scores_QK = np.zeros((len(queries), 0), np.float32)
    first = 0
    while first < count:
        begin = int(ends_N[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends_N, begin + tokens, side="right")), first + 1)
        part_MP = np.asarray(vectors_MP[begin : int(ends_N[last - 1])], np.float32)
        starts = np.concatenate([[begin], ends_N[first : last - 1]]) - begin
        if not np.isfinite(part_MP).all():
            bad = int(np.argmin(np.isfinite(part_MP).all(axis=1)))
            raise UserError(f"text {first + int(np.searchsorted(starts, bad, side='right')):,}: is not finite.")
        found = [np.maximum.reduceat(query_LP @ part_MP.T, starts, axis=1).sum(axis=0) for query_LP in queries]
        best_QK = np.concatenate([best_QK, np.tile(np.arange(first, last), (len(queries), 1))], axis=1)
        scores_QK = np.concatenate(
            [scores_QK, np.asarray(found, np.float32).reshape(len(queries), last - first)], axis=1
        )
        order_QK = np.argsort(-scores_QK, axis=1, kind="stable")[:, :k]
        best_QK, scores_QK = (np.take_along_axis(each, order_QK, axis=1) for each in (best_QK, scores_QK))
        first = last
    return best_QK.astype(np.int32), scores_QK
