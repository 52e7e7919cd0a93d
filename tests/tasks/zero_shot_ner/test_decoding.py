"""The threshold with the best F1, against trying all of them."""

import numpy as np
import pytest

from jaxfm.tasks.word_spans.spans import FoundSpans
from jaxfm.tasks.zero_shot_ner.decoding import fit_threshold, sigmoid
from jaxfm.tasks.zero_shot_ner.spec import USUAL_THRESHOLD


def f1(found: list[FoundSpans], gold: list[list[tuple[int, int, str]]], threshold: float) -> float:
    kept = [{span for span, score in zip(each.spans, each.scores, strict=True) if score >= threshold} for each in found]
    right = sum(len(a & set(b)) for a, b in zip(kept, gold, strict=True))
    return 2 * right / (sum(map(len, kept)) + sum(map(len, gold)))


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_better_f1(seed: int) -> None:
    draw = np.random.default_rng(seed)
    found, gold = [], []
    for _ in range(12):
        spans = [(start, start + 1, "A") for start in range(draw.integers(0, 5))]
        right = [span for span in spans if draw.random() < 0.6]
        scores = [round(float(draw.uniform(0.1, 0.7 + 0.3 * (span in right))), 1) for span in spans]  # with equal ones
        found.append(FoundSpans(spans, scores))
        gold.append([*right, *([(9, 10, "A")] if draw.random() < 0.3 else [])])
    fitted = fit_threshold(found, gold)
    every = sorted({score for each in found for score in each.scores})
    assert f1(found, gold, fitted) == pytest.approx(max(f1(found, gold, each) for each in every))
    assert fitted not in every  # half-way between two


def test_without_anything_right_it_is_the_usual_one() -> None:
    assert fit_threshold([FoundSpans([(0, 1, "A")], [0.9])], [[(0, 1, "B")]]) == USUAL_THRESHOLD
    assert fit_threshold([FoundSpans([], [])], [[]]) == USUAL_THRESHOLD


def test_probabilities() -> None:
    np.testing.assert_allclose(sigmoid(np.asarray([0.0, 2.0, -np.inf, -1000.0])), [0.5, 1 / (1 + np.exp(-2)), 0, 0])
