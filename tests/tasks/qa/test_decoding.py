"""Answers from the scores of tokens, against every span tried one by one."""

# n tokens of a context, K longest span

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxfm.tasks.qa.decoding import Reading, _drop_empty


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """Scores of spans of a context of which some tokens stand for no character."""
    length, longest = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    values = draw(st.lists(st.sampled_from([-2.0, 0.0, 0.25, 1.0, 3.5]), min_size=length * longest, max_size=28))
    scores = np.resize(np.asarray(values), (length, longest)).astype(np.float64)
    for first in range(length):
        scores[first, length - first :] = -np.inf
    empty = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    offsets = np.asarray([(4 * token, 4 * token + (0 if none else 3)) for token, none in enumerate(empty)])
    return Reading(scores, offsets, draw(st.sampled_from([-1.0, 0.5, 9.0])), draw(st.booleans()))


def slow(reading: Reading) -> list[tuple[float, int, int]]:
    """Every span of tokens that stand for something at both ends: score, start and end in characters."""
    found = []
    for first in range(len(reading.scores)):
        for k in range(reading.scores.shape[1]):
            if first + k >= len(reading.scores):
                continue
            (start, stop), (other, end) = reading.offsets[first], reading.offsets[first + k]
            if start == stop or other == end:
                continue
            found.append((float(reading.scores[first, k]), int(start), int(end)))
    return found


@hypothesis.given(readings(), st.integers(1, 40))
@hypothesis.settings(deadline=None, max_examples=200)
def test_the_best_spans(reading: Reading, count: int) -> None:
    expected = slow(reading)
    scores = reading.scores.copy()
    _drop_empty(scores, reading.offsets)
    reading = Reading(scores, reading.offsets, reading.nothing, reading.may_be_nothing)
    best = reading.best(count)
    assert [span.score for span in best] == sorted((score for score, *_ in expected), reverse=True)[:count]
    assert {(span.score, span.start, span.end) for span in best} <= set(expected)
    assert len({(span.start, span.end) for span in best}) == len(best)
    top = max((score for score, *_ in expected), default=-np.inf)
    assert reading.margin() == reading.nothing - top


@hypothesis.given(readings(), st.sampled_from([0.3, 1.0, 4.0]))
@hypothesis.settings(deadline=None, max_examples=100)
def test_probabilities_add_up_to_one(reading: Reading, temperature: float) -> None:
    scores = reading.scores.copy()
    _drop_empty(scores, reading.offsets)
    reading = Reading(scores, reading.offsets, reading.nothing, reading.may_be_nothing)
    (total,) = reading.log_total([temperature])
    spans = [score for score, *_ in slow(reading)]
    if reading.may_be_nothing or not spans:
        spans.append(reading.nothing)
    assert sum(np.exp(score / temperature - total) for score in spans) == pytest.approx(1.0)


def test_of_equal_spans_the_earlier_and_shorter_one_is_first() -> None:
    offsets = np.asarray([[0, 1], [1, 2], [2, 3]])
    scores = np.asarray([[1.0, 1.0], [2.0, 1.0], [1.0, -np.inf]])
    best = Reading(scores, offsets, 0.0, False).best(3)
    assert [(span.start, span.end) for span in best] == [(1, 2), (0, 1), (0, 2)]
