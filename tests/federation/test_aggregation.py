"""Updates combined, against NumPy and by hand; poison that a mean takes in and a median does not."""

import numpy as np
import pytest
import scipy.stats

from jaxfm.errors import UserError
from jaxfm.federation.aggregation import Aggregation, combine, combine_controls, trimmed
from jaxfm.federation.update import Update


def updates(count: int, seed: int = 0) -> list[Update]:
    rng = np.random.default_rng(seed)

    def values() -> dict[str, np.ndarray]:
        return {"a": rng.standard_normal((3, 2)).astype(np.float32), "b/c": rng.standard_normal(4).astype(np.float32)}

    return [Update(client, values(), 10 * (client + 1), 1, {}, control=values()) for client in range(count)]


def test_a_mean_counts_examples() -> None:
    sent = updates(4)
    weights = [each.examples for each in sent]
    for path, value in combine(sent).items():
        expected = np.average([each.difference[path] for each in sent], axis=0, weights=weights)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert value.dtype == np.float32


def test_controls_count_alike() -> None:
    sent = updates(3)
    for path, value in combine_controls(sent).items():
        expected = np.mean([each.control[path] for each in sent if each.control], axis=0, dtype=np.float64)
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("count", [3, 4])
def test_a_median_is_that_of_each_coordinate(count: int) -> None:
    sent = updates(count)
    for path, value in combine(sent, Aggregation("median")).items():
        np.testing.assert_array_equal(value, np.median([each.difference[path] for each in sent], axis=0))


@pytest.mark.parametrize(("count", "trim"), [(5, 0.2), (10, 0.1), (10, 0.25), (7, 0.0)])
def test_a_trimmed_mean_is_scipys(count: int, trim: float) -> None:
    sent = updates(count)
    cut = trimmed(count, trim)
    for path, value in combine(sent, Aggregation("trimmed_mean", trim)).items():
        stacked = np.stack([each.difference[path] for each in sent]).astype(np.float64)
        # scipy rounds the number that it cuts down, so it is given the exact share.
        np.testing.assert_allclose(value, scipy.stats.trim_mean(stacked, cut / count + 1e-9, axis=0), rtol=1e-6)


def test_trimming_rounds_up_and_leaves_one() -> None:
    assert [trimmed(10, share) for share in (0.0, 0.05, 0.1, 0.11, 0.49)] == [0, 1, 1, 2, 4]
    assert [trimmed(clients, 0.4) for clients in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]


def test_the_order_of_arrival_changes_no_bit() -> None:
    sent = updates(7)
    for how in (Aggregation(), Aggregation("trimmed_mean"), Aggregation("median")):
        one, other = combine(sent, how), combine(sent[::-1], how)
        assert all(np.array_equal(one[path], other[path]) for path in one)


def test_one_flipped_client_moves_the_mean_and_not_the_median() -> None:
    rng = np.random.default_rng(1)
    honest = [Update(i, {"a": (1 + 0.1 * rng.standard_normal(50)).astype(np.float32)}, 10, 1, {}) for i in range(5)]
    poisoned = [*honest[:-1], Update(4, {"a": -10 * honest[-1].difference["a"]}, 10, 1, {})]
    assert combine(poisoned)["a"].mean() < -0.5
    for rule in ("median", "trimmed_mean"):
        assert abs(combine(poisoned, Aggregation(rule, 0.2))["a"].mean() - 1) < 0.1


def test_what_cannot_be_combined_is_refused() -> None:
    one, two = updates(2)
    with pytest.raises(UserError, match="without an update"):
        combine([])
    with pytest.raises(UserError, match="client 0: sent two updates"):
        combine([one, one])
    with pytest.raises(UserError, match="client 1: its update has other parameters than that of client 0"):
        combine([one, Update(1, {"a": two.difference["a"]}, 1, 1, {})])
    broken = {**two.difference, "a": np.full((3, 2), np.nan, np.float32)}
    with pytest.raises(UserError, match="client 1: its update of a has values that are not finite"):
        combine([one, Update(1, broken, 1, 1, {})])
    with pytest.raises(UserError, match="trains on 0 examples"):
        combine([Update(1, two.difference, 0, 1, {})])
    with pytest.raises(UserError, match="--aggregate=medain: is no rule. Did you mean 'median'"):
        Aggregation("medain")
    with pytest.raises(UserError, match="--trim=0.5"):
        Aggregation("trimmed_mean", 0.5)
