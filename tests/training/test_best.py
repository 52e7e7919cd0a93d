"""Which evaluation is the best: by metric, then loss, then time; and what a NaN does."""

import dataclasses
import json
import math

from jaxfm.training.best import Best, tie_breaker


def test_best_compares_in_the_direction_of_its_metric() -> None:
    best = Best().update(10, 0.5, more_is_better=True)
    assert best == Best(10, 0.5, 0)
    assert best.update(15, 0.5, more_is_better=True) == Best(10, 0.5, 1)
    assert best.update(15, 0.6, more_is_better=True) == Best(15, 0.6, 0)
    assert best.update(15, 0.4, more_is_better=False) == Best(15, 0.4, 0)
    assert best.update(15, math.nan, more_is_better=False).update(20, 0.6, more_is_better=False) == Best(10, 0.5, 2)


def test_the_best_ones_are_kept_in_order() -> None:
    best = Best()
    for step, value in enumerate((0.3, float("nan"), 0.5, 0.3, 0.4, 0.5), start=1):
        best = best.update(step, value, more_is_better=True, keep=3)
    assert best.kept == (3, 6, 5) and best.waited == 3  # an equal value is not better, and stands after it
    best = Best()
    for step, value in enumerate((0.3, 0.5, 0.2), start=1):
        best = best.update(step, value, more_is_better=False, keep=2)
    assert best == Best(3, 0.2, 0, ((1, 0.3, None),))


def test_of_equal_metrics_the_lower_loss_is_better_but_does_not_end_the_waiting() -> None:
    best = Best().update(1, 0.5, more_is_better=True, loss=0.6)
    best = best.update(2, 0.5, more_is_better=True, loss=0.1)
    assert best == Best(2, 0.5, 0, loss=0.1)  # training goes on as long as the loss falls
    best = best.update(3, 0.5, more_is_better=True, loss=0.1).update(4, 0.5, more_is_better=True, loss=math.nan)
    assert best == Best(2, 0.5, 2, loss=0.1)
    assert best.update(5, 0.51, more_is_better=True, loss=9.0) == Best(5, 0.51, 0, loss=9.0)


def test_without_a_metric_the_loss_counts() -> None:
    best = Best().update(1, math.nan, more_is_better=True, loss=0.6)
    assert best == Best(1, None, 0, loss=0.6) and best.kept == (1,)
    best = best.update(2, math.nan, more_is_better=True, loss=0.5, keep=2)
    assert best == Best(2, None, 0, ((1, None, 0.6),), 0.5)
    best = best.update(3, math.nan, more_is_better=True, loss=0.7)
    assert (best.step, best.waited) == (2, 1) and best.describe_value() == "not defined"
    # Whatever is defined is better than what is not.
    best = best.update(4, 0.0, more_is_better=True, loss=0.9)
    assert best == Best(4, 0.0, 0, loss=0.9)
    assert best.update(5, math.nan, more_is_better=True, loss=0.1) == Best(4, 0.0, 1, loss=0.9)


def test_with_nothing_to_compare_the_first_is_kept() -> None:
    best = Best().update(1, math.nan, more_is_better=False, loss=math.nan)
    assert best == Best(1, None, 1) and best.kept == (1,) and best.describe_value() == "not defined"
    assert best.update(2, math.nan, more_is_better=False) == Best(1, None, 2)
    assert best.update(2, math.nan, more_is_better=False, loss=3.0) == Best(2, None, 0, loss=3.0)
    assert best.update(2, 3.0, more_is_better=False) == Best(2, 3.0, 0)


def test_what_decides_between_equal_metrics() -> None:
    selection_metrics = {"pearson": True, "mse": False, "mae": False}
    assert tie_breaker({"pearson": 0.1, "mse": 3.0, "mae": 2.0}, selection_metrics) == ("mse", 3.0)
    assert tie_breaker({"f1": 0.1, "loss": 3.0}, {"f1": True, "loss": False}) == ("loss", 3.0)
    assert tie_breaker({"accuracy": 0.5, "loss": 3.0}, {"accuracy": True}) == ("loss", 3.0)
    assert tie_breaker({"f1": 0.1}, {"f1": True, "loss": False}) == ("loss", None)


def test_it_survives_json_and_older_versions() -> None:
    best = Best(4, None, 1, ((2, 0.5, 0.1), (1, None, None)), 0.2)
    assert Best.restored(json.loads(json.dumps(dataclasses.asdict(best)))) == best
    assert Best.restored({"step": 4, "value": 0.5, "waited": 0, "others": [[2, 0.5]]}) == Best(
        4, 0.5, 0, ((2, 0.5, None),)
    )
