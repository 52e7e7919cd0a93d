"""What differs most: words by what they add to the distance, records by where they lie."""

import numpy as np
import pytest

from jaxfm.evaluation.drift_samples import Looked
from jaxfm.evaluation.error_estimate import Judged
from jaxfm.programs import drift_tests
from jaxfm.programs.drift_tests import Draws, model_tests


def looked(vectors: np.ndarray, confidence: np.ndarray, predicted: np.ndarray) -> Looked:
    count = len(vectors)
    return Looked(vectors, Judged(confidence, np.arange(count), count), np.eye(2)[predicted], ("a", "b"))


def test_each_test_sees_what_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)

    def side(count: int, apart: float = 0.0, sure: float = 1.0, share: float = 0.5) -> Looked:
        vectors = generator.standard_normal((count, 3)) + apart
        return looked(vectors, generator.random(count) ** sure, (generator.random(count) < share).astype(np.int64))

    draws, reference = Draws(400, 0), side(80)
    cases = {"vectors": {"apart": 1.5}, "confidence": {"sure": 4.0}, "predicted classes": {"share": 0.95}}
    for name, changed in cases.items():
        tests, _ = model_tests(draws, reference, side(60, **changed))
        small = {test[0] for test in tests if test[2].p < 0.01}
        assert small == ({"vectors", "vectors, by a classifier"} if name == "vectors" else {name})
    few = side(60)
    few.vectors[:7] += 4.0
    _, unlike = model_tests(draws, reference, few)
    assert {number for number, _ in unlike[:7]} == set(range(7))
    assert [value for _, value in unlike] == sorted((value for _, value in unlike), reverse=True)
    monkeypatch.setattr(drift_tests, "MOST_VECTORS", 50)
    _, unlike = model_tests(draws, reference, few)
    assert {number for number, _ in unlike[:3]} <= set(range(7))


def test_words_are_ordered_by_what_they_add() -> None:
    found = drift_tests._differing(("a", "b", "c"), np.asarray([50, 40, 10]), np.asarray([5, 40, 55]))  # noqa: SLF001
    assert [each.word for each in found] == ["a", "c"] and found[0].reference == 500 and found[0].new == 50
    assert sum(each.share for each in found) == pytest.approx(1.0)
    assert drift_tests._differing(("a",), np.asarray([3]), np.asarray([5])) == ()  # noqa: SLF001
