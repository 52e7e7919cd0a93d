"""Late interaction from start to end: a run learns, its scores are those of MaxSim, sentence-transformers opens it."""

import json
from typing import Any

import numpy as np
import pytest

from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict
from jaxfm.programs.train import train
from jaxfm.tasks.registry import default_config, from_config_dict
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on pairs that share a name, with dropout and micro-batches."""
    directory = tmp_path_factory.mktemp("late")
    values = default_config("late_interaction")
    values.model.init = tiny.write_weights(directory / "weights")
    values.model.scan_layers = True
    values.task.dimension, values.task.query_length, values.task.document_length = 8, 12, 16
    values.task.query_prompt, values.task.document_prompt = "in ", "near "
    values.data.row_length = 48
    values.train.batch_size, values.train.accumulate, values.train.steps = 8, 2, 12
    values.train.min_steps, values.optim.learning_rate, values.eval.batch_size = 0, 5e-3, 8
    values.log.every_steps = 2
    names = [name for part in tiny.NAMES.values() for name in part]
    for split, count in (("train", 48), ("valid", 16), ("test", 16)):
        rows = [
            {
                "anchor": f"{names[n % 16]} met {names[n // 16]}",
                "positive": f"the old {names[n % 16]} saw {names[n // 16]}",
            }
            for n in range(count)
        ]
        (directory / "data").mkdir(exist_ok=True)
        (directory / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values.data.source = f"jsonl:{directory / 'data'}"
    report = train(from_config_dict(values), directory / "run")
    return directory / "run", report


def test_a_run_learns_and_evaluates(run):
    workdir, report = run
    assert report["task"] == "late_interaction" and 0 < evaluate(workdir, "test").metrics["ndcg@10"] <= 1
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < losses[0]


def test_pairs_are_scored_and_exports_agree(run, tmp_path):
    workdir, _ = run
    pairs = [
        ("ada met boole", "the old ada saw boole"),
        ("ada met boole", "near ghent"),
        ("emmy", "gauss in delft . ada"),
    ]
    found: Any = Model(workdir)(pairs)
    assert found[0]["score"] > found[1]["score"] and predict(workdir, [("", "a")])[0]["score"] is None
    library = pytest.importorskip("sentence_transformers", reason="the oracle needs torch")
    folder = export(workdir, tmp_path / "exported")
    opened = library.MultiVectorEncoder(str(folder), device="cpu")
    assert opened.prompts == {"query": "in ", "document": "near "}
    queries = opened.encode_query([query for query, _ in pairs])
    documents = opened.encode_document([document for _, document in pairs])
    theirs = [
        float(opened.similarity([query], [document])[0, 0]) for query, document in zip(queries, documents, strict=True)
    ]
    np.testing.assert_allclose([each["score"] for each in found], theirs, atol=2e-4)
    assert queries[0].shape[1] == 8
