"""The table of rounds, and which of them is kept."""

import pathlib

from jaxfm.programs.self_train_rounds import Round, best_round, class_table, table

FACTS = {"labelled": 10, "pseudo_labelled": 5, "pool": 20, "mean_confidence": 0.95, "agreement": None}


def rounds(*scores: float) -> list[Round]:
    return [
        Round(
            number,
            pathlib.Path(f"round_{number}"),
            {} if number == 0 else {**FACTS, "classes": {"a": number, "b": 2}},
            {"splits": {"valid": {"f1": score, "loss": 1 - score}, "test": {"f1": score / 2}}},
        )
        for number, score in enumerate(scores)
    ]


def test_the_best_by_its_direction_and_the_first_of_equals() -> None:
    found = rounds(0.5, 0.7, 0.7, float("nan"))
    assert best_round(found, "f1", more_is_better=True).number == 1
    assert best_round(found, "loss", more_is_better=False).number == 1
    assert best_round(rounds(0.7, 0.5), "f1", more_is_better=True).number == 0


def test_tables() -> None:
    made = table(rounds(0.5, 0.7), "f1", 1)
    assert made.columns[-3:] == ("f1 on valid", "f1 on test", "")
    assert made.rows[0] == (0, None, None, None, None, None, 0.5, 0.25, "")
    assert made.rows[1] == (1, 10, 5, 0.25, 0.95, None, 0.7, 0.35, "kept")
    classes = class_table(rounds(0.5, 0.7, 0.6))
    assert classes.columns == ("round", "a", "b") and classes.rows == [(1, 1, 2), (2, 2, 2)]
