"""Cells of a group: lists of texts, margins and scores, labels of pairs."""

import math

import numpy as np
import pytest

from jaxfm.data.records.group_forms import NEGATIVE, NEITHER, POSITIVE, role_of, scores_of, teacher_scores, texts_of
from jaxfm.errors import UserError


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a", (["a"], False)),
        (None, ([], False)),
        (["a", None], (["a", ""], True)),
        ("['a', \"b\"]", (["a", "b"], True)),
        ("[sic] a", (["[sic] a"], False)),
        ("[1, 2]", (["[1, 2]"], False)),
    ],
)
def test_texts_of_a_cell(value, texts):
    assert texts_of(value, "c", "f:1") == texts


def test_scores_of_a_cell():
    assert scores_of("[1, 2.5]", "c", "f:1") == [1.0, 2.5] and scores_of(3, "c", "f:1") == [3.0]
    for bad in (math.nan, "x", [1, None], "[1, inf]"):
        with pytest.raises(UserError, match=r"^f:1: .* is not a score"):
            scores_of(bad, "c", "f:1")


def test_margins_become_scores_with_the_same_differences_and_softmax():
    scores = np.array([7.0, 4.0, 9.0])
    margins = scores[0] - scores[1:]
    found = np.array(teacher_scores(list(margins), 3, False, "c", "f:1"))
    np.testing.assert_allclose(found - found[0], scores - scores[0])
    np.testing.assert_allclose(np.exp(found) / np.exp(found).sum(), np.exp(scores) / np.exp(scores).sum())
    assert teacher_scores(list(scores), 3, True, "c", "f:1") == tuple(scores)
    with pytest.raises(UserError, match="f:1: 2 numbers in c do not fit 3 passages: there must be 3"):
        teacher_scores(list(margins), 3, True, "c", "f:1")


@pytest.mark.parametrize(
    ("value", "rule", "names", "role"),
    [
        ("Entailment", "nli", None, POSITIVE),
        ("-", "nli", None, NEITHER),
        (2, "nli", ["entailment", "neutral", "contradiction"], NEGATIVE),
        (-1, "nli", ["entailment", "neutral", "contradiction"], NEITHER),
        (None, "binary", None, NEITHER),
        (True, "binary", None, POSITIVE),
        ("0", "binary", None, NEGATIVE),
        (1.0, "binary", None, POSITIVE),
    ],
)
def test_labels_of_pairs(value, rule, names, role):
    assert role_of(value, rule, names, "label", "f:1") == role


@pytest.mark.parametrize(
    ("value", "rule", "hint"),
    [("entailmnt", "nli", "Did you mean 'entailment'"), (2, "nli", "needs names"), (3, "binary", "Valid choices")],
)
def test_labels_that_no_rule_knows(value, rule, hint):
    with pytest.raises(UserError, match=f"^f:1: .*{rule} knows. .*{hint}"):
        role_of(value, rule, None, "label", "f:1")
