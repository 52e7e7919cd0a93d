"""A trained classifier over texts; its results are tested with whole runs."""

import pathlib

import numpy as np

from jaxfm.tasks.classification.predictor import ClassifierPredictor
from tests import tiny
from tests.tasks.classification.test_task import create


def test_texts_that_are_cut_say_so(tmp_path: pathlib.Path) -> None:
    task, _, _ = create(tiny.classification_config(tmp_path, data__window=16))
    predictor = ClassifierPredictor(task.objective.spec, task.tokenizer)
    encoded = predictor.encode([{"text": "ada " * 40}, {"text": "ada"}])
    rows = len(encoded.rows)
    outputs = {"outputs": np.zeros((rows, task.objective.spec.segments, 2), np.float32)}
    long, short = predictor.decode(encoded, outputs)
    assert long["truncated"] is True and "truncated" not in short
    assert "  (longer than the 16 tokens the model reads: its end is left out)" in predictor.lines(long)
    assert len(predictor.lines(short)) == len(predictor.lines(long)) - 1
    cut = task.encoded["test"].cut
    assert cut.any() and not cut.all()
    scored = {"outputs": np.zeros((len(task.datasets["test"]), task.objective.spec.segments, 2), np.float32)}
    records = list(task.scorer("test").report(scored).predictions)
    assert ["truncated" in record for record in records] == cut.tolist()
