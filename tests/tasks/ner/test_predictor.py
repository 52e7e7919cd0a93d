"""A trained tagger over raw text and given words: its entities by characters are those that it is scored on."""

import json
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jaxfm.data.text.tagging import entity_spans
from jaxfm.data.text.words import COARSE, FINE
from jaxfm.errors import UserError
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.tasks import registry
from jaxfm.tasks.ner.predictor import NerPredictor
from jaxfm.tasks.ner.spec import NerSpec
from jaxfm.training.saved_run import open_run
from tests import tiny

TEXTS = (
    "ada-boole met (emmy) in the old-town/arles.",
    "gauss's [hilbert] \"left\" ghent: the $5 essen's U.N. went 10km",
    "bergen and cadiz.hull near @emmy_curry #delft, e-mail to frege@gauss.de!",
    "  the town \u200bof ada\u200b met\thull\u2019s 3.5 emmys ",
    "我在ghent met 東京 boole👩\u200d👧ada",
    "and went to the old town",
)

Entities = set[tuple[int, int, str]]


@pytest.fixture(scope="module", params=[FINE, COARSE])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of random weights with each rule for words; its head finds many entities, most of tags not allowed."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny.config(folder, task__splitter=request.param, task__decoding="argmax")
    tiny.write_run(folder / "run", config, best=1)
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: pathlib.Path) -> Model:
    return Model(run)


def tagger_of(run: pathlib.Path) -> NerPredictor:
    tagger = open_run(run).predictor()
    assert isinstance(tagger, NerPredictor)
    return tagger


def entities(result: dict[str, Any]) -> Entities:
    return {(found["start"], found["end"], found["type"]) for found in result["entities"]}


def f1(gold: Sequence[Entities], found: Sequence[Entities]) -> float:
    right = sum(len(a & b) for a, b in zip(gold, found, strict=True))
    return 2 * right / (sum(map(len, gold)) + sum(map(len, found)))


def disturbed(text: str, found: Entities) -> list[tuple[int, int, str]]:
    """Some of the entities as they are, others dropped, of another type, or with borders that no word has."""
    gold = []
    for number, (start, end, kind) in enumerate(sorted(found)):
        if number % 5 == 1:
            kind = "PER" if kind == "LOC" else "LOC"
        if number % 5 == 2 and end - start > 1 and not text[start:end].isspace():
            end -= 1
        if number % 5 != 3 and text[start:end].strip() == text[start:end] != "":
            gold.append((start, end, kind))
    return gold


def test_the_score_is_that_of_the_predictions_by_characters(run: pathlib.Path, model: Model) -> None:
    found = [entities(result) for result in model(TEXTS)]
    assert sum(map(len, found)) > 12, "random weights that find nothing show nothing"
    gold = [disturbed(text, own) for text, own in zip(TEXTS, found, strict=True)]
    folder = run.parent / "marked"
    folder.mkdir()
    lines = [
        {"text": text, "entities": [{"start": a, "end": b, "label": kind} for a, b, kind in spans]}
        for text, spans in zip(TEXTS, gold, strict=True)
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    evaluation = evaluate(run, "test", f"jsonl:{folder}")
    wanted = f1([set(spans) for spans in gold], found)
    assert 0.2 < wanted < 1
    assert evaluation.metrics["f1"] == pytest.approx(wanted, abs=1e-12)
    assert evaluation.scores["support"] == sum(map(len, gold))
    assert evaluation.scores["entities_cut_by_words"] > 0
    for record, own, spans in zip(evaluation.predictions, found, gold, strict=True):
        listed = {
            name: {(e["start"], e["end"], e["type"]) for e in record[name]} for name in ("right", "missed", "invented")
        }
        assert listed == {"right": own & set(spans), "missed": set(spans) - own, "invented": own - set(spans)}
        assert all(record["text"][e["start"] : e["end"]] == e["text"] for e in record["missed"])


def test_given_words_are_taken_as_they_are(model: Model) -> None:
    words = ["ada-boole", "met", "emmy", "in", "", "ghent/hull", "."]
    (alone,) = model.stream([{"tokens": words}])
    assert alone["tokens"] == words and alone["text"] == " ".join(words) and alone["entities"]
    text = "ada-boole met emmy in  ghent/hull."
    (inside,) = model.stream([{"tokens": words, "text": text}])
    for result in (alone, inside):
        for found in result["entities"]:
            assert found["text"] == result["text"][found["start"] : found["end"]]
            assert "".join(found["text"].split()) == "".join(words[found["start_word"] : found["end_word"]])
    fields = ("type", "start_word", "end_word", "score")
    assert [[e[name] for name in fields] for e in alone["entities"]] == [
        [e[name] for name in fields] for e in inside["entities"]
    ]
    spaced = ["ada", "met", "emmy", "in", "ghent"]
    (given,), (raw,) = model.stream([{"tokens": spaced}]), model([" ".join(spaced)])
    assert entities(given) == entities(raw) and "tokens" not in raw


def test_words_that_are_not_those_of_the_text_are_refused(model: Model) -> None:
    with pytest.raises(UserError, match=r"tokens\[1\] = 'boole' does not follow in the text, where ' met boole' does"):
        list(model.stream([{"tokens": ["ada", "boole"], "text": "ada met boole"}]))


def test_texts_without_words_have_no_entities(run: pathlib.Path, model: Model) -> None:
    tagger = tagger_of(run)
    records = [{"text": ""}, {"text": " \t\u3000"}, {"tokens": []}]
    encoded = tagger.encode(records)
    assert len(encoded.rows) == 0
    assert [result["entities"] for result in tagger.decode(encoded, {})] == [[], [], []]
    results = list(model.stream([*records, {"text": "ada met emmy"}]))
    assert [bool(result["entities"]) for result in results[:3]] == [False] * 3 and results[3]["entities"]


def test_odd_texts_are_read_or_refused(model: Model) -> None:
    long = "x" * 5000
    for text in ("\u00ad", "\u200d", f"ada {long} emmy", f"ada {'a.' * 300} emmy", "\ufeffada"):
        (result,) = model([text])
        assert result["text"] == text
        assert all(text[e["start"] : e["end"]] == e["text"] for e in result["entities"])
    with pytest.raises(UserError, match="half of a (surrogate|pair)"):
        model(["ada \ud83d"])


def test_a_run_from_before_rules_were_kept_splits_as_it_did(run: pathlib.Path) -> None:
    values = json.loads((run / "task.json").read_text())
    assert values["splitter"] == run.parent.name.rstrip("0123456789")
    old = run.parent / "old"
    old.mkdir()
    del values["splitter"]
    (old / "task.json").write_text(json.dumps(values))
    (old / "tokenizer").symlink_to(run / "tokenizer")
    definition, spec = registry.read_spec(old, {})
    assert isinstance(spec, NerSpec) and definition.name == "ner" and spec.splitter == COARSE


def test_words_of_the_pipeline_give_the_entities_of_the_pipeline(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from transformers import pipeline

    export(run, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "aggregation_strategy: first" in card and "--words=transformers" in card and "`LOC`, `PER`" in card
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        find = pipeline("token-classification", model=str(tmp_path / "exported"), aggregation_strategy="first")
    texts = [text for text in TEXTS if len(text) < 50]
    wanted = [{(e["start"], e["end"], e["entity_group"]) for e in found} for found in find(texts)]
    as_pipeline, own = Model(run, "transformers")(texts), Model(run)(texts)
    assert [entities(result) for result in as_pipeline] == wanted
    if run.parent.name.startswith(COARSE):
        assert [entities(result) for result in own] != wanted  # the words do make a difference
    scores = np.asarray([e["score"] for result in as_pipeline for e in result["entities"]])
    np.testing.assert_allclose(scores, [e["score"] for found in find(texts) for e in found], atol=1e-3)

    # The card's own way to tag given words, run as it is printed there.
    code = card.split("```python")[2].split("```")[0].replace("DIRECTORY", str(tmp_path / "exported"))
    names: dict[str, Any] = {}
    exec(code, names)
    words = ["ada-boole", "met", "emmy", "in", "ghent/hull", "."]
    (result,) = Model(run).stream([{"tokens": words}])
    assert [(e["start_word"], e["end_word"], e["type"]) for e in result["entities"]] == entity_spans(
        names["tags"](words)
    )


def test_ways_to_split_words_that_cannot_be(run: pathlib.Path) -> None:
    tagger = tagger_of(run)
    assert tagger.with_splitter("run") == tagger and tagger.splitters == ("run", "transformers")
    with pytest.raises(UserError, match=r"--words=transformer: Did you mean 'transformers'\?"):
        Model(run, "transformer")
    with pytest.raises(UserError, match="a record: .*here are words already"):
        tagger.with_splitter("transformers").encode([{"text": "a"}, {"tokens": ["a"]}])
