"""Which columns hold a group: explicit ones, usual ones, what is refused."""

import pytest

from jaxfm.data.records.glue import GLUE
from jaxfm.data.records.group_columns import ChosenColumns, GroupColumns, choose_columns
from jaxfm.data.records.table import memory_table
from jaxfm.errors import UserError


def table(*columns):
    return memory_table("x.csv", columns, [])


def choose(names, kind="pairs", label_rule="", glue=None, **columns):
    return choose_columns(table(*names.split()), GroupColumns(**columns), kind, label_rule, glue)


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        ("id query positive", {}, ChosenColumns("query", "positive")),
        ("a b", {"anchor": "a", "positive": "b"}, ChosenColumns("a", "b")),
        ("question answer context", {"positive": "context"}, ChosenColumns("question", "context")),
        ("query x passage", {"anchor": "x"}, ChosenColumns("x", "passage")),
        ("query positive Negative_2 negative_1", {}, ChosenColumns("query", "positive", ("negative_1", "Negative_2"))),
        ("query positive x y", {"negatives": "y, x"}, ChosenColumns("query", "positive", ("y", "x"))),
        ("query positive label", {}, ChosenColumns("query", "positive")),  # its name says what it is
        ("premise hypothesis label", {"label_rule": "nli"}, ChosenColumns("premise", "hypothesis", label="label")),
        ("text pair score", {"kind": "scored"}, ChosenColumns("text", "pair", scores=("score",))),
        ("query passages scores", {"kind": "teacher"}, ChosenColumns("query", "passages", scores=("scores",))),
        (
            "query pos neg neg_scores pos_scores",
            {"kind": "teacher"},
            ChosenColumns("query", "pos", ("neg",), ("pos_scores", "neg_scores")),
        ),
        (
            "sentence1 sentence2 label idx",
            {"kind": "scored", "glue": GLUE["stsb"]},
            ChosenColumns("sentence1", "sentence2", scores=("label",)),
        ),
    ],
)
def test_columns_found(names, options, expected):
    assert choose(names, **options) == expected


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("text1 text2 score", {}, "'score' beside them"),
        ("query answer label", {"anchor": "query", "positive": "answer"}, "'label' beside them"),
        ("text1 text2 score label", {"kind": "scored"}, "'score' and 'label' could both be the label"),
        ("a b c", {"kind": "scored", "anchor": "a", "positive": "b", "scores": "a"}, "'a' is to be read as two things"),
        ("text1 text2 a b", {"kind": "scored", "scores": "a,b"}, "a pair has one score"),
        ("a b", {"anchor": "a"}, "no column for the pair"),
        ("premise hypothesis", {"label_rule": "nli"}, "no column for the label"),
    ],
)
def test_columns_refused(names, options, message):
    with pytest.raises(UserError, match=message):
        choose(names, **options)


def test_a_table_may_lack_negatives_but_no_text():
    chosen = ChosenColumns("query", "positive", ("negative",))
    assert chosen.present_in(table("query", "positive")) == ChosenColumns("query", "positive")
    with pytest.raises(UserError, match="no column 'positive'"):
        chosen.present_in(table("query", "negative"))
