"""How much is held out, by how much there is."""

import pytest

from jaxfm.data.records.holdout import holdout_share


@pytest.mark.parametrize(
    ("count", "valid"),
    [(45, 9), (300, 60), (1000, 200), (2000, 200), (4000, 200), (10_000, 500), (100_000, 5000), (10**7, 5000)],
)
def test_a_fifth_of_few_a_twentieth_of_many_and_never_more_than_enough(count: int, valid: int) -> None:
    assert round(holdout_share(None, count) * count) == valid


def test_what_is_asked_for_is_taken() -> None:
    assert holdout_share(0.3, 45) == 0.3 and holdout_share(0.0, 45) == 0.0 and holdout_share(None, 0) == 0.0
