"""Which candidates may be hard negatives: against the rules written as one condition a candidate."""

import collections
import math

import hypothesis
import pytest
from hypothesis import strategies as st

from jaxfm.data.text.hard_negatives import KNOWN, MARGIN, MAXIMUM, RANK, Rules, candidates
from jaxfm.errors import UserError

SCORES = st.lists(st.integers(-4, 8).map(lambda value: value / 4), max_size=12)
LIMITS = st.sampled_from([None, 0.0, 0.25, 1.0])


@hypothesis.given(
    SCORES,
    st.sets(st.integers(0, 11)),
    st.integers(0, 3),
    st.integers(0, 6),
    LIMITS,
    LIMITS,
    LIMITS,
    st.integers(-4, 8),
)
@hypothesis.settings(deadline=None, max_examples=200)
def test_by_one_condition(
    scores: list[float],
    known: set[int],
    skip: int,
    more: int,
    margin: float | None,
    relative: float | None,
    most: float | None,
    positive: int,
) -> None:
    rules = Rules(1, skip, skip + 1 + more, margin, relative, most)
    scores, right = sorted(scores, reverse=True), positive / 4
    unknown = [number for number in range(len(scores)) if number not in known]
    expected = [
        (number, scores[number])
        for rank, number in enumerate(unknown, start=1)
        if skip < rank <= rules.depth
        and scores[number] <= (math.inf if margin is None else right - margin)
        and scores[number] <= (math.inf if relative is None else right - abs(right) * relative)
        and scores[number] <= (math.inf if most is None else most)
    ]
    dropped: collections.Counter[str] = collections.Counter()
    found = list(candidates(range(len(scores)), scores, right, known, rules, dropped))
    assert found == expected
    looked = min(len(unknown), rules.depth)
    assert sum(dropped.values()) - dropped[KNOWN] + len(found) == looked
    assert dropped[RANK] == min(skip, looked)
    if margin is None and relative is None:
        assert dropped[MARGIN] == 0
    if most is None:
        assert dropped[MAXIMUM] == 0


def test_a_ranking_may_end_early() -> None:
    dropped: collections.Counter[str] = collections.Counter()
    assert list(candidates([4, -1], [1.0, 0.0], 2.0, (), Rules(1, margin=None), dropped)) == [(4, 1.0)]


def test_the_margin_that_is_chosen() -> None:
    assert Rules().settled("cosine").margin == 0.05
    assert Rules(relative_margin=0.1).settled("cosine").margin is None
    assert Rules().settled("dot").margin is None and Rules().settled("bm25").margin is None
    assert Rules(margin=None).settled("cosine").margin is None and Rules(margin=0.2).settled("bm25").margin == 0.2
    assert str(Rules(relative_margin=0.1).settled("dot")) == "--negatives=5 --skip=0 --depth=100 --relative_margin=0.1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"negatives": 0}, "--negatives=0: must be at least 1"),
        ({"skip": -1}, "--skip=-1: must be at least 0"),
        ({"depth": 6, "skip": 2}, r"--depth=6: must be at least --skip \+ --negatives = 7"),
        ({"margin": -0.1}, "--margin=-0.1: must be 0 or more"),
        ({"relative_margin": math.nan}, "--relative_margin=nan: must be 0 or more"),
    ],
)
def test_rules_that_leave_nothing(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rules(**values)  # type: ignore[arg-type]
