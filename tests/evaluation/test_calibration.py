"""Temperatures against a generic optimizer, calibration errors by hand and against scikit-learn."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.errors import UserError
from jaxfm.evaluation import calibration
from jaxfm.evaluation.calibration import Reliability, assess, fit_calibration, fit_temperature, losses, probabilities

KINDS = ("single", "multi")


def drawn(kind: str, count: int = 4000, seed: int = 0, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are true, and outcomes drawn with them."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 4)) * scale
    honest = probabilities(logits, {}, kind)
    if kind == "single":
        gold = np.minimum((honest.cumsum(axis=1) < random.random((count, 1))).sum(axis=1), 3)
    else:
        gold = (random.random(honest.shape) < honest).astype(int)
    return logits, gold


def test_probabilities_are_softmax_and_sigmoid() -> None:
    special = pytest.importorskip("scipy.special")
    logits = np.random.default_rng(0).normal(size=(20, 5)) * 30
    hot = {"temperature": 2.5}
    np.testing.assert_allclose(probabilities(logits, {}), special.softmax(logits, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(probabilities(logits, hot), special.softmax(logits / 2.5, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(probabilities(logits, hot, "multi"), special.expit(logits / 2.5), rtol=1e-12)
    huge = np.array([[1000.0, -1000.0]])  # nothing overflows
    np.testing.assert_array_equal(probabilities(huge, {}), [[1.0, 0.0]])
    np.testing.assert_array_equal(probabilities(huge, {}, "multi"), [[1.0, 0.0]])


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_scikit_learn(kind: str) -> None:
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    logits, gold = drawn(kind, 50)
    found = losses(logits, gold, {"temperature": 1.5}, kind)
    assert found.shape == (50,)
    wanted = probabilities(logits, {"temperature": 1.5}, kind)
    if kind == "single":
        assert found.mean() == pytest.approx(log_loss(gold, wanted, labels=range(4)))
    else:
        assert found.mean() == pytest.approx(np.mean([log_loss(gold[:, i], wanted[:, i]) for i in range(4)]))


def test_labels_that_are_not_known_count_for_nothing() -> None:
    logits, gold = np.array([[1.0, 5.0], [2.0, -1.0]]), np.array([[1, -1], [0, 1]])
    wanted = losses(logits[:1, :1], gold[:1, :1], {}, "multi")[0]
    assert losses(logits, gold, {}, "multi")[0] == pytest.approx(wanted)
    other = np.array([[1.0, -50.0], [2.0, -1.0]])
    assert fit_temperature(logits, gold, "multi") == fit_temperature(other, gold, "multi") != {}
    assert assess(logits, gold, {}, "multi").detail == assess(other, gold, {}, "multi").detail


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_the_temperature_undoes_what_made_probabilities_dishonest(kind: str, factor: float) -> None:
    logits, gold = drawn(kind)
    assert fit_temperature(logits * factor, gold, kind)["temperature"] == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 30), count=st.integers(5, 60))
@settings(deadline=None, max_examples=25)
def test_the_temperature_is_the_likeliest_one(kind: str, seed: int, scale: float, count: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    logits, gold = drawn(kind, count, seed)
    logits = logits * scale

    def loss(log_temperature: float) -> float:
        return float(losses(logits, gold, {"temperature": np.exp(log_temperature)}, kind).mean())

    found = fit_temperature(logits, gold, kind)
    right = (logits.argmax(-1) == gold).all() if kind == "single" else ((logits > 0) == gold).all()
    assert bool(found) != right
    if found:
        best = optimize.minimize_scalar(loss, bounds=np.log([0.01, 100.0]), method="bounded", options={"xatol": 1e-9})
        assert loss(np.log(found["temperature"])) <= best.fun + 1e-9
        assert 0.01 <= found["temperature"] <= 100.0


def test_there_is_no_temperature_without_a_mistake() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == {}
    assert fit_temperature(logits, np.array([0, 0])) != {}
    assert (
        fit_temperature(logits, np.array([[1, 1], [0, 1]]), "multi")
        == {}
        != fit_temperature(logits, np.eye(2, dtype=int), "multi")
    )
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == {}
    assert fit_temperature(np.full((2, 2), np.nan), np.array([0, 1])) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_that_gains_on_held_out_examples_is_kept(kind: str) -> None:
    logits, gold = drawn(kind, 600)
    found = fit_calibration(logits * 3, gold, kind)
    assert found["temperature"] == found["fitted_temperature"] == fit_temperature(logits * 3, gold, kind)["temperature"]
    assert found["gain"] > 3 * found["gain_error"] > 0 and found["examples"] == 600


def test_the_gain_is_that_of_parts_the_temperature_was_not_fitted_to() -> None:
    logits, gold = drawn("single", 83)
    found = fit_calibration(logits * 2, gold)
    part = np.random.default_rng(0).permutation(83) % 10
    gains = np.zeros(83)
    for held in (part == number for number in range(10)):
        fitted = fit_temperature(logits[~held] * 2, gold[~held])
        gains[held] = losses(logits[held] * 2, gold[held], {}) - losses(logits[held] * 2, gold[held], fitted)
    assert found["gain"] == pytest.approx(gains.mean())
    assert found["gain_error"] == pytest.approx(gains.std(ddof=1) / np.sqrt(83))
    # Twice each example, as two of a group, is no more than once.
    twice = fit_calibration(np.repeat(logits, 2, axis=0) * 2, np.repeat(gold, 2), groups=np.repeat(np.arange(83), 2))
    assert twice == pytest.approx(found)


def test_honest_probabilities_of_few_examples_are_left_alone() -> None:
    """The likeliest temperature of 81 examples makes nine of ten test splits worse; held-out gains keep few of them."""
    worse = {"always": 0, "held out": 0}
    for seed in range(40):
        logits, gold = drawn("single", 81, seed)
        other, truth = drawn("single", 2000, 1000 + seed)
        found = fit_calibration(logits, gold)
        before = losses(other, truth, {}).mean()
        after = losses(other, truth, {"temperature": found["fitted_temperature"]}).mean()
        worse["always"] += after > before
        worse["held out"] += after > before and "temperature" in found
    assert worse["always"] >= 30 and worse["held out"] <= 4


def test_why_there_is_no_temperature_is_said(tmp_path: pathlib.Path) -> None:
    logits, gold = drawn("single", 81)
    found = fit_calibration(logits, gold)
    assert "temperature" not in found
    calibration.write_calibration(tmp_path, found)
    assert calibration.read_calibration(tmp_path) == found
    assessed = assess(logits, gold, found)
    assert [row[0] for row in assessed.table.rows] == ["of the model"]
    assert assessed.table.title.startswith(
        "Calibration (no temperature: on held-out parts of valid's 81 examples it ga"
    )
    assert assessed.detail["gain"] == found["gain"] and "calibrated" not in assessed.detail
    np.testing.assert_array_equal(probabilities(logits, found), probabilities(logits, {}))


def test_nothing_is_fitted_where_there_is_nothing_to_fit() -> None:
    assert fit_calibration(np.zeros((0, 3)), np.zeros(0, int)) == {}
    assert fit_calibration(np.full((60, 2), np.nan), np.zeros(60, int)) == {}


def test_nothing_is_fitted_to_few_examples_nor_where_all_are_right_nor_kept_at_the_bound() -> None:
    logits, gold = drawn("single", 600)
    few, enough = calibration.LEAST_EXAMPLES - 1, calibration.LEAST_EXAMPLES
    sentence = np.repeat(np.arange(few), 4)  # examples are sentences, however many words they have
    cases = {
        f"valid has {few} examples, too few to fit one; {enough} are needed": (logits[:few] * 3, gold[:few], None),
        f"valid has {few} examples, too few": (logits[: 4 * few] * 3, gold[: 4 * few], sentence),
        "all of valid's 600 examples are right": (logits * 9, logits.argmax(-1), None),
        "the one fitted to valid, 100, is at the bound of the search": (-logits, gold, None),
        "the one fitted to valid, 0.01, is at the bound": (logits * 1e-4, gold, None),
    }
    for why, (outputs, wanted, groups) in cases.items():
        found = fit_calibration(outputs, wanted, groups=groups)
        assert "temperature" not in found
        assert f"Calibration (no temperature: {why}" in assess(outputs, wanted, found).table.title
        np.testing.assert_array_equal(probabilities(outputs, found), probabilities(outputs, {}))
    assert "temperature" in fit_calibration(logits[:enough] * 4, gold[:enough])


def test_a_model_that_knows_less_than_nothing_becomes_unsure() -> None:
    logits, gold = drawn("single")
    assert fit_temperature(-logits, gold)["temperature"] == pytest.approx(100.0)


def test_no_prediction_changes() -> None:
    logits, _ = drawn("single")
    hot = {"temperature": 3.7}
    np.testing.assert_array_equal(probabilities(logits, hot).argmax(-1), logits.argmax(-1))
    np.testing.assert_array_equal(probabilities(logits, hot, "multi") > 0.5, logits > 0)


def test_bins_and_their_error_by_hand() -> None:
    # 1/15 belongs to the first bin, what is just above it to the second, 1 to the last.
    found = Reliability.of(np.array([1 / 15, 0.07, 0.5, 0.5, 1.0]), np.array([1, 0, 1, 0, 1]))
    assert found.count.tolist() == [1, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    assert found.confidence[7] == 0.5 and found.accuracy[7] == 0.5
    assert found.error == pytest.approx((14 / 15 + 0.07 + 0 + 0) / 5)
    assert Reliability.of(np.zeros(0), np.zeros(0)).error == 0.0


def test_the_error_of_honest_probabilities_is_small_and_that_of_others_is_known() -> None:
    logits, gold = drawn("single", 100_000)
    assert assess(logits, gold, {}).detail["model"]["ece"] < 0.005
    sure = np.where(np.arange(10_000) < 7000, 0, 1)  # always sure of class 0, right in 70 %
    known = assess(np.tile([9.0, 0.0], (10_000, 1)), sure, {}).detail["model"]
    assert known["ece"] == pytest.approx(1 / (1 + np.exp(-9)) - 0.7) and known["accuracy"] == 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_the_assessment_is_that_of_scikit_learn(kind: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    curves = pytest.importorskip("sklearn.calibration")
    logits, gold = drawn(kind, 300)
    fitted = {"temperature": 2.0}
    detail = assess(logits, gold, fitted, kind).detail
    assert detail["temperature"] == 2.0
    for name, used in (("model", {}), ("calibrated", fitted)):
        found, probability = detail[name], probabilities(logits, used, kind)
        assert found["nll"] == pytest.approx(losses(logits, gold, used, kind).mean())
        truth = np.eye(4)[gold] if kind == "single" else gold
        brier = [metrics.brier_score_loss(truth[:, i], probability[:, i]) for i in range(4)]
        assert found["brier"] == pytest.approx(sum(brier) if kind == "single" else np.mean(brier))
        sure, right = probability.ravel(), truth.ravel()
        if kind == "single":
            sure, right = probability.max(-1), probability.argmax(-1) == gold
        accuracy, confidence = curves.calibration_curve(right, sure, n_bins=15)
        bins = {field: np.asarray(values) for field, values in found["bins"].items()}
        there = bins["count"] > 0
        np.testing.assert_allclose(bins["accuracy"][there], accuracy)
        np.testing.assert_allclose(bins["confidence"][there], confidence)
        gaps = np.abs(accuracy - confidence) @ bins["count"][there] / len(sure)
        assert found["ece"] == pytest.approx(gaps)
        assert found["confidence"] == pytest.approx(sure.mean())
    json.dumps(detail, allow_nan=False)


def test_calibration_lowers_loss_and_error_and_says_so(tmp_path: pathlib.Path) -> None:
    logits, gold = drawn("single")
    valid, test = np.split(logits * 3, 2), np.split(gold, 2)
    fitted = fit_temperature(valid[0], test[0])
    assessed = assess(valid[1], test[1], fitted)  # on the other half
    before, after = assessed.detail["model"], assessed.detail["calibrated"]
    assert after["nll"] < before["nll"] - 0.1 and after["brier"] < before["brier"] and after["ece"] < before["ece"] / 3
    assert after["accuracy"] == before["accuracy"]
    assert [row[0] for row in assessed.table.rows] == ["of the model", f"at temperature {fitted['temperature']:.3f}"]
    assert [row[0] for row in assess(valid[1], test[1], {}).table.rows] == ["of the model"]
    assessed.plots["reliability"](tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
    assert calibration.read_calibration(tmp_path) == {}
    calibration.write_calibration(tmp_path, {"temperature": 1.37})
    assert calibration.read_calibration(tmp_path) == {"temperature": 1.37}
    for content in ("[1]", "{", '{"temperature": "warm"}', '{"temperature": 0}', '{"temperature": NaN}'):
        (tmp_path / "calibration.json").write_text(content)
        with pytest.raises(UserError, match="calibration.json"):
            calibration.read_calibration(tmp_path)
