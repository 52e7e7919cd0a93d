"""Balance, and names that look alike."""

import collections

from jaxfm.tasks.label_checks import check_balance, check_names
from jaxfm.tasks.text_checks import LabelCounts


def counts(labels: dict[str, int]) -> dict[str, LabelCounts]:
    return {"train": LabelCounts(collections.Counter(labels), {})}


def test_an_imbalance_names_the_metric_and_the_weights() -> None:
    found = check_balance({"pos": 50, "neg": 47, "mixed": 3}, 100, "single")
    assert found.message == "'pos' has 50 of 100 training examples, 'mixed' has 3"
    assert found.level == "warning" and "macro_f1" in found.fix and "class_weights=balanced" in found.fix
    assert check_balance({"pos": 60, "neg": 40}, 100, "single").level == "ok"


def test_names_that_differ_in_writing_alone() -> None:
    found = check_names(counts({"Pos": 40, "pos ": 2, "neg": 40, "not-sure": 5, "not sure": 1}))
    assert found.level == "warning"
    assert found.examples == ("'Pos' (40), 'pos ' (2)", "'not-sure' (5), 'not sure' (1)")


def test_a_slip_of_the_pen_is_rare_and_alike() -> None:
    assert check_names(counts({"positive": 400, "postive": 2, "negative": 300})).examples == (
        "'positive' (400), 'postive' (2)",
    )
    # As frequent, too short, or told apart by a number: another class.
    for labels in ({"positive": 40, "postive": 20}, {"pos": 400, "po": 1}, {"class 10": 400, "class 11": 1}):
        assert check_names(counts(labels)).level == "ok", labels
