import dataclasses
import importlib.util
import itertools
import math
import sys

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation import privacy
from jaxfm.federation.privacy import GaussianMechanism, Privacy, read_privacy
from jaxfm.training.privacy_accounting import noise_for

needs_accountant = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None, reason="needs the extra `privacy`: dp-accounting"
)


@needs_accountant
def test_a_mechanism_of_a_budget_and_what_it_has_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(noise_for.__kwdefaults__, "accountant", "rdp")  # the search by PLD is slow
    mechanism = privacy.make_mechanism(
        Privacy(clip_norm=0.5, delta=1e-2, epsilon=8.0), clients=20, rate=0.5, rounds=10, seed=3
    )
    done = privacy.spent(mechanism, 10, 1e-2)
    assert done.epsilon <= done.epsilon_rdp <= 8.0 and privacy.spent(mechanism, 5, 1e-2).epsilon < done.epsilon
    assert done.to_json()["unit"] == "client" and done.to_json()["rounds"] == 10
    assert "at delta 0.01 a client" in str(done) and "10 rounds" in str(done)
    given = privacy.make_mechanism(Privacy(0.5, 1e-2, noise=1.3), clients=20, rate=0.5, rounds=10, seed=3)
    assert given == GaussianMechanism(0.5, 1.3, 0.5, 20, 3) and given.denominator == 10


def test_budgets_that_cannot_be_kept_are_refused() -> None:
    asked = Privacy(clip_norm=1.0, delta=0.06, epsilon=8.0)
    with pytest.raises(UserError, match="delta must be below one divided by the number of clients, 0.05"):
        privacy.make_mechanism(asked, clients=20, rate=0.5, rounds=10, seed=0)
    with pytest.raises(UserError, match="the share of clients of a round must be above 0"):
        privacy.make_mechanism(asked, clients=10, rate=0.0, rounds=10, seed=0)


def test_without_the_accountant_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(UserError, match="needs the package dp_accounting: pip install 'jaxfm-encoders.privacy.'"):
        privacy.make_mechanism(Privacy(1.0, 0.01, noise=1.0), clients=10, rate=0.5, rounds=1, seed=0)


def test_clipping_is_that_of_all_arrays_together() -> None:
    difference = {"a": np.full((2, 2), 3.0, np.float32), "b": np.array([8.0], np.float32)}
    assert privacy.global_norm(difference) == 10.0
    small = privacy.clipped(difference, 2.0)
    np.testing.assert_allclose(small["a"], np.full((2, 2), 0.6), rtol=1e-9)
    np.testing.assert_allclose(small["b"], [1.6], rtol=1e-9)
    assert privacy.global_norm(small) <= 2.0
    np.testing.assert_array_equal(privacy.clipped(difference, 10.0)["a"], difference["a"])
    for bad in (np.nan, np.inf):
        zeros = privacy.clipped({**difference, "b": np.array([bad])}, 2.0)
        assert privacy.global_norm(zeros) == 0.0 and zeros["a"].shape == (2, 2)


def test_the_bound_holds_for_every_size_of_update() -> None:
    generator = np.random.default_rng(0)
    for size, scale in itertools.product((1, 7, 1000), (1e-30, 1e-3, 1.0, 1e20)):
        difference = {"w": (scale * generator.normal(size=size)).astype(np.float32)}
        assert privacy.global_norm(privacy.clipped(difference, 0.37)) <= 0.37


def test_the_mean_is_the_clipped_sum_over_a_fixed_denominator_with_noise_as_asked_for() -> None:
    shapes = {"w": (300, 200), "b": (40_000,)}
    updates = [{name: np.full(shape, value) for name, shape in shapes.items()} for value in (1e-5, -2.0, 5.0)]
    mechanism = GaussianMechanism(clip_norm=0.5, noise=1.7, rate=0.25, clients=40, seed=11)
    mean = mechanism.mean(updates, shapes, 4)
    size = math.sqrt(100_000)
    signal = (1e-5 - 0.5 / size + 0.5 / size) / 10
    numbers = np.concatenate([mean[name].ravel() for name in mean])
    deviation = 1.7 * 0.5 / 10  # multiplier * clip_norm / denominator; not again divided by anything
    # 100,000 draws: the deviation to 0.22 %, the mean to 0.32 % of it; the bounds are five of these.
    assert numbers.std() == pytest.approx(deviation, rel=0.011)
    assert abs(numbers.mean() - signal) < 0.016 * deviation
    # Normal: shares within one and two deviations.
    for within, share in ((1, 0.6827), (2, 0.9545)):
        assert (np.abs(numbers - signal) < within * deviation).mean() == pytest.approx(share, abs=0.008)
    quiet = dataclasses.replace(mechanism, noise=1e-12).mean(updates, shapes, 4)
    np.testing.assert_allclose(quiet["w"], signal, atol=1e-12)


def test_noise_is_a_function_of_seed_and_round_and_is_there_without_clients() -> None:
    shapes = {"w": (1000,), "b": (1000,)}
    mechanism = GaussianMechanism(1.0, 2.0, 0.5, 10, 7)
    alone, again = (mechanism.mean([], shapes, 3) for _ in range(2))
    np.testing.assert_array_equal(alone["w"], again["w"])
    assert alone["w"].std() == pytest.approx(2.0 / 5, rel=0.12)
    draws = [alone["w"], alone["b"], mechanism.mean([], shapes, 4)["w"]]
    draws.append(dataclasses.replace(mechanism, seed=8).mean([], shapes, 3)["w"])
    correlations = np.corrcoef(draws)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.16


def test_each_client_is_in_a_round_by_itself_with_the_same_probability() -> None:
    mechanism = GaussianMechanism(1.0, 1.0, 0.3, 8, 5)
    drawn = np.zeros((4000, 8))
    for turn in range(4000):
        drawn[turn, mechanism.sample(turn)] = 1
    # A deviation of a share is 0.0072, of a correlation 0.0158: the bounds are 4.5 of these.
    np.testing.assert_allclose(drawn.mean(axis=0), 0.3, atol=0.033)
    assert np.abs(np.corrcoef(drawn.T)[np.triu_indices(8, 1)]).max() < 0.071
    counts = drawn.sum(axis=1)
    assert counts.var() == pytest.approx(8 * 0.3 * 0.7, rel=0.1) and counts.min() == 0  # no fixed number of clients
    np.testing.assert_array_equal(mechanism.sample(9), mechanism.sample(9))


def test_words_of_the_flag() -> None:
    assert read_privacy([]) is None
    assert read_privacy(["epsilon:8", "delta:1e-5", "clip_norm:0.5"]) == Privacy(0.5, 1e-5, epsilon=8.0)
    assert str(read_privacy(["noise:1.1", "clip_norm:2", "delta:1e-3"])) == "noise:1.1,delta:0.001,clip_norm:2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epsilon=8"], "'epsilon=8' must be NAME:NUMBER, as epsilon:8,delta:1e-5,clip_norm:0.5"),
        (["epsilonn:8"], "Did you mean 'epsilon'"),
        (["epsilon:8", "epsilon:9"], "names epsilon twice"),
        (["epsilon:x"], "'x' must be a number"),
        (["epsilon:-1"], "epsilon must be a number above 0"),
        (["epsilon:nan"], "epsilon must be a number above 0"),
        (["epsilon:8"], "must have delta and clip_norm"),
        (["delta:1e-5", "clip_norm:1"], "must have either epsilon, a budget, or noise, a multiplier"),
        (["epsilon:8", "noise:1", "delta:1e-5", "clip_norm:1"], "must have either epsilon"),
        (["epsilon:8", "delta:1", "clip_norm:1"], "delta must be below 1"),
        (["noise:0.01", "delta:1e-5", "clip_norm:1"], "noise must be from 0.2 to 10000"),
    ],
)
def test_words_that_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_privacy(words)
