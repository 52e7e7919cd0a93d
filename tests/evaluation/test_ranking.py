"""Rankings against trec_eval, against the definitions written out slowly, and against a sort of the whole corpus."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxfm.core.evaluation import BootstrapData
from jaxfm.errors import UserError
from jaxfm.evaluation import ranking
from jaxfm.evaluation.intervals import intervals
from jaxfm.evaluation.ranking import Judged, judge, judge_group, per_query, rank_all, ranking_data

CUTOFFS = {"ndcg": (1, 3, 10), "mrr": (1, 3, 10), "recall": (1, 3, 10)}

# Grades of all candidates of a query, and which of them were retrieved at which rank.
QUERIES = st.tuples(
    st.lists(st.sampled_from([-1, 0, 0, 1, 1, 2, 3]), min_size=1, max_size=14),
    st.randoms(use_true_random=False),
    st.integers(1, 14),
)


def drawn(query: tuple[list[int], object, int]) -> tuple[list[str], list[float], dict[str, float]]:
    """Candidates, distinct scores and relevance."""
    grades, draw, depth = query
    names = [f"d{number}" for number in range(len(grades))]
    kept = draw.sample(names, min(depth, len(names)))  # type: ignore[attr-defined]
    return kept, [-float(rank) for rank in range(len(kept))], dict(zip(names, map(float, grades), strict=True))


def slow(kept: list[str], relevance: dict[str, float], k: int) -> dict[str, float]:
    """By the definitions, rank by rank."""
    good = [name for name, grade in relevance.items() if grade > 0]
    if not good:
        return dict.fromkeys(("ndcg", "mrr", "recall", "map"), math.nan)
    gain = ideal = found = 0.0
    mrr = precisions = 0.0
    hits = 0
    for rank, name in enumerate(kept, start=1):
        grade = max(relevance[name], 0)
        if rank <= k:
            gain += grade / math.log2(rank + 1)
            found += grade > 0
            if grade > 0 and not mrr:
                mrr = 1 / rank
        if grade > 0:
            hits += 1
            precisions += hits / rank
    for rank, grade in enumerate(sorted((relevance[name] for name in good), reverse=True), start=1):
        ideal += grade / math.log2(rank + 1) if rank <= k else 0
    return {"ndcg": gain / ideal, "mrr": mrr, "recall": found / len(good), "map": precisions / len(good)}


@hypothesis.given(QUERIES)
@hypothesis.settings(deadline=None, max_examples=200)
def test_by_the_definitions(query: tuple[list[int], object, int]) -> None:
    kept, scores, relevance = drawn(query)
    found = per_query([judge(kept, scores, relevance)], CUTOFFS)
    for k in (1, 3, 10):
        expected = slow(kept, relevance, k)
        for name in ("ndcg", "mrr", "recall"):
            assert found[f"{name}@{k}"][0] == pytest.approx(expected[name], nan_ok=True)
    assert found["map"][0] == pytest.approx(slow(kept, relevance, 100)["map"], nan_ok=True)
    assert found["accuracy@1"][0] == pytest.approx(slow(kept, relevance, 1)["mrr"], nan_ok=True)


@hypothesis.given(st.lists(QUERIES, min_size=1, max_size=5))
@hypothesis.settings(deadline=None, max_examples=50)
def test_as_trec_eval(queries: list[tuple[list[int], object, int]]) -> None:
    trec = pytest.importorskip("pytrec_eval", reason="the oracle of rankings: pip install pytrec-eval-terrier")
    run, judgements, judged = {}, {}, []
    for number, query in enumerate(queries):
        kept, scores, relevance = drawn(query)
        judged.append(judge(kept, scores, relevance))
        run[f"q{number}"] = dict(zip(kept, scores, strict=True))
        judgements[f"q{number}"] = {name: int(grade) for name, grade in relevance.items()}
    measures = {"ndcg_cut.1,3,10", "recall.1,3,10", "map", "map_cut.3", "recip_rank", "success.1"}
    theirs = trec.RelevanceEvaluator(judgements, measures).evaluate(run)
    ours = per_query(judged, {"ndcg": (1, 3, 10), "recall": (1, 3, 10), "mrr": (10**6,)})
    names = {"map": "map", "accuracy@1": "success_1", f"mrr@{10**6}": "recip_rank"}
    names |= {f"ndcg@{k}": f"ndcg_cut_{k}" for k in (1, 3, 10)} | {f"recall@{k}": f"recall_{k}" for k in (1, 3, 10)}
    for number, each in enumerate(judged):
        if len(each.relevant):  # trec_eval says 0 of a query without relevant candidates; here it has no score
            of_trec = theirs[f"q{number}"]
            assert {ours_: ours[ours_][number] for ours_ in names} == pytest.approx(
                {ours_: of_trec[theirs_] for ours_, theirs_ in names.items()}, abs=1e-6
            )
            assert ranking.average_precision(each, 3) == pytest.approx(of_trec["map_cut_3"], abs=1e-6)


def test_ties_give_nothing() -> None:
    # Ten candidates of one score, the right one listed first: a model that tells nothing apart is right by no means.
    same = judge_group([0.5] * 10, [1] + [0] * 9)
    assert ranking.reciprocal_rank(same, 10) == 1 / 10
    assert ranking.recall(same, 1) == 0
    # A listing in another order is scored the same.
    assert judge_group([0.5] * 10, [0] * 9 + [1]).grades.tolist() == same.grades.tolist()
    assert judge(["a", "b", "c"], [1.0, 1.0, 2.0], {"a": 2, "b": 1}).grades.tolist() == [0, 1, 2]


def test_what_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="1 different of 2"):
        judge(["a", "a"], [1.0, 2.0], {})
    with pytest.raises(ValueError, match="NaN"):
        judge_group([1.0, math.nan], [1, 0])


def some_data(count: int, seed: int, *, right: float) -> BootstrapData:
    draw = np.random.default_rng(seed)
    judged = [judge_group(draw.random(10) + right * np.eye(10)[0], np.eye(10)[0]) for _ in range(count)]
    return ranking_data([*judged, Judged(np.zeros(3), np.zeros(0))], [*range(count), "none"], CUTOFFS)


def test_means_and_intervals_over_queries() -> None:
    data = some_data(40, 0, right=0.5)
    assert data.count == 40, "a query without relevant candidates is left out"
    metrics = data.metrics(np.arange(data.count))
    assert metrics["mrr@10"] == pytest.approx(data.units["mrr@10"].mean())
    assert metrics["accuracy@1"] == data.right.mean()  # type: ignore[union-attr]
    found = intervals(data, metrics)
    assert set(found) == set(metrics)
    for name, interval in found.items():
        assert interval.low <= metrics[name] <= interval.high
        assert 0 <= interval.low < interval.high <= 1, name


def test_an_interval_where_nothing_is_wrong() -> None:
    data = some_data(12, 1, right=2.0)
    metrics = data.metrics(np.arange(data.count))
    assert metrics["ndcg@10"] == 1
    assert intervals(data, metrics)["ndcg@10"].low < 0.95, "twelve queries cannot show more"


@pytest.mark.parametrize(("count", "k", "chunk"), [(1, 1, 8), (50, 7, 8), (50, 50, 16), (64, 9, 1000), (64, 20, 8)])
def test_rank_all_is_a_sort(count: int, k: int, chunk: int) -> None:
    # Small whole numbers: products are exact, and many of them equal.
    draw = np.random.default_rng(count + k)
    queries, corpus = (draw.integers(-2, 3, (rows, 4)).astype(np.float32) for rows in (11, count))
    scores = queries @ corpus.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = rank_all(queries, corpus, k, chunk, query_chunk=4)
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, expected, axis=1))
    if count > 1:
        assert (np.diff(found.scores, axis=1) == 0).any(), "ties are tested"


def test_rank_all_in_full_precision(tmp_path) -> None:  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(0)
    corpus = draw.standard_normal((300, 64)).astype(np.float32)
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    queries = corpus[:20] + 0.1 * draw.standard_normal((20, 64)).astype(np.float32)
    exact = queries.astype(np.float64) @ corpus.astype(np.float64).T
    found = rank_all(queries, mapped, 10, 128)
    np.testing.assert_array_equal(found.indices, np.argsort(-exact, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(found.scores, -np.sort(-exact, axis=1)[:, :10], atol=1e-6)


def test_rank_all_refuses() -> None:
    vectors = np.ones((3, 2), np.float32)
    with pytest.raises(UserError, match="k=4: must be from 1 to the 3 texts"):
        rank_all(vectors, vectors, 4)
    broken = vectors.copy()
    broken[1, 0] = np.nan
    with pytest.raises(UserError, match="text 2: its vector"):
        rank_all(vectors, broken, 1)
    with pytest.raises(UserError, match="query 2: its vector"):
        rank_all(broken, vectors, 1)
    assert rank_all(vectors[:0], vectors, 2).indices.shape == (0, 2)
