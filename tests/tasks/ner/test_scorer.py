"""Scores of a tagged split: against seqeval, and those of sentences drawn anew."""

import dataclasses
import json

import numpy as np
import pytest

from jaxfm.evaluation import calibration, entities
from jaxfm.tasks.ner.task import NerTask
from tests import tiny
from tests.evaluation.tagged import score_entities
from tests.tasks.ner.test_objective import computed

Scored = tuple[NerTask, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return computed(tmp_path_factory.mktemp("scorer"))[:2]


def test_scores_are_those_of_seqeval(scored: Scored) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    task, outputs = scored
    evaluation = task.scorer("test").report(outputs)
    records = list(evaluation.predictions)
    gold, predicted = [record["gold"] for record in records], [record["predicted"] for record in records]
    assert evaluation.metrics["accuracy"] == pytest.approx(seqeval.accuracy_score(gold, predicted))
    for name in ("f1", "precision", "recall"):
        wanted = getattr(seqeval, f"{name}_score")(gold, predicted)
        assert evaluation.metrics[name] == evaluation.scores[name] == pytest.approx(wanted, abs=1e-12)
    assert set(evaluation.metrics) == set(task.directions)
    assert all(0 < probability <= 1 for record in records for probability in record["probabilities"])
    json.dumps(dict(evaluation.scores), allow_nan=False)


def test_a_run_logs_what_its_report_says(scored: Scored) -> None:
    scorer, outputs = scored[0].scorer("test"), scored[1]
    assert scorer.metrics(outputs) == scorer.report(outputs).metrics
    assert scorer.warnings(outputs) == ()


def test_sentences_drawn_anew_score_as_sentences(scored: Scored) -> None:
    task, outputs = scored
    evaluation = task.scorer("test").report(outputs)
    data, sentences = evaluation.bootstrap_data, task.sentences["test"]
    assert data is not None and data.right is not None and data.count == len(sentences)
    assert data.metrics(np.arange(len(sentences))) == pytest.approx(dict(evaluation.metrics), rel=1e-6)
    assert set(data.less_is_better) == {name for name, more_is_better in task.directions.items() if not more_is_better}
    records = list(evaluation.predictions)
    assert [record["correct"] for record in records] == data.right.tolist()
    index = np.random.default_rng(0).integers(0, len(sentences), len(sentences))
    gold, predicted = ([records[i][side] for i in index] for side in ("gold", "predicted"))
    spans, drawn = score_entities(gold, predicted), data.metrics(index)
    wanted = (spans.f1, spans.precision, spans.recall, spans.macro["f1"])
    assert [drawn[name] for name in ("f1", "precision", "recall", "macro_f1")] == pytest.approx(wanted, abs=1e-9)
    assert drawn["accuracy"] == pytest.approx(entities.score_tokens(gold, predicted).accuracy)


def test_calibration_changes_no_prediction(scored: Scored) -> None:
    scorer, outputs = scored[0].scorer("test"), scored[1]
    plain, calibrated = scorer.report(outputs), scorer.report(outputs, {"temperature": 3.0})
    assert calibrated.metrics == plain.metrics
    before, after = (calibrated.scores["calibration"][name] for name in ("model", "calibrated"))
    assert before["nll"] == pytest.approx(plain.metrics["loss"], rel=1e-5)
    assert after["nll"] != before["nll"] and after["accuracy"] == before["accuracy"]
    likeliest = dataclasses.replace(scorer, spec=dataclasses.replace(scorer.spec, decoding="argmax"))
    assert before["accuracy"] == likeliest.report(outputs).metrics["accuracy"]


def test_what_is_fitted_counts_sentences_not_words(scored: Scored) -> None:
    scorer, outputs = scored[0].scorer("test"), scored[1]
    assert len(scorer.encoded.word_counts) == 18 < calibration.LEAST_EXAMPLES < sum(scorer.encoded.word_counts)
    assert scorer.calibrate(outputs) == {"examples": 18}


def test_a_model_that_finds_no_entity_is_said_so(scored: Scored) -> None:
    task, outputs = scored
    classes = np.eye(len(tiny.LABELS), dtype=np.float32)
    scorer, nothing = task.scorer("test"), {"logits": np.broadcast_to(classes[0], outputs["logits"].shape)}
    gold = sum(tag[0] == "B" for sentence in task.sentences["test"] for tag in sentence.tags)
    (said,) = scorer.report(nothing).warnings
    assert said.startswith(
        f"the model finds nothing: F1 0.0000, as if it always answered O ({gold} entities in the data"
    )
    index = {label: number for number, label in enumerate(scorer.labels)}
    wanted = np.zeros(outputs["logits"].shape[:2], np.int64)
    for sentence, ids in zip(
        scorer.sentences, scorer.encoded.per_word(np.arange(wanted.size).reshape(wanted.shape)), strict=True
    ):
        wanted.reshape(-1)[ids] = [index[tag] for tag in sentence.tags]
    assert scorer.report({"logits": classes[wanted]}).metrics["f1"] == 1.0
    assert scorer.report({"logits": classes[wanted]}).warnings == ()
