"""Secrets and members: what is drawn, ranks, areas and p-values beside other libraries."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxfm.evaluation.memorisation import exposure_of, known_by_heart, membership, parse_secret


def test_a_secret_is_what_double_brackets_hold() -> None:
    found = parse_secret("the code of Ada is [[aB-47]].", "f:1")
    assert (found.text, found.characters) == ("the code of Ada is aB-47.", "aB-47")
    others = found.others(300, 0)
    assert len(set(others)) == 300 and found.text not in others and others == found.others(300, 0)
    for each in others:
        secret = each.removeprefix("the code of Ada is ").removesuffix(".")
        assert len(secret) == 5 and secret[0].islower() and secret[1].isupper() and secret[2] == "-"
        assert secret[3:].isdigit()
    assert len(parse_secret("[[7]]", "f:1").others(300, 0)) == 9


@pytest.mark.parametrize(
    ("line", "message"), [("no secret", "has 0 parts"), ("[[a]] [[b]]", "has 2 parts"), ("[[--]]", "no letter")]
)
def test_lines_without_a_secret(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_secret(line, "f:1")


def test_exposure_and_which_are_known() -> None:
    secret = parse_secret("[[47]]", "f:1")
    best = exposure_of(secret, -1.0, [-2.0] * 199)
    assert (best.rank, best.candidates, best.p) == (1, 200, 0.005) and best.exposure == pytest.approx(math.log2(200))
    tied = exposure_of(secret, -1.0, [-1.0, -0.5, -3.0])
    assert tied.rank == 3
    usual = exposure_of(secret, -1.0, [-0.5] * 100 + [-2.0] * 99)
    # Holm: 0.005 x 3 < 0.05, then 0.02 x 2 < 0.05, then 0.505.
    second = exposure_of(secret, -1.0, [-0.5] * 3 + [-2.0] * 196)
    assert known_by_heart([usual, best, second]) == [False, True, True]
    assert known_by_heart([second] * 3) == [False] * 3


def test_the_area_is_that_of_another_library() -> None:
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    members, others = draw.normal(size=80).round(1), draw.normal(size=60).round(1) + 0.8
    labels = [1] * 80 + [0] * 60
    found = membership(members, others)
    assert found.area.value == pytest.approx(roc_auc_score(labels, -np.concatenate([members, others])))
    assert found.area.low < found.area.value < found.area.high and found.area.low > 0.5
    assert found.p == pytest.approx(stats.mannwhitneyu(members, others, alternative="less").pvalue)
    assert found.caught == (members < others.min()).mean()


def test_texts_alike_are_not_told_apart() -> None:
    draw = np.random.default_rng(1)
    found = membership(draw.normal(size=200), draw.normal(size=150))
    assert found.area.low < 0.5 < found.area.high and found.p > 0.05
