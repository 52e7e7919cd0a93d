"""A whole tiny run of question answering: learned, evaluated, asked, exported, continued."""

import json
import pathlib
from typing import NamedTuple

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict, predict_file, read_context
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from tests import tiny


class Run(NamedTuple):
    """A finished run: its folder and its report."""

    workdir: pathlib.Path
    report: dict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("qa")
    tiny.write_questions(folder / "questions", {"train": 240, "valid": 30, "test": 40})
    config = tiny.qa_config(
        folder,
        data__window=40,
        train__steps=240,
        train__batch_size=8,
        eval__every_steps=120,
        model__dropout=0.0,
        optim__learning_rate=5e-3,
    )
    return Run(folder / "run", train(config, folder / "run"))


def test_it_learns(run: Run) -> None:
    scores = run.report["splits"]["test"]
    assert run.report["task"] == "qa" and scores["f1"] > 0.6
    assert evaluate(run.workdir, "test", progress=Progress(0, quiet=True)).metrics["f1"] == scores["f1"]
    for name in ("report.md", "report.html", "predictions/test.jsonl"):
        assert (run.workdir / name).is_file()


def test_answers_are_those_of_the_evaluation_and_stand_in_the_context(run: Run) -> None:
    records = [json.loads(line) for line in (run.workdir / "predictions" / "test.jsonl").read_text().splitlines()]
    source = [json.loads(line) for line in (run.workdir.parent / "questions" / "test.jsonl").read_text().splitlines()]
    found = predict(run.workdir, [{"question": each["question"], "context": each["context"]} for each in source])
    answered = 0
    for result, record, asked in zip(found, records, source, strict=True):
        assert (result["answer"] or "") == record["predicted"]
        assert result["score"] == pytest.approx(record["probability"], abs=1e-3)
        assert 0 <= result["no_answer"] <= 1
        for each in result["answers"]:
            assert asked["context"][each["start"] : each["end"]] == each["text"]
        texts = [each["text"] for each in result["answers"]]
        assert len(set(texts)) == len(texts)
        answered += result["answer"] is not None
    assert 0 < answered < len(found)


def test_a_context_from_a_file_and_blank_ones(run: Run, tmp_path: pathlib.Path) -> None:
    (tmp_path / "context.txt").write_text("ada boole met emmy in ghent .", encoding="utf-8")
    context = read_context(str(tmp_path / "context.txt"))
    model = Model(run.workdir)
    one = model({"text": "met", "pair": context})
    assert model.lines(one)[0] == "met" and len(model.lines(one)) >= 2
    questions = tmp_path / "questions.txt"
    questions.write_text("met\n\nwent to\n")
    count = predict_file(run.workdir, questions, tmp_path / "out.jsonl", Progress(0, quiet=True), context=context)
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert count == 3 and results[0]["answers"] == one["answers"]
    assert results[1] == {"text": "", "answer": None, "score": None, "answers": []}
    assert model.lines(results[1]) == ["", "  (no answer)"]
    with pytest.raises(UserError, match="this model judges pairs of texts: give the second text too"):
        model("met")
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(UserError, match="blank.txt: has no text"):
        read_context(str(tmp_path / "blank.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="byte 0xE9 at position 4 is not UTF-8"):
        read_context(str(tmp_path / "latin.txt"))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_context(str(tmp_path / "none.txt"))


def test_a_long_question_is_cut_and_said(run: Run) -> None:
    long, short = predict(run.workdir, [("met " * 90, "ada left ."), ("met", "ada left .")])
    assert long["cut"] is True and "cut" not in short


def test_transformers_computes_the_same(run: Run, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    export(run.workdir, tmp_path / "hf")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    question, context = "met", "ada boole met emmy in ghent ."
    inputs = tokenizer(question, context, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs)
    found = predict(run.workdir, [(question, context)])[0]
    offsets = tokenizer(question, context, return_offsets_mapping=True)["offset_mapping"]
    of = inputs.encodings[0].sequence_ids
    starts, ends = theirs.start_logits[0].numpy(), theirs.end_logits[0].numpy()
    spans = {
        (offsets[i][0], offsets[j][1]): float(starts[i] + ends[j])
        for i in range(len(of))
        for j in range(i, len(of))
        if of[i] == of[j] == 1
    }
    best = max(spans, key=lambda span: spans[span])
    assert (found["answers"][0]["start"], found["answers"][0]["end"]) == best
    nothing = float(starts[0] + ends[0])
    calibration = json.loads((run.workdir / "calibration.json").read_text())
    t = calibration.get("temperature", 1.0)
    total = np.log(sum(np.exp(score / t) for score in (*spans.values(), nothing)))
    assert found["no_answer"] == pytest.approx(np.exp(nothing / t - total), abs=2e-4)
    assert "AutoModelForQuestionAnswering" in (tmp_path / "hf" / "README.md").read_text()


def test_other_runs_start_from_it(run: Run) -> None:
    config = tiny.qa_config(run.workdir.parent, model__init=f"run:{run.workdir}")
    task, params = registry.create(config, resolve(config.model))
    assert "head: loaded" in task.notes and {"spans/kernel", "spans/bias"} <= set(params)
