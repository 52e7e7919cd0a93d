"""Runs whose labels are texts: trained, scored on types that training never saw, used with any labels, refused."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.programs.check import check
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from tests import tiny

SIZES = {"train": 240, "valid": 30, "test": 30}
TEXTS = {"PER": "saw", "LOC": "the old town"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a trained run, "run", and the same test sentences whose types have other names, "unseen"."""
    folder = tmp_path_factory.mktemp("zero_shot")
    (folder / "labels.json").write_text(json.dumps(TEXTS))
    tiny.write_corpus(folder / "data", SIZES)
    train(config(folder, train__steps=120, eval__every_steps=60, train__batch_size=8), folder / "run")
    for name, kinds in (
        ("unseen", {"PER": "saw", "LOC": "town"}),
        ("exchanged", {"PER": "town", "LOC": "saw"}),
    ):
        content = [
            (words, [tag if tag == "O" else f"{tag[:2]}{kinds[tag[2:]]}" for tag in tags])
            for words, tags in tiny.sentences(SIZES["test"], 2)
        ]
        tiny.write_conll(folder / name / "test.conll", content)
    return folder


def config(folder: pathlib.Path, **overrides: Any) -> Any:
    return tiny.zero_shot_config(folder, task__label_texts=str(folder / "labels.json"), **overrides)


def found(result: dict[str, Any]) -> set[tuple[int, int, str]]:
    return {(each["start"], each["end"], each["type"]) for each in result["entities"]}


def test_it_learns_and_finds_a_type_that_is_named_like_a_known_one(folder: pathlib.Path) -> None:
    evaluation = evaluate(folder / "run", "test")
    report = json.loads((folder / "run" / "report.json").read_text())
    assert report["task"] == "zero_shot_ner" and report["splits"]["test"]["f1"] == evaluation.metrics["f1"] > 0.6
    assert evaluation.scores["labels"] == {"LOC": TEXTS["LOC"], "PER": TEXTS["PER"]}
    threshold = json.loads((folder / "run" / "calibration.json").read_text())["threshold"]
    assert evaluation.scores["threshold"] == threshold
    unseen = evaluate(folder / "run", "test", f"conll:{folder / 'unseen'}")
    assert set(unseen.scores["labels"].values()) == {"saw", "town"}  # "town" is no label of training
    assert unseen.metrics["f1"] > 0.8 * evaluation.metrics["f1"]
    exchanged = evaluate(folder / "run", "test", f"conll:{folder / 'exchanged'}")
    assert exchanged.metrics["f1"] < 0.5 * unseen.metrics["f1"]  # it is the text that is compared, not the number


def test_evaluation_and_prediction_agree(folder: pathlib.Path) -> None:
    records = list(evaluate(folder / "run", "test").predictions)
    model = Model(folder / "run")
    assert model.labels == ("LOC", "PER")
    for record, result in zip(records, model.stream([{"tokens": r["text"].split()} for r in records]), strict=True):
        scored = {(e["type"], e["start"], e["end"]): e["score"] for e in (*record["right"], *record["invented"])}
        assert {(e["type"], e["start"], e["end"]): e["score"] for e in result["entities"]} == pytest.approx(scored)
    assert [result["entities"] for result in model(["", " "])] == [[], []]


def test_any_number_of_labels_gives_the_same_scores(folder: pathlib.Path) -> None:
    texts = [" ".join(words) for words, _ in tiny.sentences(20, 5)]
    few = Model(folder / "run", labels=["saw", "town", "met"])
    names = (f"{one}{two}{three}" for one in "abcdefg" for two in "hijklmn" for three in "opqrstu")
    far = [f"{name}: {'. ' * 9}{name}" for name in names][: 300 - 3]
    many = Model(folder / "run", labels=["saw", "town", "met", *far])
    assert many.labels[:3] == few.labels and len(many.labels) == 300
    shared = 0
    for one, other in zip(few(texts), many(texts), strict=True):
        scores = {(each["start"], each["end"], each["type"]): each["score"] for each in one["entities"]}
        for each in other["entities"]:
            key = each["start"], each["end"], each["type"]
            if key in scores:
                assert each["score"] == pytest.approx(scores[key], abs=2e-4)
                shared += 1
    assert shared > 5


def test_the_end_of_a_long_text_is_read(folder: pathlib.Path) -> None:
    model, text = Model(folder / "run"), " ".join(word for words, _ in tiny.sentences(40, 7) for word in words)
    encoded = model.predictor.encode([{"text": text}])
    assert len(encoded.encoded.windows.tokens) > 10
    result = model(text)
    places = [each["start"] / len(text) for each in result["entities"]]
    assert {int(10 * place) for place in places} == set(range(10))  # in each tenth of the text: no window is left out
    for each in result["entities"]:
        assert text[each["start"] : each["end"]] == each["text"]


def test_overlaps_are_as_asked_for(folder: pathlib.Path) -> None:
    run = folder / "run"
    model, texts = Model(run), [" ".join(words) for words, _ in tiny.sentences(20, 6)]
    spans = [sorted((each["start"], each["end"]) for each in result["entities"]) for result in model(texts)]
    assert any(spans)
    for each in spans:
        assert all(one[1] <= other[0] for one, other in zip(each, each[1:], strict=False))


def test_labels_that_cannot_be_are_refused(folder: pathlib.Path) -> None:
    for labels, message in (
        (["town", "town"], "all different"),
        (["town", ""], "all different"),
        (["PER", "saw"], "'PER' and 'saw' are the same label"),
        (["town: " + "old " * 40], "the text of the label 'town' has 44 tokens, but at most 32 are read"),
    ):
        with pytest.raises(UserError, match=f"--labels.*{message}"):
            Model(folder / "run", labels=labels)
    tiny.write_conll(folder / "nothing" / "test.conll", [(["a", "town"], ["O", "O"])])
    with pytest.raises(UserError, match="nothing: has no entity at all"):
        evaluate(folder / "run", "test", f"conll:{folder / 'nothing'}")


def test_exports_and_explanations_are_refused_in_words(folder: pathlib.Path) -> None:
    for format in ("hf", "onnx", "stablehlo"):
        with pytest.raises(UserError, match="compares spans of words with labels|form for other libraries"):
            export(folder / "run", folder / "exported", format)
    assert not (folder / "exported").exists()
    with pytest.raises(UserError, match="are not explained"):
        Model(folder / "run").explain("ada met boole")


@pytest.mark.slow
def test_low_rank_updates_of_another_run(folder: pathlib.Path) -> None:
    made = config(folder, model__init=f"run:{folder / 'run'}", train__steps=2, adapt__lora__rank=2)
    train(made, folder / "next")
    assert evaluate(folder / "next", "test").metrics["f1"] > 0.3


def test_a_run_starts_from_another_and_data_are_checked(folder: pathlib.Path) -> None:
    made = config(folder, model__init=f"run:{folder / 'run'}", train__steps=2, adapt__lora__rank=2)
    task, loaded = registry.create(made, resolve(made.model))
    assert {"widths", "starts/kernel", "projection/kernel", "log_scale", "offset"} <= set(loaded)
    assert any(note.startswith("head: loaded; 2 labels") for note in task.notes)
    findings = check(config(folder, task__max_width=1)).findings
    assert any(each.check == "wide entities" and each.level == "warning" for each in findings)
