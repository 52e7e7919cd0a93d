"""The search beside random search, on little."""

import json
import pathlib

import pytest

from profiles import search
from tests import tiny

SPACE = {"optim.learning_rate": {"low": 1e-3, "high": 3e-2, "log": True}}


def test_halving_has_as_many_trials_as_the_budget_allows() -> None:
    assert search.halving_trials(20) == 80  # 80 / 9 + 26 * 2 / 9 + 8 * 2 / 3 = 20 runs
    assert search.halving_trials(1) == 1


def test_means_over_the_repetitions() -> None:
    found = search.summary([{"valid": 0.5, "test": 0.25}, {"valid": 0.75, "test": 0.75}])
    assert found["valid"]["mean"] == 0.625 and found["test"]["sd"] == pytest.approx(0.35355339)
    assert search.summary([{"valid": 0.5}]) == {"valid": {"mean": 0.5, "sd": None}}


@pytest.mark.slow
def test_two_ways_on_little(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("optuna")
    config = tiny.config(tmp_path, train__steps=2, eval__metric="loss")
    default = search.one_way("default", config, SPACE, tmp_path / "default", 1)
    drawn = search.one_way("random", config, SPACE, tmp_path / "random", 2)
    assert default["trials"] == 1 and default["updates"] == 2 and drawn["updates"] == 4
    assert drawn["metric"] == "loss" and {"valid", "test", "best"} <= set(drawn)
    report = json.loads((tmp_path / "default" / "report.json").read_text())
    assert default["test"] == report["splits"]["test"]["loss"]
