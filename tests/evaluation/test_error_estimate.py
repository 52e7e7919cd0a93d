"""Estimated accuracies beside brute force, and intervals that hold the truth where nothing but the inputs changed."""

import numpy as np
import pytest

from jaxfm.evaluation.error_estimate import ATC, DOC, REAL, Judged, _accuracies, _Side, estimate_error

GENERATOR = np.random.default_rng(2)


def judged(count: int, units: int = 1, *, generator: np.random.Generator = GENERATOR, sharp: float = 1.0) -> Judged:
    """Units that are right as often as their confidence says."""
    confidence = generator.beta(4 * sharp, 1.5, count * units)
    return Judged(confidence, np.repeat(np.arange(count), units), count, generator.random(count * units) < confidence)


def by_hand(reference: Judged, new: Judged, weight: np.ndarray, new_weight: np.ndarray) -> tuple[float, float]:
    """Average thresholded confidence and difference of confidences, by repeating each unit as its weight says."""
    assert reference.right is not None
    index = np.repeat(np.arange(len(reference.confidence)), weight[reference.record])
    new_index = np.repeat(np.arange(len(new.confidence)), new_weight[new.record])
    sure, right = reference.confidence[index], reference.right[index]
    wrong = int((~right).sum())
    threshold = np.inf
    for each in sorted(sure):  # the first confidence below which are as many as are wrong, or the most that are fewer
        threshold = each
        if (sure <= each).sum() > wrong:
            break
    else:
        threshold = np.inf
    doc = right.mean() - (sure.mean() - new.confidence[new_index].mean())
    return float((new.confidence[new_index] >= threshold).mean()), float(np.clip(doc, 0, 1))


@pytest.mark.parametrize("units", [1, 3])
def test_each_estimate_by_hand(units: int) -> None:
    reference, new = judged(40, units), judged(30, units, sharp=0.5)
    weights = [
        GENERATOR.multinomial(each.count, np.full(each.count, 1 / each.count), size=5) for each in (reference, new)
    ]
    weights[0][0], weights[1][0] = 1, 1
    found = _accuracies(_Side(reference), _Side(new), *weights)
    for number in range(5):
        atc, doc = by_hand(reference, new, weights[0][number], weights[1][number])
        assert found[ATC][number] == pytest.approx(atc) and found[DOC][number] == pytest.approx(doc)
    whole = estimate_error(reference, new, resamples=50)
    assert reference.right is not None and new.right is not None
    assert whole.reference.value == pytest.approx(reference.right.mean())
    assert whole.accuracy[ATC].value == pytest.approx(found[ATC][0]) and whole.accuracy[DOC].value == found[DOC][0]
    assert whole.accuracy[REAL].value == pytest.approx(new.right.mean())
    for name, each in whole.accuracy.items():
        assert each.low <= each.value <= each.high
        assert whole.drop[name].value == pytest.approx(whole.reference.value - each.value)


def test_the_reference_beside_itself_has_its_own_accuracy() -> None:
    reference = judged(200)
    found = estimate_error(reference, reference, resamples=20)
    assert found.accuracy[ATC].value == pytest.approx(found.reference.value)
    assert found.accuracy[DOC].value == pytest.approx(found.reference.value)
    unlabelled = Judged(reference.confidence, reference.record, reference.count)
    assert REAL not in estimate_error(reference, unlabelled, resamples=20).accuracy


def test_extremes() -> None:
    sure, record = np.linspace(0.5, 1.0, 6), np.arange(6)
    wrong, right = Judged(sure, record, 6, np.zeros(6, bool)), Judged(sure, record, 6, np.ones(6, bool))
    assert estimate_error(wrong, wrong, resamples=5).accuracy[ATC].value == 0.0
    assert estimate_error(right, right, resamples=5).accuracy[ATC].value == 1.0
    single = Judged(sure[:1], record[:1], 1)
    assert np.isnan(estimate_error(right, single, resamples=5).accuracy[ATC].low)


def test_intervals_hold_the_accuracy_of_calibrated_confidences() -> None:
    """How sure the model is means the same on both sides; what the records are does not."""
    generator, held, apart = np.random.default_rng(4), {ATC: 0, DOC: 0}, []
    truth = 2.0 / 3.5  # the mean of beta(2, 1.5)
    for number in range(60):
        reference = judged(200, generator=generator)
        new = judged(150, generator=generator, sharp=0.5)
        found = estimate_error(reference, new, resamples=200, seed=number)
        held[DOC] += found.accuracy[DOC].low <= truth <= found.accuracy[DOC].high
        apart.append(found.drop[ATC].low > 0)
    assert held[DOC] / 60 >= 0.88
    assert np.mean(apart) > 0.8  # the fall from 4 / 5.5 is seen


def test_records_are_drawn_whole() -> None:
    """Words of a sentence that are all alike say no more than one: the interval is as wide as that of sentences."""
    few = judged(60)
    many = Judged(np.repeat(few.confidence, 9), np.repeat(few.record, 9), 60, np.repeat(few.right, 9))  # type: ignore[arg-type]
    one, nine = (estimate_error(each, each, resamples=400).reference for each in (few, many))
    assert (one.low, one.high) == pytest.approx((nine.low, nine.high))
    assert many.of_records() == pytest.approx(few.confidence)
    assert Judged(np.asarray([0.5]), np.asarray([1]), 2).of_records() == pytest.approx([1.0, 0.5])
