"""Labels are flipped as asked, and what is found of them is counted right."""

import numpy as np
import pytest

from jaxfm.core.labels import LabelledRecord
from jaxfm.data.text.tagging import entity_spans
from profiles.label_errors import average_precision, flip, precision_and_recall


def test_classes_are_flipped() -> None:
    records = [LabelledRecord({"text": str(n), "label": "abc"[n % 3]}, "", np.zeros(1, np.int64)) for n in range(100)]
    made, changed = flip(records, 0.07, 0)
    different = [one.row["label"] != other.row["label"] for one, other in zip(made, records, strict=True)]
    assert changed.sum() == 7 and changed.tolist() == different
    assert (flip(records, 0.07, 0)[1] == changed).all() and (flip(records, 0.07, 1)[1] != changed).any()


def test_entities_are_flipped_and_dropped() -> None:
    tags = ["B-PER", "I-PER", "O", "B-LOC"]
    records = [LabelledRecord({"tokens": list("abcd"), "ner_tags": tags}, "", np.zeros(4, np.int64)) for _ in range(20)]
    made, changed = flip(records, 0.2, 0)
    spans = [entity_spans(each.row["ner_tags"]) for each in made]
    assert sum(map(len, spans)) == 40 - 4  # of 8 entities every other one is dropped
    kept = sum(span in [(0, 2, "PER"), (3, 4, "LOC")] for own in spans for span in own)
    assert kept == 40 - 8
    different = [one != other for each in made for one, other in zip(each.row["ner_tags"], tags, strict=True)]
    assert changed.tolist() == different


def test_counts() -> None:
    true = np.asarray([True, False, True, False, False])
    found = np.asarray([True, True, False, False, False])
    assert precision_and_recall(found, true) == {
        "found": 2,
        "precision": 0.5,
        "recall": 0.5,
        "f1": pytest.approx(0.5),
    }
    quality = np.asarray([0.1, 0.2, 0.3, 0.4, 0.5])
    assert average_precision(quality, true) == pytest.approx((1 + 2 / 3) / 2)
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    true, quality = draw.random(50) < 0.3, draw.random(50)
    assert average_precision(quality, true) == pytest.approx(metrics.average_precision_score(true, -quality))
