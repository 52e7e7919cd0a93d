"""Tags that a model's scores become: always allowed, with honest probabilities, and as before for older runs."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from jaxfm.data.text.tagging import entity_spans, write_tags
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.tasks import registry
from jaxfm.tasks.ner.decoding import class_probabilities, read_words, tags_of
from jaxfm.tasks.ner.spec import ARGMAX, NerSpec
from jaxfm.training import workdir as workdirs
from tests import tiny
from tests.tasks.ner.test_objective import computed

TEXTS = [" ".join(words) for words, _ in tiny.sentences(30, seed=9)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("decoding")
    tiny.write_run(folder / "run", tiny.config(folder), best=1)
    return folder / "run"


def test_decoded_tags_are_those_of_their_entities(tmp_path: pathlib.Path) -> None:
    task, outputs, _ = computed(tmp_path)
    spec = task.objective.spec
    words = read_words(spec, task.encoded["test"], outputs)
    assert spec.decoding == "viterbi"

    def broken(paths: list[np.ndarray]) -> int:
        return sum(write_tags(entity_spans(each), len(each)) != each for each in tags_of(spec.labels, paths))

    assert broken(words.decode(spec.decoding)) == 0 < broken(words.decode(ARGMAX))


def test_a_score_is_the_probability_of_the_tag_that_is_given() -> None:
    logits = np.log([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    found = class_probabilities(logits, np.array([2, 0]), {})
    np.testing.assert_allclose(found, [0.3, 0.6])
    calibrated = class_probabilities(logits, np.array([2, 0]), {"temperature": 2.0})
    np.testing.assert_allclose(calibrated[1], 0.6**0.5 / (0.6**0.5 + 0.1**0.5 + 0.3**0.5))


def test_evaluation_and_prediction_decode_alike(run: pathlib.Path) -> None:
    model, evaluation = Model(run), evaluate(run, "test")
    records = list(evaluation.predictions)
    for record, result in zip(records, model.stream([{"tokens": record["words"]} for record in records]), strict=True):
        found = [(e["start_word"], e["end_word"], e["type"]) for e in result["entities"]]
        assert found == entity_spans(record["predicted"])
        assert record["predicted"] == write_tags(found, len(record["words"]))
        for entity in result["entities"]:
            scores = record["probabilities"][entity["start_word"] : entity["end_word"]]
            assert entity["score"] == pytest.approx(np.mean(scores), abs=2e-4)


def test_a_run_from_before_there_were_decodings_decodes_and_resumes_as_it_did(run: pathlib.Path) -> None:
    values = json.loads((run / "task.json").read_text())
    assert values["decoding"] == "viterbi"
    old = run.parent / "old"
    old.mkdir()
    del values["decoding"]
    (old / "task.json").write_text(json.dumps(values))
    for name in ("tokenizer", "checkpoints"):
        (old / name).symlink_to(run / name)
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["task"].pop("decoding") == "viterbi"
    (old / "config.json").write_text(json.dumps(config))
    _, spec = registry.read_spec(old, {})
    assert isinstance(spec, NerSpec) and spec.decoding == ARGMAX
    kept = workdirs.read_config(old)
    assert kept.task.decoding == ARGMAX and workdirs.status(old, kept) == "half-way"
    changed = dataclasses.replace(kept, task=dataclasses.replace(kept.task, decoding="viterbi"))
    with pytest.raises(ValueError, match=r"task\.decoding: 'argmax' -> 'viterbi'"):
        workdirs.status(old, changed)
    assert Model(old)(TEXTS) != Model(run)(TEXTS)


def test_words_of_the_pipeline_are_tagged_as_the_pipeline_does(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.json", "tokenizer", "checkpoints"):
        (tmp_path / "run" / name).symlink_to(run / name)
    values = json.loads((run / "task.json").read_text())
    (tmp_path / "run" / "task.json").write_text(json.dumps(values | {"decoding": ARGMAX}))
    likeliest = Model(tmp_path / "run")(TEXTS)  # words of letters alone are the same by all rules
    assert Model(run, "transformers")(TEXTS) == likeliest != Model(run)(TEXTS)
