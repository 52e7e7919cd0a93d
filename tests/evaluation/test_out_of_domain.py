"""Out-of-domain detection beside scikit-learn, scipy and closed forms."""

import numpy as np
import pytest
from scipy import special
from scipy.spatial.distance import mahalanobis

from jaxfm.evaluation.out_of_domain import (
    Gaussians,
    detect,
    detection_table,
    energy_scores,
    probability_scores,
    shrunk_covariance,
)

GENERATOR = np.random.default_rng(3)


def test_energy_is_log_sum_exp() -> None:
    logits = [GENERATOR.standard_normal((n, 4)) * 30 for n in (1, 3)]
    expected = [np.mean(special.logsumexp(each, axis=-1)) for each in logits]
    assert energy_scores(logits, "softmax") == pytest.approx(np.asarray(expected))
    of_labels = [np.log1p(np.exp(each / 10)).sum(axis=-1).mean() for each in logits]
    assert energy_scores([each / 10 for each in logits], "sigmoid") == pytest.approx(np.asarray(of_labels))
    assert energy_scores([np.zeros((1, 5))], "softmax") == pytest.approx(np.log(5))


def test_probability_is_that_of_the_likeliest() -> None:
    logits = [GENERATOR.standard_normal((n, 4)) for n in (1, 3)]
    expected = [special.softmax(each, axis=-1).max(axis=-1).mean() for each in logits]
    assert probability_scores(logits, "softmax") == pytest.approx(np.asarray(expected))
    expected = [special.expit(each).max(axis=-1).mean() for each in logits]
    assert probability_scores(logits, "sigmoid") == pytest.approx(np.asarray(expected))


@pytest.mark.parametrize("count", [6, 30, 500])
def test_the_covariance_is_shrunk_as_scikit_learn_does(count: int) -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    vectors = GENERATOR.standard_normal((count, 8)) @ GENERATOR.standard_normal((8, 8))
    vectors -= vectors.mean(axis=0)
    expected, shrinkage = covariance.ledoit_wolf(vectors, assume_centered=True)
    assert 0 < shrinkage < 1
    assert shrunk_covariance(vectors) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_distances_are_those_of_scipy() -> None:
    vectors, classes = GENERATOR.standard_normal((60, 5)), np.repeat([7, 2, 4], 20)
    vectors[classes == 2] += 4
    asked = GENERATOR.standard_normal((9, 5)) * 3
    fitted = Gaussians.fit(vectors, classes)
    means = [vectors[classes == each].mean(axis=0) for each in (2, 4, 7)]
    within = np.concatenate([vectors[classes == each] - mean for each, mean in zip((2, 4, 7), means, strict=True)])
    precision = np.linalg.inv(shrunk_covariance(within))
    expected = [-min(mahalanobis(each, mean, precision) ** 2 for mean in means) for each in asked]
    assert fitted.scores(asked) == pytest.approx(np.asarray(expected))
    one = Gaussians.fit(vectors, None)
    assert one.means.shape == (1, 5) and one.means[0] == pytest.approx(vectors.mean(axis=0))


def test_fewer_vectors_than_numbers_still_have_distances() -> None:
    fitted = Gaussians.fit(GENERATOR.standard_normal((4, 30)), None)
    assert np.isfinite(fitted.scores(GENERATOR.standard_normal((3, 30)))).all()
    assert np.isfinite(Gaussians.fit(np.ones((4, 3)), None).scores(np.ones((2, 3)))).all()


def test_auroc_and_false_positives_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    inside, outside = GENERATOR.normal(1, 1, 200).round(1), GENERATOR.normal(0, 1, 150).round(1)  # with ties
    found = detect("energy", inside, outside, "there")
    truth, scores = np.repeat([1, 0], [200, 150]), np.concatenate([inside, outside])
    assert found.auroc.value == pytest.approx(metrics.roc_auc_score(truth, scores))
    false, true, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert found.false_positives.value == pytest.approx(false[np.argmax(true >= 0.95 - 1e-12)])
    assert found.auroc.low < found.auroc.value < found.auroc.high
    assert (found.inside, found.outside) == (200, 150)
    assert "200 records of the split against 150 of there" in detection_table([found]).title


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = special.ndtr(1 / np.sqrt(2))  # two normal distributions one deviation apart
    generator, held = np.random.default_rng(0), 0
    for _ in range(150):
        found = detect("score", generator.normal(1, 1, 80), generator.normal(0, 1, 60), "x", resamples=200).auroc
        held += found.low <= truth <= found.high
    assert 0.88 <= held / 150 <= 1.0


def test_the_extremes() -> None:
    apart = detect("score", np.arange(5.0) + 10, np.arange(4.0), "x")
    assert (apart.auroc.value, apart.false_positives.value) == (1.0, 0.0)
    same = detect("score", np.ones(5), np.ones(4), "x")
    assert (same.auroc.value, same.false_positives.value) == (0.5, 1.0)
    single = detect("score", np.ones(1), np.zeros(4), "x")
    assert np.isnan(single.auroc.low) and single.auroc.value == 1.0
