"""Scores of rankings of a whole catalogue, one target a user, and rankings that need no training."""

# N users, I items, K listed, R rounds

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm.core.evaluation import PRIOR_WEIGHT, BootstrapData, Prior, Units

CUTOFFS = (1, 5, 10, 20)
FIRST = "recall@1"
LIST = 10  # items of a list whose coverage and popularity are scored
COVERAGE, POPULARITY = f"coverage@{LIST}", f"popularity@{LIST}"
_CHUNK = 1024  # users whose scores of the catalogue are in memory at once
_NEIGHBOURS = 200


class Ranked(NamedTuple):
    """What a ranking of the catalogue gave each user.

    Attributes:
      rank: float64 [N] of the target, from 1; halves between items of one score; infinite for an item that is unknown.
      items: int32 [N, K] the first items, the best first; -1 where fewer may be recommended.
    """

    rank: np.ndarray
    items: np.ndarray


def rank_units(rank_N: np.ndarray) -> dict[str, np.ndarray]:
    """Returns metric -> float64 [N] of one target each: recall@k, ndcg@k (1 / log2(1 + rank)) and mrr (1 / rank)."""
    found = {f"recall@{k}": (rank_N <= k).astype(np.float64) for k in CUTOFFS}
    found |= {f"ndcg@{k}": np.where(rank_N <= k, 1.0 / np.log2(1.0 + rank_N), 0.0) for k in (5, 10, 20)}
    return found | {"mrr": 1.0 / rank_N}


def recommendation_data(ranked: Ranked, identity: Sequence[Any]) -> BootstrapData:
    """Returns the means of `rank_units` as a function of the users, for intervals over them and comparisons."""
    units = rank_units(ranked.rank)
    both = {name: np.asarray([1.0, 0.0]) for name in units}
    return BootstrapData(
        sampling_unit="users",
        units=units,
        computed=_means,
        identity=identity,
        right=units[FIRST] == 1,
        shares=(FIRST,),
        # Nothing found, or all of it, for few users: see `Prior`.
        prior=Prior(both, np.full(2, PRIOR_WEIGHT), tuple(name for name in units if name != FIRST)),
    )


def _means(units: Units, weights_RN: np.ndarray) -> dict[str, np.ndarray]:
    total_R = np.maximum(weights_RN.sum(axis=-1), 1e-12)
    return {name: weights_RN @ values_N / total_R for name, values_N in units.items()}


def list_scores(items_NK: np.ndarray, counts_I: np.ndarray, gold_N: np.ndarray) -> dict[str, float]:
    """Returns how a model's lists of ten lie in the catalogue.

    "coverage@10" is the share of the catalogue that is in some list. "popularity@10" is how often the listed items were
    taken in training, by how often those were that users took then: 1 is no bias, above it popular items are favoured.

    Args:
      items_NK: lists, -1 for nothing.
      counts_I: how often each item was taken in training.
      gold_N: targets; below 0: not of the catalogue.
    """
    listed = items_NK[:, :LIST]
    listed, gold = listed[listed >= 0], gold_N[gold_N >= 0]
    usual = counts_I[gold].mean() if len(gold) else 0.0
    ratio = counts_I[listed].mean() / usual if len(listed) and usual else float("nan")
    return {COVERAGE: len(np.unique(listed)) / len(counts_I), POPULARITY: float(ratio)}


def rank_scores(
    scores_NI: np.ndarray, gold_N: np.ndarray, seen: Sequence[np.ndarray], count: int = CUTOFFS[-1]
) -> Ranked:
    """Ranks the catalogue by scores.

    Args:
      scores_NI: the higher the better.
      gold_N: targets; below 0: not of the catalogue.
      seen: of each user the items that are not recommended; a target counts all the same.
      count: items of a list.
    """
    allowed_NI = np.asarray(scores_NI, np.float64).copy()
    for user, taken in enumerate(seen):
        allowed_NI[user, taken] = -np.inf
    at = np.arange(len(gold_N)), np.maximum(gold_N, 0)
    score_N1 = np.asarray(scores_NI, np.float64)[at][:, None]
    others_NI = np.ones(allowed_NI.shape, bool)
    others_NI[at] = False
    higher_N = ((allowed_NI > score_N1) & others_NI).sum(axis=1)
    equal_N = ((allowed_NI == score_N1) & others_NI).sum(axis=1)
    first_NK = np.argsort(-allowed_NI, axis=1, kind="stable")[:, :count]
    finite_NK = np.isfinite(np.take_along_axis(allowed_NI, first_NK, axis=1))
    rank_N = np.where(gold_N >= 0, 1.0 + higher_N + 0.5 * equal_N, np.inf)
    return Ranked(rank_N, np.where(finite_NK, first_NK, -1).astype(np.int32))


# --- rankings without training ---


def baselines(
    training: Sequence[np.ndarray],
    items: int,
    histories: Sequence[np.ndarray],
    gold_N: np.ndarray,
    seen: Sequence[np.ndarray],
) -> Mapping[str, Ranked]:
    """Returns what three rankings without training give users: the bar that a model must clear.

    "popularity": how often an item was taken. "last item's followers": how often it followed the user's last item at
    once, then popularity. "item-kNN": the cosine similarity, by who took them, of an item and those of the history,
    summed over the 200 nearest of each (Sarwar et al. 2001).

    Args:
      training: items of each user that training sees, in order.
      items: of the catalogue.
      histories: of each user to be scored what came before the target.
      gold_N: targets; below 0: not of the catalogue.
      seen: see `rank_scores`.
    """
    counts_I = np.bincount(np.concatenate([*training, np.zeros(0, np.int32)]), minlength=items).astype(np.float64)
    popular_I = counts_I / (counts_I.max(initial=0.0) + 1.0)  # below 1: it decides between equal counts alone
    follows, nearest = _followers(training, items), _nearest(training, items)
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "popularity": lambda taken: popular_I,
        "last item's followers": lambda taken: follows[taken[-1:]].sum(axis=0) + popular_I,
        "item-kNN": lambda taken: nearest[taken].sum(axis=0) + 1e-9 * popular_I,
    }
    found = {}
    for name, rule in rules.items():
        parts = []
        for first in range(0, len(histories), _CHUNK):
            part = slice(first, first + _CHUNK)
            scores_NI = np.stack([rule(taken) for taken in histories[part]])
            parts.append(rank_scores(scores_NI, gold_N[part], seen[part]))
        found[name] = Ranked(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    return found


def _followers(training: Sequence[np.ndarray], items: int) -> Any:
    """Returns how often an item followed another one at once, sparse [I, I]."""
    import scipy.sparse

    before = np.concatenate([*(taken[:-1] for taken in training), np.zeros(0, np.int32)])
    after = np.concatenate([*(taken[1:] for taken in training), np.zeros(0, np.int32)])
    return scipy.sparse.csr_array((np.ones(len(before)), (before, after)), shape=(items, items))


def _nearest(training: Sequence[np.ndarray], items: int) -> Any:
    """Returns the similarity of each item to its nearest ones, sparse [I, I]; an item is no neighbour of itself."""
    import scipy.sparse

    user = np.repeat(np.arange(len(training)), [len(taken) for taken in training])
    item = np.concatenate([*training, np.zeros(0, np.int32)])
    taken = scipy.sparse.csr_array((np.ones(len(item)), (user, item)), shape=(len(training), items))
    taken.data[:] = 1.0  # whoever takes an item twice is one user
    both = (taken.T @ taken).tocsr()
    own = np.maximum(both.diagonal(), 1.0)
    both.setdiag(0.0)
    both.eliminate_zeros()
    scale = scipy.sparse.diags_array(1.0 / np.sqrt(own))
    similar = (scale @ both @ scale).tocsr()
    for row in range(items):
        begin, end = similar.indptr[row], similar.indptr[row + 1]
        if end - begin > _NEIGHBOURS:
            values = similar.data[begin:end]
            values[np.argsort(-values, kind="stable")[_NEIGHBOURS:]] = 0.0
    return similar
