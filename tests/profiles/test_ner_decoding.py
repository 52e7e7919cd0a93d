"""One run decoded in both ways: the scores are those that evaluation gives."""

import json
import pathlib

import pytest

from jaxfm.errors import UserError
from jaxfm.programs.evaluate import evaluate
from profiles.ner_decoding import COLUMNS, scores
from tests import tiny


def test_both_scores_are_those_of_evaluation(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    tiny.write_run(run, tiny.config(tmp_path), best=1)
    row = scores(run, "test")
    assert tuple(row) == COLUMNS and row["sentences"] == tiny.SIZES["test"] and 0 < row[COLUMNS[3]] <= 18
    values = json.loads((run / "task.json").read_text())
    for decoding in ("viterbi", "argmax"):
        (run / "task.json").write_text(json.dumps(values | {"decoding": decoding}))
        assert row[f"F1 {decoding}"] == round(100 * evaluate(run, "test").metrics["f1"], 2)


def test_runs_of_other_tasks_are_refused(tmp_path: pathlib.Path) -> None:
    run = tiny.write_runs(tmp_path, ("classification",))["classification"]
    with pytest.raises(UserError, match="is a run of the task classification, not of ner"):
        scores(run, "test")
