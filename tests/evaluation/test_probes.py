"""Probes on made vectors: what can be told apart is, whatever the length of the vectors, and chance is chance."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the library of probes: pip install scikit-learn")

from jaxfm.evaluation import bootstrap
from jaxfm.evaluation.probes import METRICS, STRENGTHS, cluster, fit_majority, fit_probe

LABELS = ("cat", "dog", "eel")


def drawn(count: int, seed: int, apart: float) -> tuple[np.ndarray, list[str]]:
    """Vectors of 8 numbers around a centre for each label."""
    draw = np.random.default_rng(seed)
    numbers = draw.integers(0, len(LABELS), count)
    vectors = draw.normal(size=(count, 8)) + apart * np.eye(8)[numbers]
    return vectors.astype(np.float32), [LABELS[number] for number in numbers]


def test_labels_that_lie_apart_are_found_and_others_are_chance() -> None:
    found = {}
    for apart in (0.0, 20.0):
        train, test = drawn(120, 0, apart), drawn(90, 1, apart)
        probe = fit_probe(*train, *test, identity=range(90))
        assert probe.converged and probe.strength in STRENGTHS and set(probe.intervals) == set(METRICS)
        found[apart] = probe.intervals["accuracy"]
    assert found[20.0].value == 1.0 and found[20.0].low > 0.9
    assert found[0.0].value < 0.55 and found[0.0].low < 1 / 3 < found[0.0].high


def test_accuracy_and_macro_f1_are_those_of_the_library() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    train, test = drawn(40, 2, 2.0), drawn(60, 3, 2.0)  # too few texts to hold some out
    probe = fit_probe(*train, *test, identity=range(60))
    scale = np.sqrt((train[0].astype(np.float64) ** 2).mean())
    model = LogisticRegression(C=STRENGTHS[2], max_iter=2000).fit(train[0] / scale, train[1])
    predicted = model.predict(test[0] / scale)
    assert probe.intervals["accuracy"].value == pytest.approx(np.mean(predicted == np.asarray(test[1])))
    assert probe.intervals["macro_f1"].value == pytest.approx(f1_score(test[1], predicted, average="macro"))


@pytest.mark.parametrize("count", [40, 200])
def test_the_length_of_vectors_changes_nothing(count: int) -> None:
    (train, known), (test, gold) = drawn(count, 4, 1.5), drawn(50, 5, 1.5)
    one = fit_probe(train, known, test, gold, identity=range(50))
    other = fit_probe(1000 * train, known, 1000 * test, gold, identity=range(50))
    assert one.strength == other.strength
    same = bootstrap.compare(one.data, other.data).differences
    assert all(same[name].interval.value == pytest.approx(0, abs=1e-12) for name in METRICS)


def test_a_label_that_train_does_not_have_is_always_wrong() -> None:
    (train, known), (test, gold) = drawn(60, 6, 20.0), drawn(40, 7, 20.0)
    gold = ["fox" if number < 10 else label for number, label in enumerate(gold)]
    probe = fit_probe(train, known, test, gold, identity=range(40))
    assert probe.intervals["accuracy"].value == pytest.approx(30 / 40)
    assert probe.data.classes == ("cat", "dog", "eel", "fox")


def test_the_most_frequent_label_of_train() -> None:
    probe = fit_majority(["b", "a", "b"], ["a", "b", "b", "c"], identity=range(4))
    assert probe.intervals["accuracy"].value == 0.5
    assert probe.intervals["macro_f1"].value == pytest.approx((0 + 2 / 3 + 0) / 3)


def test_clusters() -> None:
    vectors, labels = drawn(60, 8, 50.0)
    found = cluster(vectors, labels, seeds=4)
    assert found["v_measure"].mean > 0.7 and found["adjusted_rand"].mean > 0.6
    chance = cluster(drawn(60, 8, 0.0)[0], labels, seeds=4)
    assert abs(chance["adjusted_rand"].mean) < 0.15 and chance["v_measure"].mean < 0.2
    assert cluster(vectors, labels, seeds=4) == found, "the seeds alone decide"
    with pytest.raises(ValueError, match="fewer different vectors than the 3 labels"):
        cluster(np.ones((60, 8), np.float32), labels)
