"""What is said of a stream's scores: over seeds, in tables, and where a score is not defined."""

import pathlib

import numpy as np
import pytest

from jaxfm.programs.continual_scores import averages, gather, headline, tables, write

SCORES = {
    "naive": {
        0: np.asarray([[0.9, np.nan], [0.3, 0.8]]),
        1: np.asarray([[0.7, np.nan], [0.5, 0.8]]),
    },
    "joint": {
        0: np.asarray([[0.9, 0.4], [0.85, 0.75]]),
        1: np.asarray([[0.8, 0.5], [0.85, 0.85]]),
    },
}
RUNS = {method: {seed: [pathlib.Path("a"), pathlib.Path("b")] for seed in (0, 1)} for method in SCORES}
FOUND = gather(["one", "two"], "f1", "test", SCORES, {0: [0.1, np.nan], 1: [0.1, 0.2]}, RUNS)


def test_means_and_deviations_over_seeds() -> None:
    naive, joint = FOUND["methods"]["naive"], FOUND["methods"]["joint"]
    assert naive["measures"]["average"] == {
        "values": [0.55, 0.65],
        "mean": pytest.approx(0.6),
        "sd": pytest.approx(0.1 / 2**0.5),
    }
    assert naive["measures"]["forgetting"]["mean"] == pytest.approx(0.4)
    assert naive["mean_matrix"][0] == [pytest.approx(0.8), None]
    assert naive["measures"]["forward_transfer"] == {"values": [None, None], "mean": None, "sd": None}
    transfer = joint["measures"]["forward_transfer"]  # of the first seed the score before training is not defined
    assert transfer["values"][0] is None and transfer["values"][1] == pytest.approx(0.3) and transfer["mean"] is None
    assert FOUND["untrained"] == {"0": [0.1, None], "1": [0.1, 0.2]}
    assert naive["seeds"]["1"]["runs"] == ["a", "b"] and naive["seeds"]["1"]["matrix"] == [[0.7, None], [0.5, 0.8]]
    assert averages(naive["mean_matrix"]) == [pytest.approx(0.8), pytest.approx(0.6)]


def test_a_table_a_method_and_one_of_all(tmp_path: pathlib.Path) -> None:
    measured, naive, _ = tables(FOUND)
    assert measured.columns[:3] == ["method", "average", "sd of average"]
    assert [row[0] for row in measured.rows] == ["naive", "joint"] and measured.rows[0][-1] is None
    assert naive.columns == ("after", "one", "two")
    assert naive.rows[0] == ("one", pytest.approx(0.8), None)
    assert headline(FOUND) == "average f1 on test after 2 stages: best is joint, 0.8250, mean of 2 seeds"
    write(tmp_path, FOUND, {"store": 3})
    text = (tmp_path / "continual.md").read_text()
    assert "nan" not in text and "| joint  |" in text and "plots/matrices.png" in text
    one = gather(["one", "two"], "f1", "test", {"naive": {4: SCORES["naive"][0]}}, {4: [0.1, 0.2]}, {"naive": {4: []}})
    assert tables(one)[0].columns == ["method", "average", "forgetting", "backward transfer", "forward transfer"]
    undefined = gather(["one", "two"], "f1", "test", {"naive": {0: np.full((2, 2), np.nan)}}, {0: [0.1, 0.2]}, RUNS)
    assert headline(undefined) == "f1 is not defined for any method"
