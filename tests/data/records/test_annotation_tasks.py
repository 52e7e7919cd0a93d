"""Files for labelling tools: what they hold, and that what comes back is read as a source."""

import json
import pathlib
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from jaxfm.data.records.annotation_tasks import WRITERS, Chosen, Labels, label_studio_config
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.sources import read_tagged

ENTITIES = [{"type": "PER", "text": "Ada Boole", "start": 0, "end": 9, "score": 0.9}]
ENTITIES += [{"type": "LOC", "text": "Rome", "start": 13, "end": 17, "score": 0.6}]
SINGLE = Labels(("neg", 'po"s'))


def chosen(kind: str) -> list[Chosen]:
    results: dict[str, list[dict[str, Any]]] = {
        "single": [
            {"label": "neg", "score": 0.7, "scores": {"neg": 0.7, 'po"s': 0.3}},
            {"label": 'po"s', "scores": {}},
        ],
        "multi": [{"labels": ["neg", 'po"s'], "scores": {"neg": 0.7, 'po"s': 0.6}}, {"labels": ["neg"], "scores": {}}],
        "ner": [{"entities": ENTITIES}, {"entities": []}],
    }
    texts = ("Ada Boole in Rome", "nothing é")
    return [
        Chosen({"text": text, "id": number}, {"text": text, **result}, number, 0.5, f"in.txt:{number}")
        for number, (text, result) in enumerate(zip(texts, results[kind], strict=True), start=1)
    ]


def test_lines_have_predictions_and_no_label() -> None:
    rows = [json.loads(line) for line in WRITERS["jsonl"](chosen("single"), SINGLE).splitlines()]
    assert rows[0] == {
        "text": "Ada Boole in Rome", "id": 1, "rank": 1, "score": 0.5, "origin": "in.txt:1",
        "prediction": {"label": "neg", "scores": {"neg": 0.7, 'po"s': 0.3}},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("form", ["doccano", "label_studio"])
def test_classes_come_back(kind: str, form: str, tmp_path: pathlib.Path) -> None:
    labels = Labels(("neg", 'po"s'), several=kind == "multi")
    _write(tmp_path, form, WRITERS[form](chosen(kind), labels))
    (found,) = read_examples(f"jsonl:{tmp_path}", ("train",), columns=ExampleColumns(), kind=kind).values()
    assert [example.text for example in found.examples] == ["Ada Boole in Rome", "nothing é"]
    expected = {"single": ["neg", 'po"s'], "multi": [("neg", 'po"s'), ("neg",)]}[kind]
    assert [example.target for example in found.examples] == expected


@pytest.mark.parametrize("form", ["doccano", "label_studio"])
def test_entities_come_back(form: str, tmp_path: pathlib.Path) -> None:
    _write(tmp_path, form, WRITERS[form](chosen("ner"), Labels(("PER", "LOC"), of_words=True)))
    (found,) = read_tagged(f"jsonl:{tmp_path}", ("train",)).values()
    assert [(sentence.words, sentence.tags) for sentence in found.sentences] == [
        (("Ada", "Boole", "in", "Rome"), ("B-PER", "I-PER", "O", "B-LOC")),
        (("nothing", "é"), ("O", "O")),
    ]


def _write(folder: pathlib.Path, form: str, text: str) -> None:
    """Writes a file as the tool gives it back: its pre-annotations are accepted."""
    if form == "doccano":
        (folder / "train.jsonl").write_text(text)
        return
    tasks = json.loads(text)
    for task in tasks:
        assert "annotations" not in task and task["predictions"][0]["model_version"] == "jaxfm"
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    (folder / "train.json").write_text(json.dumps(tasks))


def test_the_tasks_of_label_studio() -> None:
    first, second = json.loads(WRITERS["label_studio"](chosen("ner"), Labels(("PER",), of_words=True)))
    assert first["predictions"][0]["score"] == 0.6  # the least of its entities
    assert "score" not in second["predictions"][0]
    value = first["predictions"][0]["result"][0]["value"]
    assert value == {"start": 0, "end": 9, "text": "Ada Boole", "labels": ["PER"]}
    assert first["data"] | {"text": ""} == {"text": "", "id": 1, "rank": 1, "score": 0.5, "origin": "in.txt:1"}


def test_the_configuration_of_label_studio() -> None:
    for labels, tag, kind in (
        (SINGLE, "Choices", "single"),
        (Labels(("a<b",), several=True), "Choices", "multiple"),
        (Labels(("PER", "LOC"), of_words=True), "Labels", None),
    ):
        view = ElementTree.fromstring(label_studio_config(labels, pairs=True))
        block = view.find(tag)
        assert block is not None and block.get("choice") == kind and block.get("toName") == "text"
        assert [each.get("value") for each in block] == list(labels.names)
        assert [each.get("value") for each in view.findall("Text")] == ["$text", "$pair"]
