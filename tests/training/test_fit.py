"""Whole runs in process: scored, stopped early, and what they leave behind."""

import gc
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from jaxfm import schema
from jaxfm.config import Config
from jaxfm.core.objective import Loss
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.train import train
from jaxfm.tasks.ner.objective import NerObjective
from jaxfm.tasks.ner.scorer import NerScorer
from jaxfm.training.best import Best
from jaxfm.training.member import gives_up
from tests import tiny
from tests.training.whole_run import BASE, Saved, Whole, assert_equal_to, lines, record_saves, whole_run

# Where one of Orbax's reads of a damaged checkpoint fails, it leaves the others behind unfinished.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_unfinished_reads() -> Iterator[None]:
    yield
    gc.collect()  # here, where their warnings are ignored, and not in a later test


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("fit")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.config(folder, **BASE)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    return record_saves(monkeypatch)


@pytest.fixture(scope="module")
def whole(config: Config, folder: pathlib.Path) -> Iterator[Whole]:
    yield from whole_run(config, folder)


def script(patch: pytest.MonkeyPatch, values: list[float], metric: str = "f1") -> None:
    """Has successive validations give these values of the metric; the last one stays."""
    plain, left = NerScorer.metrics, list(values)

    def metrics(self: NerScorer, outputs: Any) -> Any:
        value = left.pop(0) if len(left) > 1 else left[0]
        return {**plain(self, outputs), "loss": 1.0, metric: value}

    patch.setattr(NerScorer, "metrics", metrics)


def record_outputs(patch: pytest.MonkeyPatch, scored: list[Any]) -> None:
    """Has the outputs of every evaluation and report added to a list."""

    def recorded(name: str) -> Callable[..., Any]:
        plain = getattr(NerScorer, name)

        def record(self: NerScorer, outputs: Any, *rest: Any) -> Any:
            scored.append(outputs)
            return plain(self, outputs, *rest)

        return record

    for name in ("metrics", "report"):
        patch.setattr(NerScorer, name, recorded(name))


def steps_in(workdir: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def test_the_best_checkpoint_is_the_one_reported(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, saved: Saved
) -> None:
    every = tiny.replaced(config, eval__every_steps=3, checkpoint__keep_last=1)
    script(monkeypatch, [0.2, 0.6, 0.5, 0.6])
    scored = []
    record_outputs(monkeypatch, scored)
    report = train(every, tmp_path / "run")
    assert report["training"]["chosen_step"] == 6 and report["training"]["steps"] == 12  # the first of two equals
    assert steps_in(tmp_path / "run") == [6, 12]
    assert sorted(saved) == [3, 6, 9, 12] and len(set(saved.values())) == 4
    # What is reported is computed with the parameters of step 6, not with the last ones.
    valid = scored[:5]  # four evaluations and the report of valid, then that of test
    assert len(scored) == 6
    np.testing.assert_array_equal(valid[4]["logits"], valid[1]["logits"])
    assert not np.array_equal(valid[4]["logits"], valid[3]["logits"])
    # The same scores, but the last checkpoint asked for.
    script(monkeypatch, [0.2, 0.6, 0.5, 0.6])
    valid.clear()
    record_outputs(monkeypatch, valid)
    last = train(tiny.replaced(every, eval__select="last", checkpoint__keep_optimizer=False), tmp_path / "last")
    assert last["training"]["chosen_step"] == 12
    assert valid[4] is valid[3]  # what the loop has computed is not computed again
    # Of this one the weights of the chosen step are kept alone, and they are those that were scored.
    assert steps_in(tmp_path / "last") == [12] and not (tmp_path / "last" / "checkpoints" / "12" / "rest").exists()
    assert evaluate(tmp_path / "last", "test").metrics["loss"] == last["splits"]["test"]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("values", [[math.nan], pytest.param([math.nan, 0.2, math.nan], marks=pytest.mark.slow)])
def test_a_metric_that_is_not_defined_loses_no_run(
    config: Config, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], values: list[float]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        script(patch, values)
        report = train(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert "predictions of step 5; checkpoints are compared by loss instead." in said
    assert report["training"]["chosen_step"] == (5 if len(values) == 1 else 10)
    assert steps_in(tmp_path / "run") == ([5, 10, 12] if len(values) == 1 else [10, 12])


@pytest.mark.parametrize(("steps", "step", "ends"), [(0, 199, False), (0, 200, True), (300, 10, True)])
def test_early_stopping_waits_for_the_least_updates(steps: int, step: int, ends: bool) -> None:
    values = {"eval.patience": 2, "train.min_steps": 200, "train.steps": steps}
    config = schema.replaced(Config(), values)
    assert gives_up(Best(waited=2), config, step) == ends
    assert not gives_up(Best(waited=1), config, 10_000)


@pytest.mark.slow
def test_a_run_that_gets_no_better_stops(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = tiny.replaced(config, eval__every_steps=2, eval__patience=2, checkpoint__keep_last=1, eval__metric="loss")
    script(monkeypatch, [0.9, 0.3, 0.5, math.nan, 0.1, 0.1], metric="loss")
    report = train(every, tmp_path / "run")
    assert report["training"]["steps"] == 8 and report["training"]["chosen_step"] == 4
    assert "stopped early: 2 evaluations without a better loss" in capsys.readouterr().out
    assert steps_in(tmp_path / "run") == [4, 8]
    written = lines(tmp_path / "run")
    # Killed after its last save but before the report: it goes on to the report, not to another step.
    (tmp_path / "run" / "report.json").unlink()
    script(monkeypatch, [0.1], metric="loss")
    again = train(every, tmp_path / "run")
    assert again["training"]["steps"] == 8 and again["training"]["chosen_step"] == 4
    assert again["splits"] == report["splits"]
    assert str(lines(tmp_path / "run")) == str(written)  # as text, where a NaN equals a NaN


@pytest.mark.parametrize("splits", [("train", "test"), pytest.param(("train",), marks=pytest.mark.slow)])
def test_a_run_without_a_validation_split_reports_what_there_is(
    config: Config, splits: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    source = pathlib.Path(config.data.source.removeprefix("conll:"))
    (tmp_path / "corpus").mkdir()
    for split in splits:
        shutil.copy(source / f"{split}.conll", tmp_path / "corpus")
    values = tiny.replaced(config, data__source=f"conll:{tmp_path / 'corpus'}", data__holdout=0.0)
    report = train(values, tmp_path / "run")
    assert tuple(report["splits"]) == splits[1:]
    assert report["training"]["chosen_step"] == report["training"]["steps"] == 12
    assert {line["split"] for line in lines(tmp_path / "run")} == {"train"}
    assert (tmp_path / "run" / "report.md").is_file()
    assert (tmp_path / "run" / "predictions").is_dir() == ("test" in splits)


# What a run leaves behind.


def test_metrics_are_written_at_their_steps(whole: Whole) -> None:
    written = read_metrics(whole.workdir / "metrics.jsonl")
    assert [(line["step"], line["split"]) for line in written] == [
        (4, "train"),
        (5, "valid"),
        (8, "train"),
        (10, "valid"),
        (12, "train"),
        (12, "valid"),
    ]
    for line in written:
        assert all(math.isfinite(value) for name, value in line.items() if name != "split"), line
        if line["split"] == "train":
            assert line["skipped"] == 0.0 and line["useful_tokens_per_second"] > 0
            assert line["epoch"] == pytest.approx(line["step"] * 8 / 31)
        else:
            assert {"f1", "precision", "recall", "loss", "accuracy"} <= set(line)
    rates = [line["learning_rate"] for line in written if line["split"] == "train"]
    # Warm-up over round(0.1 x 12) = 1 step; the rate shown is that of the update just made.
    assert rates == pytest.approx([1e-2 * (12 - step) / 11 for step in (3, 7, 11)], rel=1e-5)
    (events,) = whole.workdir.glob("events.out.tfevents.*")
    assert b"valid/f1" in events.read_bytes() and b"train/loss" in events.read_bytes()


def test_the_report_holds_what_is_promised(whole: Whole) -> None:
    report = json.loads((whole.workdir / "report.json").read_text())
    assert report == whole.report
    assert report["task"] == "ner" and set(report["splits"]) == {"valid", "test"}
    for scores in report["splits"].values():
        assert {"f1", "precision", "recall", "per_type"} <= set(scores)
        assert set(scores["per_type"]) == {"LOC", "PER"}
        assert all(0 <= scores[name] <= 1 for name in ("f1", "precision", "recall"))
        low, high = scores["intervals"]["metrics"]["f1"]
        assert low <= scores["f1"] <= high and low < high
    # valid has too few sentences to fit a temperature to, which is kept and said.
    assert json.loads((whole.workdir / "calibration.json").read_text()) == {"examples": tiny.SIZES["valid"]}
    assert all("calibrated" not in scores["calibration"] for scores in report["splits"].values())
    assert "too few to fit one" in (whole.workdir / "report.md").read_text()
    training = report["training"]
    assert training["steps"] == 12 and training["seconds"] > 0 and training["tokens_per_second"] > 0
    assert training["seconds"] == pytest.approx(sum(training["goodput"].values()))
    assert 0.5 < training["useful_token_share"] <= 1
    # The valid scores of the chosen step are those that were logged for it.
    (line,) = [
        line for line in lines(whole.workdir) if line["split"] == "valid" and line["step"] == training["chosen_step"]
    ]
    assert line["f1"] == report["splits"]["valid"]["f1"]
    validations = [line for line in lines(whole.workdir) if line["split"] == "valid"]
    best = max(validations, key=lambda line: (line["f1"], -line["loss"]))
    assert best["step"] == training["chosen_step"]
    text = (whole.workdir / "report.md").read_text()
    assert f"{report['splits']['test']['f1']:.4f}" in text and "plots/curves.png" in text


def test_every_word_has_one_prediction_and_they_score_as_reported(whole: Whole, config: Config) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    for split in ("valid", "test"):
        seed = list(tiny.SIZES).index(split)
        records = [json.loads(line) for line in (whole.workdir / f"predictions/{split}.jsonl").open()]
        gold = tiny.sentences(tiny.SIZES[split], seed)
        assert [(record["words"], record["gold"]) for record in records] == gold
        predicted = [record["predicted"] for record in records]
        assert [len(tags) for tags in predicted] == [len(words) for words, _ in gold]
        scores = whole.report["splits"][split]
        assert 0 < scores["f1"] < 1  # else nothing is compared
        assert scores["f1"] == pytest.approx(seqeval.f1_score([tags for _, tags in gold], predicted), abs=1e-12)
        assert scores["precision"] == pytest.approx(seqeval.precision_score([t for _, t in gold], predicted), abs=1e-12)
        for record in records:
            assert record["correct"] == (not record["missed"] and not record["invented"])
            assert record["origin"].startswith(config.data.source.removeprefix("conll:"))


def test_nothing_is_compiled_after_the_first_save(whole: Whole) -> None:
    """Steps, logs, evaluations and saves all reuse their programs: a new one in the midst of a run is a stall."""
    assert sorted(whole.compiled) == [5, 10, 12]
    assert whole.compiled[5] > 0
    assert whole.compiled[12] == whole.compiled[10]


def test_the_plots_are_pictures(whole: Whole) -> None:
    names = {path.name for path in (whole.workdir / "plots").iterdir()}
    assert names == {"curves.png"} | {
        f"{split}_{of}.png" for split in ("valid", "test") for of in ("per_type", "reliability")
    }
    for name in names:
        content = (whole.workdir / "plots" / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) > 5000


@pytest.mark.slow
def test_the_same_run_twice_is_the_same_run_and_another_seed_another(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved
) -> None:
    assert_equal_to(whole, tmp_path / "again", train(config, tmp_path / "again"), saved)
    train(tiny.replaced(config, seed=1), tmp_path / "other")
    assert saved[12] != whole.saved[12]


def test_a_diverging_run_ends_with_advice(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def poisoned(self: NerObjective, model: Any, batch: Any, context: Any) -> Loss:
        return Loss(model.head.bias.get_value().sum() * np.nan, batch["labels"].sum() * 0.0 + 1.0, {})

    monkeypatch.setattr(NerObjective, "loss", poisoned)
    with pytest.raises(UserError, match=r"diverged: the last \d+ updates .*config\.optim\.learning_rate"):
        train(tiny.replaced(config, train__steps=40, log__every_steps=5, train__accumulate=1), tmp_path / "run")
    assert "WARNING: 5 of the last 5 updates were skipped" in capsys.readouterr().out
