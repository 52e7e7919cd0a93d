"""A classifier whose texts leave early: as a Python object, by the programs, served, exported."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.evaluation.exits import EXITS_FILE
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import exit_summary, predict_file
from jaxfm.programs.quantise import quantise
from jaxfm.programs.serve import load_models
from jaxfm.programs.train import train
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, num_layers=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    folder = tmp_path_factory.mktemp("classifier")
    tiny.write_weights(folder / "weights", ENCODER)
    config = tiny.classification_config(
        folder, exits__every=1, exits__certainty=0.0, exits__max_loss=0.3, train__steps=30, train__batch_size=8
    )
    train(config, folder / "run")
    yield folder / "run"


@pytest.fixture(scope="module")
def texts(run: pathlib.Path) -> list[str]:
    lines = (run / "predictions" / "test.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def scores_of(model: Model, texts: list[str]) -> np.ndarray:
    return np.asarray([[*found["scores"].values()] for found in model(texts)])


def test_results_are_those_that_evaluation_scores(run: pathlib.Path, texts: list[str]) -> None:
    model, scores = Model(run), evaluate(run, "test").scores["exits"]
    found = model(texts)
    gold = [json.loads(line)["gold"] for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    accuracy = np.mean([each["label"] == wanted for each, wanted in zip(found, gold, strict=True)])
    assert accuracy == pytest.approx(scores["score"])
    assert model.layers is not None and model.layers.average == pytest.approx(scores["average_layers"])
    assert model.layers.examples == len(texts) and model.layers.average < 3
    assert f"{scores['average_layers']:.2f} of 3 layers" in exit_summary(model)
    assert model.units.computed >= model.units.useful > 0


def test_never_is_the_whole_model(run: pathlib.Path, texts: list[str]) -> None:
    never, surest = Model(run, exit="never"), Model(run, exit=1.0)
    assert never.layers is None and exit_summary(never) == ""
    np.testing.assert_allclose(scores_of(never, texts), scores_of(surest, texts), atol=1e-4)  # of 4 decimals
    assert surest.layers is not None and surest.layers.average == 3
    predicted = [json.loads(line)["scores"] for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(scores_of(never, texts), [[*each.values()] for each in predicted], atol=1e-4)
    first = Model(run, exit=0.0)
    first(texts)
    assert first.layers is not None and first.layers.average == 1


def test_a_text_alone_has_the_result_that_it_has_among_others(run: pathlib.Path, texts: list[str]) -> None:
    model = Model(run)
    together = scores_of(model, texts)
    alone = np.concatenate([scores_of(model, [text]) for text in texts[:4]])
    np.testing.assert_allclose(alone, together[:4], atol=1e-4)
    assert list(Model(run).warm(8)) and model([]) == [] and model("")["label"] is None


def test_a_file_is_written_with_what_it_took(run: pathlib.Path, texts: list[str], tmp_path: pathlib.Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    assert predict_file(run, tmp_path / "in.txt", tmp_path / "out.jsonl", exit=0.5) == len(texts)
    printed = capsys.readouterr()
    assert "inputs leave early from a confidence of 0.5" in printed.out + printed.err
    assert f"{len(texts):,} took" in printed.out + printed.err


def test_what_cannot_be_is_refused(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for wrong in (1.5, "soon"):
        with pytest.raises(UserError, match=f"--exit={wrong}: must be a confidence from 0"):
            Model(run, exit=wrong)
    with pytest.raises(UserError, match="has early heads"):
        quantise(run, tmp_path / "rounded")
    assert not (tmp_path / "rounded").exists()
    config = tiny.classification_config(run.parent, train__steps=2)
    train(config, tmp_path / "plain")
    with pytest.raises(UserError, match="has no early heads"):
        Model(tmp_path / "plain", exit=0.5)
    assert Model(tmp_path / "plain").exit_note == ""


def test_what_is_exported_has_all_layers(run: pathlib.Path, tmp_path: pathlib.Path, texts: list[str]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    export(run, tmp_path / "hf")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        logits = model(**tokenizer(texts[:4], return_tensors="pt", padding=True)).logits
    labels = [model.config.id2label[int(number)] for number in logits.argmax(dim=-1)]
    assert labels == [each["label"] for each in Model(run, exit="never")(texts[:4])]
    assert model.config.num_hidden_layers == 3
    export(run, tmp_path / "stablehlo", "stablehlo")


def test_a_server_lets_texts_leave_unless_it_is_told_not_to(run: pathlib.Path) -> None:
    assert load_models({"one": str(run)})["one"].layers is not None
    assert load_models({"one": str(run)}, exits=False)["one"].layers is None


def test_a_run_without_a_threshold_says_why(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "copy")
    values = json.loads((tmp_path / "copy" / EXITS_FILE).read_text())
    (tmp_path / "copy" / EXITS_FILE).write_text(json.dumps({**values, "threshold": None, "why": "too few"}))
    model = Model(tmp_path / "copy")
    assert model.layers is None and model.exit_note == "no input leaves early: too few"
    (tmp_path / "copy" / EXITS_FILE).write_text("{}")
    with pytest.raises(UserError, match="was not written by jaxfm"):
        Model(tmp_path / "copy")
