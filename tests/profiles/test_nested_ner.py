"""The bound of a flat tagger, against all sets of entities that do not overlap."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.nested_ner import flat_bound, most_apart

spans = st.lists(
    st.tuples(st.integers(0, 8), st.integers(1, 4)).map(lambda each: (each[0], sum(each), "A")), max_size=8
)


@settings(deadline=None)
@given(spans)
def test_the_most_that_do_not_overlap(found: list[tuple[int, int, str]]) -> None:
    def apart(chosen: tuple[tuple[int, int, str], ...]) -> bool:
        return all(one[1] <= other[0] or other[1] <= one[0] for one, other in itertools.combinations(chosen, 2))

    sets = (each for size in range(len(found) + 1) for each in itertools.combinations(found, size) if apart(each))
    assert most_apart(found) == max(map(len, sets))


def test_the_bound_is_the_f1_of_the_best_flat_tags() -> None:
    assert flat_bound([[(0, 3, "A"), (1, 2, "B")], [(0, 1, "A")]]) == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
