"""Scores of relations against a slow version of the official scorer of SemEval-2010 task 8, and of TACRED's."""

import collections
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm.evaluation.relations import METRICS, relations_of, score_relations, split_direction

NAMES = ("Cause-Effect", "Component-Whole", "Message-Topic")
LABELS = (*(f"{name}({way})" for name in NAMES for way in ("e1,e2", "e2,e1")), "Other")


def official(gold: list[str], predicted: list[str]) -> dict[str, float]:
    """The (9+1)-way evaluation with direction, step by step as the published scorer does it (version 1.2).

    It counts a pair of the right relation and the wrong direction under a class WRONG_DIR of its own, adds these to the
    denominator of precision, and takes the means over the relations of the answer key without Other.
    """
    confusion: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    proposed: collections.Counter[str] = collections.Counter()
    answer: collections.Counter[str] = collections.Counter()
    for key, found in zip(gold, predicted, strict=True):
        key_name, found_name = (re.sub(r"\(e[12],e[12]\)$", "", label) for label in (key, found))
        answer[key_name] += 1
        row = "WRONG_DIR" if found_name == key_name and found != key else found_name
        confusion[row][key_name] += 1
        proposed[row] += 1
    sums = collections.Counter()
    for name in sorted(answer):
        if name == "Other":
            continue
        wrong_direction, right = confusion["WRONG_DIR"][name], confusion[name][name]
        precision = right / (proposed[name] + wrong_direction) if proposed[name] else 0.0
        recall = right / answer[name]
        sums["p"] += precision
        sums["r"] += recall
        sums["f"] += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    count = len(answer) - ("Other" in answer)
    return {f"macro_{name}": sums[name[0]] / count for name in ("precision", "recall", "f1")}


def tacred(gold: list[str], predicted: list[str], negative: str) -> dict[str, float]:
    """TACRED's scorer: everything but the negative class, all relations together."""
    right = sum(g == p != negative for g, p in zip(gold, predicted, strict=True))
    guessed, true = (sum(label != negative for label in labels) for labels in (predicted, gold))
    precision, recall = right / guessed if guessed else 0.0, right / true if true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"micro_precision": precision, "micro_recall": recall, "micro_f1": f1}


def scores(gold: list[str], predicted: list[str], labels: tuple[str, ...] = LABELS, negative: str = "Other") -> dict:
    places = [labels.index(label) for label in predicted]
    found = score_relations(
        np.asarray([labels.index(each) for each in gold]), np.eye(len(labels))[places], labels, negative
    )
    return found.metrics


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=60))
def test_the_official_scores(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs] + [LABELS[0]], [p for _, p in pairs] + [LABELS[0]]
    found = scores(gold, predicted)
    expected = official(gold, predicted) | tacred(gold, predicted, "Other")
    assert {name: found[name] for name in METRICS} == pytest.approx({name: expected[name] for name in METRICS})
    assert found["accuracy"] == pytest.approx(np.mean([g == p for g, p in pairs] + [True]))


def test_a_wrong_direction_costs_precision_and_recall() -> None:
    gold = [LABELS[0], LABELS[0], LABELS[1], "Other"]
    right, turned = scores(gold, gold), scores(gold, [LABELS[0], LABELS[1], LABELS[1], "Other"])
    assert right["macro_f1"] == 1.0
    # 2 of 3 found, and of 3 said: not 2 of 2 said, as if the direction did not matter.
    assert turned["macro_precision"] == turned["macro_recall"] == turned["macro_f1"] == pytest.approx(2 / 3)


def test_the_negative_class_counts_in_accuracy_alone() -> None:
    gold, predicted = ["Other"] * 3 + [LABELS[0]], ["Other"] * 3 + [LABELS[0]]
    assert scores(gold, predicted)["macro_f1"] == scores(gold, predicted)["micro_f1"] == 1.0
    missed = scores(gold, ["Other"] * 4)
    assert missed["accuracy"] == 0.75 and missed["macro_f1"] == missed["micro_f1"] == 0.0
    everything = scores(gold, predicted, negative="")
    assert everything["micro_f1"] == everything["accuracy"] == 1.0
    assert scores(gold, ["Other"] * 4, negative="")["macro_f1"] == pytest.approx((2 * 3 / 7) / 2)


def test_rounds_weigh_pairs_as_often_as_they_are_drawn() -> None:
    draw = np.random.default_rng(0)
    gold, predicted = (draw.integers(0, len(LABELS), 80) for _ in range(2))
    predicted = np.where(draw.random(80) < 0.5, gold, predicted)
    found = score_relations(gold, np.eye(len(LABELS))[predicted], LABELS, "Other")
    index = draw.integers(0, 80, 80)
    drawn = found.bootstrap_data.metrics(index)
    again = scores([LABELS[place] for place in gold[index]], [LABELS[place] for place in predicted[index]])
    assert drawn == pytest.approx(again) and drawn != pytest.approx(found.metrics)


def test_tables_and_detail() -> None:
    gold = np.asarray([0, 1, 2, 6])
    found = score_relations(gold, np.eye(7)[[0, 0, 2, 4]], LABELS, "Other", loss_N=np.asarray([1.0, 2.0, 3.0, 6.0]))
    relations, classes = found.tables[:2]
    assert relations.title == "Relations, direction taken into account, without Other"
    assert [row[0] for row in relations.rows] == ["Cause-Effect", "Component-Whole", "micro average", "macro average"]
    assert relations.rows[0][1:] == (0.5, 0.5, 0.5, 2) and relations.rows[2][1] == pytest.approx(2 / 4)
    assert classes.title == "Classes" and found.metrics["loss"] == 3.0
    assert found.detail["negative"] == "Other" and found.detail["per_relation"]["Component-Whole"]["f1"] == 1.0
    assert np.asarray(found.detail["confusion"]).shape == (7, 7)


def test_directions_of_classes() -> None:
    assert split_direction("Cause-Effect(e1,e2)") == ("Cause-Effect", False)
    assert split_direction("Cause-Effect(e2,e1)") == ("Cause-Effect", True)
    for label in ("Other", "per:title", "x(e1,e1)", "(e1,e2)"):
        assert split_direction(label) == (label, None)
    assert relations_of(LABELS, "Other") == sorted(NAMES)
    assert relations_of(list(itertools.chain(LABELS, ["Other"])), "") == sorted((*NAMES, "Other"))
