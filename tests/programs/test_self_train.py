"""jaxfm.self_train: rounds that go on where they were stopped, what they learn from, and what is refused."""

import functools
import json
import pathlib
from typing import Any

import numpy as np
import pytest

import jaxfm
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.near_texts import text_key
from jaxfm.data.records.sources import read_tagged
from jaxfm.errors import UserError
from jaxfm.files import write_json
from jaxfm.parallel.preemption import Paused
from jaxfm.programs import self_train as program
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.programs.self_train import self_train
from jaxfm.programs.self_train_rounds import JSON_FILE, MARKDOWN_FILE
from jaxfm.programs.train import train
from tests import tiny

STEPS = 4
SURE = 0.55
LEARNED: dict[str, Any] = {"threshold": SURE, "overrides": {"train.steps": STEPS, "eval.every_steps": 2}}
TEXTS = [" ".join(words) for words, _ in tiny.sentences(40, 77)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("self_train")


@pytest.fixture(scope="module")
def teacher(folder: pathlib.Path) -> pathlib.Path:
    """A run of random weights with the report of a bad one: a round is better."""
    workdir = tiny.write_runs(folder, ("classification",))["classification"]
    splits = {split: {"accuracy": 0.0} for split in ("valid", "test")}
    write_json(workdir / "report.json", {"training": {"steps": 1}, "splits": splits})
    return workdir


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path, teacher: pathlib.Path) -> dict[str, Any]:
    return self_train(None, folder / "whole", TEXTS, teacher=teacher, rounds=1, **LEARNED)


def test_a_round_is_an_ordinary_run_over_both_kinds_of_labels(
    folder: pathlib.Path, teacher: pathlib.Path, whole: dict[str, Any]
) -> None:
    data = folder / "whole-rounds" / "labels_1" / "data"
    splits = read_examples(f"jsonl:{data}", None, columns=ExampleColumns(), kind="single", holdout=0.0)
    first = read_examples(f"jsonl:{folder / 'single'}", None, columns=ExampleColumns(), kind="single", holdout=0.0)
    assert [len(splits[name].examples) for name in ("valid", "test")] == [tiny.SIZES["valid"], tiny.SIZES["test"]]
    own, labelled = splits["train"].examples, first["train"].examples
    assert [(each.text, each.target) for each in own[: len(labelled)]] == [(e.text, e.target) for e in labelled]
    pseudo = own[len(labelled) :]
    said = {each["text"]: each for each in Model(teacher)([each.text for each in pseudo])}
    assert pseudo and all(each.target == said[each.text]["label"] for each in pseudo)
    assert all(said[each.text]["score"] >= SURE - 1e-4 for each in pseudo)
    known = {text_key(each.text) for split in first.values() for each in split.examples}
    assert not known & {text_key(each.text) for each in pseudo}
    left_out = [text for text in TEXTS if text_key(text) not in known and text not in said]
    assert all(each["score"] <= SURE + 1e-4 for each in Model(teacher)(left_out))
    facts = whole["rounds"][1]
    assert facts["pseudo_labelled"] == len(pseudo) and facts["labelled"] == len(labelled)
    assert sum(facts["classes"].values()) == len(pseudo) and facts["agreement"] is None


def test_the_best_round_is_kept(folder: pathlib.Path, teacher: pathlib.Path, whole: dict[str, Any]) -> None:
    metric = whole["metric"]
    scores = [each["scores"]["valid"] for each in whole["rounds"]]
    assert whole["kept"] == int(np.argmax(scores)) == 1
    assert evaluate(folder / "whole", "valid").metrics[metric] == pytest.approx(max(scores), abs=1e-6)
    assert "Rounds of self-training" in (folder / "whole" / MARKDOWN_FILE).read_text()
    again = self_train(None, folder / "whole", TEXTS, teacher=teacher, rounds=1, **LEARNED)
    assert again == json.loads((folder / "whole" / JSON_FILE).read_text()) == whole  # nothing is trained again
    stricter: dict[str, Any] = {**LEARNED, "threshold": 0.6}
    with pytest.raises(UserError, match="another command .threshold 0.55, now 0.6"):
        self_train(None, folder / "whole", TEXTS, teacher=teacher, rounds=1, **stricter)


def test_stopped_in_the_middle_of_a_round(
    folder: pathlib.Path, teacher: pathlib.Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = functools.partial(self_train, None, folder / "again", TEXTS, teacher=teacher, rounds=1, **LEARNED)
    with monkeypatch.context() as patch:
        patch.setattr(program, "train", functools.partial(train, pause=lambda step, total: True))
        with pytest.raises(Paused):
            again()
    assert not (folder / "again").exists()
    labels = folder / "again-rounds" / "labels_1"
    before = (labels / "facts.json").stat().st_mtime_ns
    found = again()
    assert (labels / "facts.json").stat().st_mtime_ns == before
    assert [each["scores"] for each in found["rounds"]] == [each["scores"] for each in whole["rounds"]]
    results = [Model(folder / f"{name}-rounds" / "round_1")(TEXTS) for name in ("whole", "again")]
    assert results[0] == results[1]
    with pytest.raises(UserError, match="the surest has 0"):  # nothing is begun: the next command may be another one
        self_train(None, folder / "other", TEXTS, teacher=teacher, rounds=1, threshold=1.0)
    program._home(folder / "other", {"threshold": 0.5})
    (folder / "again" / JSON_FILE).unlink()
    with pytest.raises(UserError, match="again: is there already"):
        again()
    (folder / "again").rename(folder / "moved")
    with pytest.raises(UserError, match=r"again-rounds holds rounds of another command \(rounds 1, now 2\)"):
        self_train(None, folder / "again", TEXTS, teacher=teacher, rounds=2, **LEARNED)


@pytest.mark.slow
def test_rounds_of_a_tagger_from_its_config(tmp_path: pathlib.Path) -> None:
    config = tiny.config(tmp_path, train__steps=STEPS)
    found = self_train(
        config, tmp_path / "st", TEXTS, rounds=2, threshold=0.3, over="mean", per_class=10, balance=True, labels="soft"
    )
    rounds = found["rounds"]
    assert [each["round"] for each in rounds] == [0, 1, 2] and 0 <= rounds[2]["agreement"] <= 1
    data = tmp_path / "st-rounds" / "labels_2" / "data"
    splits = read_tagged(f"jsonl:{data}", None)
    assert len(splits["train"].sentences) == tiny.SIZES["train"] + rounds[2]["pseudo_labelled"]
    assert splits["valid"].sentences[0].words == read_tagged(config.data.source, ("valid",))["valid"].sentences[0].words
    written = json.loads((tmp_path / "st-rounds" / "round_2" / "config.json").read_text())
    assert str(tmp_path / "st-rounds" / "round_1") in json.dumps(written["config"]["distil"])
    assert Model(tmp_path / "st")("ada met emmy")["text"] == "ada met emmy"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "--rounds=0: must be at least 1"),
        ({"threshold": 1.5}, "--threshold=1.5: must be a probability above 0"),
        ({"per_class": -1}, "--per_class=-1: must be 0"),
        ({"labels": "softt"}, "--labels=softt: .* Did you mean 'soft'"),
        ({"over": "mix"}, "--over=mix: .* Did you mean 'min'"),
        ({"config": "ner"}, "CONFIG, --teacher: give one of them"),
        ({"texts": [" "]}, "has no unlabelled text left"),
        ({"texts": []}, "is empty: it has no record"),
        ({"threshold": 1.0}, "--threshold=1: none of the .* unlabelled records is so sure; the surest has 0"),
        ({"overrides": {"data.source": "csv:other"}}, "the labelled data are those of --teacher"),
        ({"overrides": {"train.seeds": 2}}, "config.train.seeds, .*: a round is one run"),
    ],
)
def test_what_is_refused(
    folder: pathlib.Path, teacher: pathlib.Path, tmp_path: pathlib.Path, options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"config": None, "texts": TEXTS, "teacher": teacher, **options}
    with pytest.raises(UserError, match=message):
        self_train(given.pop("config"), tmp_path / "st", given.pop("texts"), **given)
    assert not (tmp_path / "st").exists()
    assert jaxfm.self_train is self_train
