"""The surest queries alone: the threshold, and how many of their first texts are right."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm.evaluation.coverage import LEAST_QUERIES, THRESHOLD, describe_answers, fit_threshold, precision_at

SCORES = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=LEAST_QUERIES, max_size=60)


@given(SCORES)
def test_the_threshold_is_the_highest_that_answers_four_of_five(queries: list[tuple[int, bool]]) -> None:
    best = np.asarray([score for score, _ in queries], float)
    threshold = fit_threshold(best)[THRESHOLD]
    assert (best >= threshold).mean() >= 0.8
    assert (best > threshold).mean() < 0.8


@given(SCORES)
def test_precision_by_its_definition(queries: list[tuple[int, bool]]) -> None:
    best, right = (np.asarray(side) for side in zip(*queries, strict=True))
    first = sorted(queries, key=lambda query: (-query[0], query[1]))[: math.ceil(len(queries) * 4 / 5)]
    assert precision_at(best, right) == pytest.approx(sum(correct for _, correct in first) / len(first))


def test_few_queries_or_scores_that_are_not_finite_give_no_threshold() -> None:
    assert not fit_threshold(np.zeros(LEAST_QUERIES - 1)) and fit_threshold(np.zeros(LEAST_QUERIES))
    assert not fit_threshold(np.array([np.nan] * LEAST_QUERIES)) and math.isnan(precision_at(np.zeros(0), np.zeros(0)))


def test_what_a_report_says() -> None:
    best, right = np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([True, True, False, True, False])
    values, (table,) = describe_answers(best, right, {THRESHOLD: 0.75})
    assert values == {"precision_at_80_percent": 0.75, THRESHOLD: 0.75, "coverage": 0.4, "precision": 1.0}
    assert [row[:4] for row in table.rows] == [
        ("all queries", 5, 1.0, 0.6),
        ("the surest 80 %", 4, 0.8, 0.75),
        ("a score of at least 0.7500, as calibrated", 2, 0.4, 1.0),
    ]
    values, (table,) = describe_answers(best, right, {THRESHOLD: 2.0})
    assert values["coverage"] == 0 and values["precision"] is None and table.rows[2][3] is None
    values, (table,) = describe_answers(best, right, {})
    assert set(values) == {"precision_at_80_percent"} and len(table.rows) == 2
    assert describe_answers(np.zeros(0), np.zeros(0, bool), {}) == ({}, ())
