"""Scores of rankings, each query a unit, and the exact ranking of a corpus by the products of vectors.

nDCG, reciprocal rank, average precision and recall are as trec_eval defines them (Järvelin and Kekäläinen 2002; Manning
et al. 2008, section 8.4): the gain of a candidate is its grade, a grade of 0 or less is no gain, a rank r is discounted
by log2(r + 1), and what divides is the best that all relevant candidates of the query allow, retrieved or not.

Ties: of candidates with one score those of the lowest grade come first. So a model that gives one score to all of them
gains nothing from the order in which they were listed, and the order of a file never changes a score.
"""

# Q queries, N texts of the corpus, D numbers a vector, K ranks, R rounds

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.evaluation import PRIOR_WEIGHT, BootstrapData, Prior, Units
from jaxfm.errors import UserError

FIRST = "accuracy@1"  # share of the queries whose first candidate is relevant; of one relevant in n: recall@1 of n
MAP = "map"


class Judged(NamedTuple):
    """The ranking of one query, as its grades say.

    Attributes:
      grades: [K] grade of the candidate at each rank; 0 for one that nobody judged.
      relevant: [M] grades of all relevant candidates of the query, retrieved or not, the highest first; all above 0.
    """

    grades: np.ndarray
    relevant: np.ndarray


def judge(candidates: Sequence[Any], scores: Sequence[float], relevance: Mapping[Any, float]) -> Judged:
    """Returns the ranking of a query's candidates.

    Args:
      candidates: [K] their names or numbers, each once, in any order; those left out count as not retrieved.
      scores: [K] the higher the better; ties as the module's first lines say.
      relevance: candidate -> grade; above 0 is relevant, an absent one is not.

    Raises:
      ValueError: a candidate twice, other lengths, a score that is NaN.
    """
    if len(candidates) != len(scores) or len(set(candidates)) != len(candidates):
        raise ValueError(f"{len(set(candidates))} different of {len(candidates)} candidates, {len(scores)} scores")
    grades = np.asarray([relevance.get(name, 0.0) for name in candidates], np.float64)
    relevant = np.asarray([grade for grade in relevance.values() if grade > 0], np.float64)
    return Judged(_in_order(grades, np.asarray(scores, np.float64)), -np.sort(-relevant))


def judge_group(scores: Sequence[float] | np.ndarray, grades: Sequence[float] | np.ndarray) -> Judged:
    """Returns the ranking of a query with all its candidates (response selection, reranking): [K] scores and grades."""
    grades_K = np.asarray(grades, np.float64)
    return Judged(_in_order(grades_K, np.asarray(scores, np.float64)), -np.sort(-grades_K[grades_K > 0]))


def _in_order(grades_K: np.ndarray, scores_K: np.ndarray) -> np.ndarray:
    if np.isnan(scores_K).any():
        raise ValueError("a score is NaN")
    return grades_K[np.lexsort((grades_K, -scores_K))]


def ndcg(judged: Judged, k: int) -> float:
    """Returns the discounted gain of the first k ranks by that of the best order; NaN without relevant candidates."""
    return _gain(np.maximum(judged.grades, 0.0), k) / _gain(judged.relevant, k) if len(judged.relevant) else np.nan


def _gain(grades: np.ndarray, k: int) -> float:
    first = grades[:k]
    return float((first / np.log2(np.arange(len(first)) + 2.0)).sum())


def reciprocal_rank(judged: Judged, k: int) -> float:
    """Returns 1 / (rank of the first relevant candidate), 0 where none is among the first k; NaN without any."""
    if not len(judged.relevant):
        return np.nan
    hits = np.flatnonzero(judged.grades[:k] > 0)
    return 1.0 / (1.0 + hits[0]) if len(hits) else 0.0


def recall(judged: Judged, k: int) -> float:
    """Returns the share of the relevant candidates that are among the first k; NaN without any."""
    return np.count_nonzero(judged.grades[:k] > 0) / len(judged.relevant) if len(judged.relevant) else np.nan


def average_precision(judged: Judged, k: int | None = None) -> float:
    """Returns the mean over all relevant candidates of the precision at their rank, 0 for one that is not retrieved.

    With `k` those after rank k count as not retrieved. NaN without relevant candidates.
    """
    if not len(judged.relevant):
        return np.nan
    ranks = 1.0 + np.flatnonzero(judged.grades[:k] > 0)
    return float((np.arange(1, len(ranks) + 1) / ranks).sum()) / len(judged.relevant)


def per_query(judged: Sequence[Judged], cutoffs: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Returns metric -> [Q], NaN for a query without relevant candidates.

    Args:
      judged: [Q] rankings.
      cutoffs: "ndcg", "mrr" and "recall" -> ranks k, for the metrics "ndcg@10" and so on; `FIRST` and `MAP` (over all
        ranks given) are always there.
    """
    known = {"ndcg": ndcg, "mrr": reciprocal_rank, "recall": recall}
    found = {
        f"{name}@{k}": [known[name](each, k) for each in judged]
        for name, cutoffs_K in cutoffs.items()
        for k in cutoffs_K
    }
    found |= {MAP: [average_precision(each) for each in judged], FIRST: [reciprocal_rank(each, 1) for each in judged]}
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def ranking_data(
    judged: Sequence[Judged], identity: Sequence[Any], cutoffs: Mapping[str, Sequence[int]]
) -> BootstrapData:
    """Returns the means of `per_query` as a function of the queries, for intervals over them and comparisons.

    A query without relevant candidates says nothing of a model and is left out, as trec_eval does.

    Args:
      judged: [Q] rankings.
      identity: [Q] what each query is, its relevant candidates included.
      cutoffs: see `per_query`.
    """
    kept = [number for number, each in enumerate(judged) if len(each.relevant)]
    units = per_query([judged[number] for number in kept], cutoffs)
    both = {name: np.asarray([1.0, 0.0]) for name in units}
    return BootstrapData(
        sampling_unit="queries",
        units=units,
        computed=_means,
        identity=[identity[number] for number in kept],
        right=units[FIRST] == 1,
        shares=(FIRST,),
        # Nothing wrong, or nothing right, in few queries: see `Prior`.
        prior=Prior(both, np.full(2, PRIOR_WEIGHT), tuple(name for name in units if name != FIRST)),
    )


def _means(units: Units, weights_RQ: np.ndarray) -> dict[str, np.ndarray]:
    total_R = np.maximum(weights_RQ.sum(axis=-1), 1e-12)
    return {name: weights_RQ @ values_Q / total_R for name, values_Q in units.items()}


# --- ranking by vectors ---


class Ranking(NamedTuple):
    """The best texts of each query, the best first; of one score the one with the lower number.

    Attributes:
      indices: int32 [Q, K] numbers of the texts.
      scores: f32 [Q, K].
    """

    indices: np.ndarray
    scores: np.ndarray


def rank_all(
    query_vectors: np.ndarray, corpus_vectors: np.ndarray, k: int, chunk: int = 16384, query_chunk: int = 1024
) -> Ranking:
    """Ranks the whole corpus for each query by the product of vectors, exactly, on the device and in chunks.

    Products are f32 at the highest precision. Memory on the device is that of `chunk` texts, `query_chunk` queries and
    their products; a memory-mapped corpus is read from start to end once for each `query_chunk` queries. The result
    depends on neither but for the rounding of a product.

    Args:
      query_vectors: f32 [Q, D].
      corpus_vectors: f32 [N, D], in memory or memory-mapped.
      k: ranks wanted, at most N.
      chunk: texts at a time.
      query_chunk: queries at a time.

    Raises:
      UserError: k is not from 1 to N; a vector that is not finite, by its number.
    """
    count = len(corpus_vectors)
    if not 1 <= k <= count:
        raise UserError(f"k={k}: must be from 1 to the {count:,} texts of the corpus.")
    chunk = min(chunk, count)
    parts = []
    for first in range(0, len(query_vectors), query_chunk):
        query_QD = np.asarray(query_vectors[first : first + query_chunk], np.float32)
        _check_finite(query_QD, first, "query")
        # Filled up, so that a last chunk of another size compiles nothing anew.
        size = min(query_chunk, len(query_vectors))
        filled_QD = np.pad(query_QD, ((0, size - len(query_QD)), (0, 0)))
        found = _rank(jnp.asarray(filled_QD), corpus_vectors, k, chunk)
        parts.append(Ranking(*(np.asarray(part)[: len(query_QD)] for part in found)))
    if not parts:
        return Ranking(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))
    return Ranking(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _rank(query_QD: jax.Array, corpus_vectors: np.ndarray, k: int, chunk: int) -> tuple[jax.Array, jax.Array]:
    best = (jnp.full((len(query_QD), k), np.iinfo(np.int32).max, jnp.int32), jnp.full((len(query_QD), k), -jnp.inf))
    for first, part_ND, useful in _chunks(corpus_vectors, chunk):
        best = _merge(best, query_QD, part_ND, first, useful)
    return best


def _chunks(corpus_vectors: np.ndarray, chunk: int) -> Iterator[tuple[int, np.ndarray, int]]:
    """Yields the number of the first text, vectors [chunk, D] and how many of them are texts."""
    for first in range(0, len(corpus_vectors), chunk):
        part_ND = np.asarray(corpus_vectors[first : first + chunk], np.float32)
        _check_finite(part_ND, first, "text")
        yield first, np.pad(part_ND, ((0, chunk - len(part_ND)), (0, 0))), len(part_ND)


def _check_finite(vectors_ND: np.ndarray, first: int, what: str) -> None:
    finite_N = np.isfinite(vectors_ND).all(axis=-1)
    if not finite_N.all():
        number = first + int(np.argmin(finite_N)) + 1
        raise UserError(
            f"{what} {number:,}: its vector has a number that is not finite, so that nothing can be ranked."
        )


@functools.partial(jax.jit, donate_argnums=0)
def _merge(
    best: tuple[jax.Array, jax.Array], query_QD: jax.Array, part_ND: jax.Array, first: jax.Array, useful: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Merges the best so far, indices and scores [Q, K], with a chunk of the corpus."""
    indices_QK, scores_QK = best
    scores_QN = jnp.einsum("qd,nd->qn", query_QD, part_ND, precision=jax.lax.Precision.HIGHEST)
    scores_QN = jnp.where(jnp.arange(len(part_ND)) < useful, scores_QN, -jnp.inf)
    # top_k takes the first of equal ones: those so far have lower numbers, and stand first.
    top_QK, at_QK = jax.lax.top_k(scores_QN, min(scores_QK.shape[1], len(part_ND)))
    both_QK = jnp.concatenate([scores_QK, top_QK], axis=1)
    numbers_QK = jnp.concatenate([indices_QK, at_QK.astype(jnp.int32) + first], axis=1)
    scores_QK, at_QK = jax.lax.top_k(both_QK, scores_QK.shape[1])
    return jnp.take_along_axis(numbers_QK, at_QK, axis=1), scores_QK
