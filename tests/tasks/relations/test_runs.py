"""A tiny run of relations through every program, and the chain with a run that finds entities."""

import json
import pathlib
import shutil

import pytest

from jaxfm.core.task import FindsEntities, ReadsEntities
from jaxfm.data.records.relation_forms import mark, read_related
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.check import check
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict, predict_file
from jaxfm.programs.train import train
from jaxfm.programs.verify import verify
from jaxfm.training.saved_run import open_run
from tests import tiny
from tests.tasks.relations.test_task import create


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of relations, `run`, and an untrained one of NER, `run_ner`."""
    folder = tmp_path_factory.mktemp("relations")
    config = tiny.relations_config(folder, train__steps=60, eval__every_steps=30, model__dropout=0.0)
    report = train(config, folder / "run")
    assert report["task"] == "relations" and report["splits"]["test"]["macro_f1"] > 0.9
    tiny.write_runs(folder, ["ner"])
    return folder


def quiet() -> Progress:
    return Progress(0, quiet=True)


def test_predictions_are_those_of_the_run(folder: pathlib.Path) -> None:
    run = folder / "run"
    records = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    assert evaluate(run, "test", progress=quiet()).metrics["macro_f1"] > 0.9
    asked = [{"text": each["text"], "head": each["head"], "tail": each["tail"]} for each in records]
    found = predict(run, asked)
    for result, record in zip(found, records, strict=True):
        assert result["label"] == record["predicted"] and result["head"] == record["head"]
        assert result["scores"] == pytest.approx(record["scores"], abs=1e-3)
    lines = Model(run).lines(found[0])
    assert lines[0].count("<e1>") == 1 and len(lines) == 4 and records[0]["predicted"] in lines[1]


def test_a_report_shows_the_pair_of_an_error(folder: pathlib.Path) -> None:
    text = (folder / "run" / "report.md").read_text()
    assert "macro f1" in text and "jaxfm.export" not in text  # which would be refused
    assert '--entities=DIR "TEXT"' in text


def test_files_of_pairs_and_of_entities(folder: pathlib.Path) -> None:
    text, source, output = "ada met hull", folder / "in.jsonl", folder / "out.jsonl"
    sides = {"head": {"start": 0, "end": 3, "type": "PER"}, "tail": {"start": 8, "end": 12, "type": "LOC"}}
    entities = list(sides.values())
    records = [
        {"id": 1, "text": text, **sides},
        {"id": 2, "text": text, "entities": entities},
        {"id": 3, "text": text, "entities": entities, "relations": [{"head": 1, "tail": 0}]},
        {"id": 4, "text": ""},
        {"id": 5, "text": text, "entities": []},
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert predict_file(folder / "run", source, output, quiet()) == 5
    one, triples, named, empty, none = [json.loads(line) for line in output.read_text().splitlines()]
    assert one["id"] == 1 and one["label"] == "visit(e1,e2)" and one["tail"]["text"] == "hull"
    (triple,) = triples["triples"]
    assert triple["subject"]["text"] == "ada" and triple["object"]["text"] == "hull" and triple["relation"] == "visit"
    assert triple["label"] == "visit(e1,e2)" and triple["score"] == one["score"] and triples["pairs"] == 1
    assert triples["entities"] == entities and named["pairs"] == 1  # hull before ada was never seen: judged if named
    assert empty == {"id": 4, "text": "", "label": None, "score": None, "scores": {}}
    assert none["triples"] == [] and none["pairs"] == 0
    model = Model(folder / "run")
    assert model.lines(triples)[1:] == [f"  {triple['score']:.3f}  ada (PER 0-3)  visit  hull (LOC 8-12)"]
    assert model.lines(none)[1:] == ["  (no entities)"] and model.lines(empty)[-1] == "  (no text)"


def test_the_direction_of_a_class_is_that_of_the_triple(folder: pathlib.Path) -> None:
    text = "hull saw ada"
    entities = [{"start": 0, "end": 4, "type": "LOC"}, {"start": 9, "end": 12, "type": "PER"}]
    (triple,) = predict(folder / "run", {"text": text, "entities": entities})["triples"]
    assert (
        triple["label"] == "visit(e2,e1)" and triple["subject"]["text"] == "ada" and triple["object"]["text"] == "hull"
    )


def test_a_csv_file_of_columns_and_a_file_of_marked_lines(folder: pathlib.Path) -> None:
    source, output = folder / "in.csv", folder / "csv.jsonl"
    head = "text,head_start,head_end,head_type,tail_start,tail_end,tail_type\n"
    source.write_text(head + "ada met hull,0,3,PER,8,12,LOC\n")
    assert predict_file(folder / "run", source, output, quiet()) == 1
    assert json.loads(output.read_text())["label"] == "visit(e1,e2)"
    marked = folder / "in.txt"
    marked.write_text("<e1>ada</e1> met <e2>hull</e2>\n")
    with pytest.raises(UserError, match=r"in.txt:1: the head 'ada' has no type, but the markers of this model have"):
        predict_file(folder / "run", marked, folder / "none.jsonl", quiet())
    assert not (folder / "none.jsonl").exists()
    with pytest.raises(UserError, match=r"text 1: a pair without markers"):
        predict(folder / "run", ["ada met hull"])


def test_texts_become_triples_by_a_run_that_finds_entities(folder: pathlib.Path) -> None:
    chain = Model(folder / "run", entities=folder / "run_ner")
    finder = Model(folder / "run_ner")
    assert isinstance(finder._predictor, FindsEntities) and isinstance(chain._predictor, ReadsEntities)
    texts = ["ada met hull . boole saw ghent in arles", "", "met"]
    results, found = chain(texts), finder(texts)
    for result, entities in zip(results, found, strict=True):
        assert result["text"] == entities["text"] and result["entities"] == entities["entities"]
        for triple in result["triples"]:
            for side in ("subject", "object"):
                assert triple[side]["text"] == result["text"][triple[side]["start"] : triple[side]["end"]]
    again = [
        Model(folder / "run")({"text": each["text"], "entities": each["entities"]}) for each in found if each["text"]
    ]
    assert again == [result for result in results if result["text"]]
    source, output = folder / "texts.txt", folder / "triples.jsonl"
    source.write_text("\n".join(texts) + "\n")
    assert predict_file(folder / "run", source, output, quiet(), entities=folder / "run_ner") == 3
    assert [json.loads(line) for line in output.read_text().splitlines()] == results


def test_runs_that_do_not_go_together(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="is a run of the task relations, which finds no entities"):
        Model(folder / "run", entities=folder / "run")
    with pytest.raises(UserError, match="the model of --workdir does not relate entities: leave out the flag"):
        Model(folder / "run_ner", entities=folder / "run_ner")
    shutil.copytree(folder / "run_ner", tmp_path / "other")
    path = tmp_path / "other" / "task.json"
    path.write_text(path.read_text().replace("-PER", "-PERSON").replace("-LOC", "-PLACE"))
    with pytest.raises(UserError, match="no two of these were related in training, which has LOC to PER, PER to LOC"):
        Model(folder / "run", entities=tmp_path / "other")


def test_exports(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for format in ("hf", "onnx"):
        if format == "onnx":
            pytest.importorskip("onnx")
        with pytest.raises(UserError, match="transformers has no class that reads the vectors at the markers"):
            export(folder / "run", tmp_path / format, format)
        assert not (tmp_path / format).exists()
    export(folder / "run", tmp_path / "stablehlo", "stablehlo")
    assert json.loads((tmp_path / "stablehlo" / "model.json").read_text())["labels"][0] == "Other"


def test_without_markers_it_is_a_classifier_that_others_open(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = tiny.relations_config(folder, task__markers="none", train__steps=4)
    train(config, tmp_path / "run")
    target = export(tmp_path / "run", tmp_path / "hf")
    values = json.loads((target / "config.json").read_text())
    assert values["architectures"] == ["BertForSequenceClassification"] and values["id2label"]["1"] == "visit(e1,e2)"
    assert "Relation of two entities" in (target / "README.md").read_text()
    found = verify(f"run:{tmp_path / 'run'}", f"dir:{target}", ["ada met hull", "in the town"])
    assert found.within(1e-5)
    assert open_run(tmp_path / "run").predictor().hf_problem() == ""
    result = predict(tmp_path / "run", {"text": "ada met hull", "head": [0, 3], "tail": [8, 12]})
    assert result["label"] in values["id2label"].values()


def test_head_and_markers_of_a_run_come_along(folder: pathlib.Path) -> None:
    task, loaded, notes = create(tiny.relations_config(folder, model__init=f"run:{folder / 'run'}"))
    assert any(note.startswith("head: loaded, its classes are the data's, 3 classes") for note in notes)
    assert "markers: the tokenizer and the word embedding have all 8 of them" in notes
    assert {"dense/kernel", "dense/bias", "head/kernel", "head/bias"} <= set(loaded)
    assert task.objective.spec.encoder.vocab_size == open_run(folder / "run").spec.encoder.vocab_size
    # Without markers it is another head.
    _, loaded, notes = create(tiny.relations_config(folder, model__init=f"run:{folder / 'run'}", task__markers="none"))
    assert "dense/kernel" not in loaded and any(note.startswith("head: new") for note in notes)


def test_check_looks_at_pairs(folder: pathlib.Path) -> None:
    found = check(tiny.relations_config(folder))
    assert found.count("error") == 0
    named = {each.check: each for each in found.findings}
    assert named["negative class"].message.startswith("'Other' says that a pair is not related: ")
    assert named["distance"].level == named["edges"].level == "ok" and "updates" in named
    assert [table.title for table in found.tables] == ["Splits", "Relations"]


def test_marked_records_and_spans_are_one(folder: pathlib.Path) -> None:
    record = {"text": "ada met hull", "head": [0, 3, "PER"], "tail": [8, 12, "LOC"]}
    related = read_related(record, "x")
    assert mark(related.text, *related.entities) == "<e1>ada</e1> met <e2>hull</e2>"
