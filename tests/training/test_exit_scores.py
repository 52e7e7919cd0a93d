"""What a finished tagger with early heads leaves: its rule, its scores and its curve; what evaluation says of it."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jaxfm.core.evaluation import Evaluation
from jaxfm.evaluation.exits import THRESHOLDS, ExitRule, Places, read_rule
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.training.exit_scores import SplitExits, heads_of, with_exits
from jaxfm.training.saved_run import open_run
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, num_layers=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    folder = tmp_path_factory.mktemp("tagger")
    tiny.write_weights(folder / "weights", ENCODER)
    config = tiny.config(
        folder, exits__every=1, exits__certainty=0.0, exits__max_loss=0.05, train__steps=40, train__batch_size=8
    )
    train(config, folder / "run")
    yield folder / "run"


def report_of(run: pathlib.Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text())["splits"]


def test_a_run_keeps_when_examples_leave_and_what_that_gives(run: pathlib.Path) -> None:
    rule = read_rule(run, (1, 2, 3))
    assert rule.threshold in THRESHOLDS and rule.max_loss == 0.05 and rule.examples == tiny.SIZES["valid"]
    splits = report_of(run)
    for split, scores in splits.items():
        found = scores["exits"]
        assert found["threshold"] == rule.threshold and found["score_of_all_layers"] == scores["f1"], split
        shares = {each["layers"]: each["share"] for each in found["heads"]}
        assert sum(shares.values()) == pytest.approx(1)
        mean = sum(layers * share for layers, share in shares.items())
        assert found["average_layers"] == pytest.approx(mean) and 1 <= mean <= 3
        never, *_, all_at_once = found["curve"]
        assert never == {"threshold": None, "average_layers": 3.0, "score": scores["f1"], "lost": 0.0}
        assert all_at_once["average_layers"] == 1.0 and all_at_once["score"] == found["heads"][0]["score"]
    assert splits["valid"]["exits"]["lost"] <= 0.05
    assert (run / "plots" / "valid_exits.png").is_file()
    text = (run / "report.md").read_text()
    assert "layers on average" in text and "plots/valid_exits.png" in text and "head after layer" in text


def test_evaluation_says_what_the_report_says(run: pathlib.Path) -> None:
    found, wanted = evaluate(run, "test"), report_of(run)["test"]
    assert found.scores["exits"]["average_layers"] == pytest.approx(wanted["exits"]["average_layers"])
    assert found.scores["exits"]["score"] == pytest.approx(wanted["exits"]["score"])
    assert any("Early exit" in table.title for table in found.tables) and found.metrics["f1"] == wanted["f1"]


def test_sentences_that_leave_have_the_entities_that_were_scored(run: pathlib.Path) -> None:
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    model, records = Model(run), [{"tokens": line["words"], "text": " ".join(line["words"])} for line in lines]
    found = [
        {(each["type"], each["start_word"], each["end_word"]) for each in result["entities"]}
        for result in model(records)
    ]
    gold = [
        {(each["type"], each["start"], each["end"]) for each in [*line["right"], *line["missed"]]} for line in lines
    ]
    right = sum(len(one & other) for one, other in zip(found, gold, strict=True))
    scores = report_of(run)["test"]["exits"]
    assert 2 * right / (sum(map(len, found)) + sum(map(len, gold))) == pytest.approx(scores["score"])
    assert model.layers is not None and model.layers.average == pytest.approx(scores["average_layers"])
    assert model.layers.average < 3
    whole, surest = Model(run, exit="never")(records), Model(run, exit=1.0)(records)
    assert [[each["start"] for each in result["entities"]] for result in whole] == [
        [each["start"] for each in result["entities"]] for result in surest
    ]


def test_the_threshold_is_the_lowest_that_loses_no_more_than_it_may(run: pathlib.Path) -> None:
    opened: Any = open_run(run)
    assert heads_of(opened.spec) == (1, 2, 3) and heads_of(dataclasses.replace(opened.spec, exits=())) == ()

    class Errors:
        """A scorer of four examples, the first of which is right by all layers and wrong before."""

        def calibrate(self, outputs: Any) -> dict[str, float]:
            return {"temperature": 2.0}

        def error_shares(self, outputs: Any, calibration: Any) -> np.ndarray:
            return np.asarray(outputs["logits"][:, 0, 1], np.float64)

        def metrics(self, outputs: Any) -> dict[str, float]:
            return {"f1": 1 - float(outputs["logits"][:, 0, 1].mean())}

    def logits(sure: list[float], wrong: list[int]) -> dict[str, np.ndarray]:
        made = np.zeros((4, 1, 3))
        made[:, 0, 0], made[:, 0, 1] = sure, wrong
        return {"logits": made}

    places = Places(np.stack([np.arange(4), np.zeros(4, int), np.zeros(4, int)], axis=1), np.ones((4, 1), int))
    outputs = {
        1: logits([4, 8, 12, 16], [1, 0, 0, 0]), 2: logits([4, 8, 12, 16], [1, 0, 0, 0]), 3: logits([9] * 4, [0] * 4),
    }  # fmt: skip
    split = SplitExits(opened.spec, Errors(), places, outputs, {})  # type: ignore[arg-type]
    rule = split.fit(tiny.replaced(opened.config, exits__max_loss=0.1))
    sure = np.exp(2) / (np.exp(2) + np.exp(0.5) + 1), np.exp(4) / (np.exp(4) + 2)
    assert rule.threshold == min(each for each in THRESHOLDS if each > sure[0])
    found = split.described(rule, "f1")
    assert found["average_layers"] == (1 * 3 + 3) / 4 and found["lost"] == 0.0
    everything = split.fit(tiny.replaced(opened.config, exits__max_loss=0.25))
    assert everything.threshold == 0.0
    shown = with_exits(Evaluation({}, {}, (), ()), found, "valid")
    assert set(shown.plots) == {"exits"} and shown.scores["exits"]["score"] == 1.0


def test_without_a_threshold_it_is_said_why(run: pathlib.Path) -> None:
    spec = open_run(run).spec
    rule = ExitRule((1, 2, 3), (1.0,) * 3)
    assert rule.threshold is None and "no validation split" in rule.why and heads_of(spec) == rule.layers
