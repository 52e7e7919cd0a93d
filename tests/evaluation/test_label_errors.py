"""Wrong labels with what they should be, of records, of sets of classes and of entities."""

import numpy as np
import pytest

from jaxfm.core.labels import LabelledRecord
from jaxfm.data.text.tagging import entity_spans
from jaxfm.evaluation.confident_learning import SELF_CONFIDENCE, find_errors, label_quality
from jaxfm.evaluation.label_errors import (
    MISSING,
    NO_ENTITY,
    OTHER_BOUNDARIES,
    OTHER_CLASS,
    OTHER_ENTITIES,
    OTHER_TYPE,
    changed_regions,
    corrected_tags,
    find_label_errors,
    kind_of,
)

TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def tagged(*tags: str) -> LabelledRecord:
    classes = np.asarray([TAGS.index(tag) for tag in tags], np.int64)
    return LabelledRecord({"tokens": [f"w{n}" for n in range(len(tags))], "ner_tags": list(tags)}, "x:1", classes)


def sure(*tags: str, by: float = 0.9) -> np.ndarray:
    rest = (1 - by) / (len(TAGS) - 1)
    return np.asarray([[by if tag == each else rest for each in TAGS] for tag in tags])


def test_records_are_ranked_and_named() -> None:
    labels = [0] * 10 + [1] * 10
    first = np.asarray([0.9] * 8 + [0.12, 0.1] + [0.1] * 9 + [0.8])
    records = [LabelledRecord({"text": f"t{n}"}, f"f:{n}", np.asarray([own])) for n, own in enumerate(labels)]
    probabilities = [np.asarray([[each, 1 - each]]) for each in first]
    found = find_label_errors("train", records, probabilities, ("no", "yes"), words=False)
    assert [error.record for error in found.errors] == [9, 8, 19] and found.labels == 20 and found.suspect == 3
    worst = found.errors[0]
    assert (worst.origin, worst.kind, worst.given, worst.suggested, worst.classes) == (
        "f:9",
        OTHER_CLASS,
        "no",
        "yes",
        ("yes",),
    )
    assert worst.quality == pytest.approx(0.1) and found.noise == pytest.approx(3 / 20)
    assert found.confusions == (("no", "yes", 2), ("yes", "no", 1))


def test_sets_of_classes() -> None:
    draw = np.random.default_rng(0)
    true = draw.random((60, 2)) < 0.5
    present = true.copy()
    present[3] = [not true[3, 0], true[3, 1]]
    records = [LabelledRecord({"text": "t"}, f"f:{n}", own[None]) for n, own in enumerate(present)]
    probabilities = [np.where(own, 0.9, 0.1)[None] for own in true]
    probabilities[3] = np.where(true[3], 0.95, 0.05)[None]
    found = find_label_errors("train", records, probabilities, ("a", "b"), words=False, score=SELF_CONFIDENCE)
    (error,) = found.errors
    assert error.record == 3 and error.classes == tuple(np.asarray(["a", "b"])[true[3]])
    assert found.labels == 120 and found.suspect == 1 and error.quality < 0.13
    assert {error.given, error.suggested} != {""} and error.given != error.suggested


def test_entities_that_are_wrong_each_in_its_way() -> None:
    rows = [
        (("O", "B-PER", "I-PER", "O"), ("O", "B-LOC", "I-LOC", "O"), OTHER_TYPE, "PER w1 w2", "LOC w1 w2"),
        (("O", "O", "B-LOC", "O"), ("O", "O", "O", "O"), NO_ENTITY, "LOC w2", "(none)"),
        (("O", "O", "O", "O"), ("B-PER", "O", "O", "O"), MISSING, "(none)", "PER w0"),
        (("B-PER", "O", "O", "O"), ("B-PER", "I-PER", "O", "O"), OTHER_BOUNDARIES, "PER w0", "PER w0 w1"),
    ]
    right = [("B-PER", "I-PER", "B-LOC", "I-LOC", "O", "O")] * 8
    records = [tagged(*given) for given, *_ in rows] + [tagged(*tags) for tags in right]
    probabilities = [sure(*true) for _, true, *_ in rows] + [sure(*tags, by=0.85) for tags in right]
    found = find_label_errors("train", records, probabilities, TAGS, words=True)
    by_record = {error.record: error for error in found.errors}
    assert sorted(by_record) == [0, 1, 2, 3] and len(found.errors) == 4
    for number, (given, true, kind, said, suggested) in enumerate(rows):
        error = by_record[number]
        assert (error.kind, error.given, error.suggested) == (kind, said, suggested)
        assert corrected_tags(given, [error]) == list(true)
    labels, flat = np.concatenate([each.classes for each in records]), np.concatenate(probabilities)
    assert found.suspect == find_errors(labels, flat).sum() and found.labels == len(labels)
    assert by_record[0].quality == pytest.approx(label_quality(labels, flat)[1:3].min())


def test_regions_where_entities_differ() -> None:
    given = [(0, 2, "A"), (3, 5, "B"), (8, 9, "C")]
    other = [(0, 2, "A"), (4, 7, "B"), (6 + 4, 12, "C")]
    found = list(changed_regions(given, other))
    assert found == [
        (3, 7, [(3, 5, "B")], [(4, 7, "B")]),
        (8, 9, [(8, 9, "C")], []),
        (10, 12, [], [(10, 12, "C")]),
    ]
    assert not list(changed_regions(given, given)) and not list(changed_regions([], []))
    assert kind_of([(0, 1, "A"), (1, 2, "B")], [(0, 2, "A")]) == OTHER_ENTITIES
    assert kind_of([(0, 1, "A")], [(0, 2, "B")]) == OTHER_ENTITIES


def test_corrections_leave_other_entities() -> None:
    tags = ["B-PER", "O", "B-LOC", "I-LOC", "B-LOC"]
    records, probabilities = [tagged(*tags)], [sure("B-PER", "O", "B-PER", "I-PER", "O")]
    others = [tagged("B-PER", "I-PER", "O", "B-LOC", "I-LOC")] * 6
    found = find_label_errors(
        "train",
        [*records, *others],
        [*probabilities, *[sure("B-PER", "I-PER", "O", "B-LOC", "I-LOC", by=0.8)] * 6],
        TAGS,
        words=True,
    )
    assert entity_spans(corrected_tags(tags, found.errors)) == [(0, 1, "PER"), (2, 4, "PER")]
    assert entity_spans(corrected_tags(tags, found.errors[:1])) != entity_spans(tags)
