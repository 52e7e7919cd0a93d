"""Methods beside random orders: means, paired tests, what is left out."""

import numpy as np
import pytest

from jaxfm.evaluation.faithfulness import RANDOM, faithfulness_table, measure, to_values
from jaxfm.observe.tables import to_plain


def test_a_method_is_compared_record_by_record() -> None:
    draw = np.random.default_rng(0)
    random_N2 = draw.normal(0.1, 0.05, (40, 2))
    better_N2 = random_N2 + np.asarray([0.05, -0.05]) + draw.normal(0, 0.02, (40, 2))
    same_N2 = random_N2 + draw.normal(0, 0.02, (40, 2))
    missing = np.full((1, 2), np.nan)  # a record without anything to explain
    found = measure(
        {
            "better": np.concatenate([better_N2, missing]),
            RANDOM: np.concatenate([random_N2, missing]),
            "same": np.concatenate([same_N2, missing]),
        }
    )
    assert list(found) == [RANDOM, "better", "same"]
    assert found["better"].better and not found["same"].better and not found[RANDOM].better
    for name, values_N2 in (("better", better_N2), (RANDOM, random_N2)):
        means = [found[name].intervals[score].value for score in ("comprehensiveness", "sufficiency")]
        np.testing.assert_allclose(means, values_N2.mean(axis=0))
        for mean, interval in zip(means, found[name].intervals.values(), strict=True):
            assert interval.low < mean < interval.high
    against = found["better"].against_random
    assert against is not None and against["sufficiency"].p < 0.01
    assert against["comprehensiveness"].interval.value == pytest.approx((better_N2 - random_N2)[:, 0].mean())
    assert found["same"].against_random is not None and found["same"].against_random["sufficiency"].p > 0.01


def test_worse_than_random_is_not_better() -> None:
    random_N2 = np.random.default_rng(0).normal(0.1, 0.05, (40, 2))
    found = measure({RANDOM: random_N2, "worse": random_N2 + np.asarray([-0.05, 0.05])})
    assert not found["worse"].better
    text = to_plain(faithfulness_table(found, 40))
    assert "Faithfulness, 40 records" in text and "worse" in text
    values = to_values(found)
    assert "against_random" not in values[RANDOM]["sufficiency"]
    assert values["worse"]["sufficiency"]["against_random"]["difference"] == pytest.approx(0.05)
