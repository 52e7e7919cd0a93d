"""Scores of answers against the rules of SQuAD's official script, written out slowly, and against known numbers."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxfm.evaluation.answers import (
    AnswerScore,
    answer_metrics,
    as_metrics,
    best_threshold,
    normalised,
    overlap_f1,
    score_answer,
)
from jaxfm.evaluation.intervals import intervals

WORDS = st.lists(st.sampled_from(["the", "a", "an", "cat", "Cat.", "sat", "1,000", "U.S.", "-", "é"]), max_size=6)
TEXTS = WORDS.map(" ".join)


def slow_f1(answer: str, gold: str) -> float:
    """Words in common, counted by crossing out."""
    found, wanted = normalised(answer).split(), normalised(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    left, common = list(wanted), 0
    for word in found:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    return 2 * (common / len(found)) * (common / len(wanted)) / (common / len(found) + common / len(wanted))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("the-cat", "thecat"),  # punctuation goes before articles
        ("U.S.", "us"),
        ("the", ""),
        ("“Zoé”", "“zoé”"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    assert normalised(text) == expected


@hypothesis.given(TEXTS, TEXTS)
@hypothesis.settings(deadline=None, max_examples=200)
def test_f1_by_crossing_out(answer: str, gold: str) -> None:
    assert overlap_f1(answer, gold) == pytest.approx(slow_f1(answer, gold))


def test_the_best_gold_answer_counts() -> None:
    assert score_answer("the Denver Broncos", ["Broncos", "Denver Broncos!"]) == AnswerScore(1.0, 1.0)
    exact, f1 = score_answer("big Denver", ["Denver Broncos", "a city"])
    assert (exact, f1) == (0.0, pytest.approx(0.5))
    assert score_answer("", []) == AnswerScore(1.0, 1.0)
    assert score_answer("x", []) == AnswerScore(0.0, 0.0)
    assert score_answer("", ["Denver"]) == AnswerScore(0.0, 0.0)
    assert score_answer("", ["the"]) == AnswerScore(1.0, 1.0)  # a gold answer of articles alone does not count


def slow_best(scores: list[float], right: list[float], has: list[bool]) -> float:
    """The best mean over all thresholds: below all scores, and at each of them."""

    def mean(threshold: float) -> float:
        each = [
            (r if h else 0.0) if score <= threshold else float(not h)
            for score, r, h in zip(scores, right, has, strict=True)
        ]
        return sum(each) / len(each)

    return max(mean(threshold) for threshold in [min(scores) - 1, *scores])


@hypothesis.given(
    st.lists(
        st.tuples(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), st.sampled_from([0.0, 0.4, 1.0]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
@hypothesis.settings(deadline=None, max_examples=200)
def test_the_best_threshold(questions: list[tuple[float, float, bool]]) -> None:
    scores, right, has = map(list, zip(*questions, strict=True))
    threshold, mean = best_threshold(np.asarray(scores), np.asarray(right), np.asarray(has))
    assert mean == pytest.approx(slow_best(scores, right, has))
    given_mean = np.mean([(r if h else 0.0) if s <= threshold else float(not h) for s, r, h in questions])
    assert given_mean == pytest.approx(mean)


def test_metrics_of_questions_with_and_without_an_answer() -> None:
    scores = [AnswerScore(1, 1), AnswerScore(0, 0.5), AnswerScore(0, 0), AnswerScore(1, 1)]
    has = np.asarray([True, True, False, False])
    found = as_metrics(answer_metrics(scores, has, np.asarray([1.0, 2.0, 3.0, 4.0]), list("abcd")))
    assert found == pytest.approx(
        {"f1": 0.625, "exact_match": 0.5, "loss": 2.5, "has_answer_f1": 0.75, "no_answer_accuracy": 0.5}
    )
    only = as_metrics(answer_metrics(scores[:2], has[:2], np.ones(2), list("ab")))
    assert set(only) == {"f1", "exact_match", "loss"}


@pytest.mark.parametrize("unanswered", [0, 3])
def test_no_interval_is_a_point_where_all_is_right(unanswered: int) -> None:
    count = 12
    has = np.arange(count) >= unanswered
    data = answer_metrics([AnswerScore(1, 1)] * count, has, np.full(count, 0.1), list(range(count)))
    metrics = as_metrics(data)
    found = intervals(data, metrics)
    assert len(metrics) == (5 if unanswered else 3)
    for name in set(metrics) - {"loss"}:
        assert metrics[name] == 1.0 and found[name].low < 0.99, name
