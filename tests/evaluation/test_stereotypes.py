"""Preferences between sentences: the tokens that are compared, shares, p-values and StereoSet's score."""

import math

import pytest
from scipy import stats

from jaxfm.evaluation.stereotypes import preference, shared_log_probabilities, span_log_probability


def tokens(*found: tuple[str, int, float]) -> list[dict[str, object]]:
    return [
        {"token": name, "start": start, "end": start + len(name), "log_probability": score}
        for name, start, score in found
    ]


def test_shared_tokens_are_those_that_both_sentences_have_in_order() -> None:
    more = tokens(("she", 0, -1.0), ("cannot", 4, -2.0), ("drive", 11, -4.0), (".", 16, -8.0))
    less = tokens(("he", 0, -16.0), ("cannot", 3, -32.0), ("drive", 10, -64.0), ("well", 16, -128.0), (".", 20, -256.0))
    assert shared_log_probabilities(more, less) == (-14.0, -352.0)


def test_the_tokens_of_a_span_are_averaged() -> None:
    found = tokens(("the", 0, -1.0), ("snow", 4, -2.0), ("man", 8, -4.0), ("ran", 12, -8.0))
    assert span_log_probability(found, 4, 11) == -3.0
    assert math.isnan(span_log_probability(found, 30, 31))


def test_preferences() -> None:
    scores = [(-1.0, -2.0, -3.0)] * 9 + [(-2.0, -1.0, -1.5)] * 3 + [(-1.0, -1.0, -5.0)]
    found = preference("gender", scores)
    assert (found.pairs, found.ties) == (13, 1) and found.stereotype.value == pytest.approx(9 / 13)
    assert found.p == pytest.approx(stats.binomtest(9, 12).pvalue)
    assert found.sense is not None and found.sense.value == pytest.approx((18 + 3 + 2) / 26)
    assert found.idealised == pytest.approx(100 * 23 / 26 * 2 * 4 / 13)
    assert preference("gender", [(-1.0, -2.0)]).idealised is None
    assert preference("all alike", [(-1.0, -1.0)] * 4).p == 1.0
