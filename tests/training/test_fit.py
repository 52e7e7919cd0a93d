"""Whole runs in process: stopped and resumed, stopped early, scored, and what they leave behind."""

import dataclasses
import gc
import json
import logging
import math
import os
import pathlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.objective import Loss
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.preemption import Preempted
from jaxfm.tasks.ner.objective import NerObjective
from jaxfm.tasks.ner.scorer import NerScorer
from jaxfm.tasks.ner.task import NerTask
from jaxfm.train import train
from jaxfm.training import session
from jaxfm.training.checkpoint import Checkpoints
from tests import tiny

# Where one of Orbax's reads of a damaged checkpoint fails, it leaves the others behind unfinished.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# Dropout (0.1 of the weights' own config), accumulation and smoothing on; batches of 8 of 31 rows straddle epochs;
# logging, evaluation and the end fall on different steps.
BASE = {
    "train__batch_size": 8,
    "train__accumulate": 2,
    "train__steps": 12,
    "task__loss__label_smoothing": 0.1,
    "eval__every_steps": 5,
    "log__every_steps": 4,
    "checkpoint__keep_last": 2,
}

Saved = dict[int, bytes]
COMPILES = "/jax/core/compile/backend_compile_duration"  # the event of every program that is compiled, or read back


@pytest.fixture(autouse=True)
def collect_unfinished_reads() -> Iterator[None]:
    yield
    gc.collect()  # here, where their warnings are ignored, and not in a later test


class CrashError(Exception):
    """What no code of the project knows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("loop")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.config(folder, **BASE)


def record_saves(patch: pytest.MonkeyPatch) -> Saved:
    """Returns a dict that fills with the bytes of every state and open sums saved, by step."""
    saved: Saved = {}
    plain = Checkpoints.save

    def save(self: Checkpoints, state: Any, sums: Any, meta: Any, *, keep: Any) -> None:
        arrays = jax.tree.leaves((state.params, state.opt_state, state.key, state.step, sums))
        saved[int(state.step)] = b"".join(np.asarray(leaf).tobytes() for leaf in arrays)
        plain(self, state, sums, meta, keep=keep)

    patch.setattr(Checkpoints, "save", save)
    return saved


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    return record_saves(monkeypatch)


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nothing stopped; `compiled` is how many programs had been compiled at each save."""

    workdir: pathlib.Path
    report: dict[str, Any]
    saved: Saved
    compiled: dict[int, int]


@pytest.fixture(scope="module")
def whole(config: Config, folder: pathlib.Path) -> Iterator[Whole]:
    programs, compiled = 0, {}

    def count(event: str, seconds: float, **_: Any) -> None:
        nonlocal programs
        programs += event == COMPILES

    jax.monitoring.register_event_duration_secs_listener(count)
    with pytest.MonkeyPatch.context() as patch:
        saved = record_saves(patch)
        keep = Checkpoints.save
        patch.setattr(
            Checkpoints,
            "save",
            lambda self, state, *rest, **more: (
                compiled.update({int(state.step): programs}),
                keep(self, state, *rest, **more),
            ),
        )
        report = train(config, folder / "whole")
    jax.monitoring.unregister_event_duration_listener(count)
    yield Whole(folder / "whole", report, saved, compiled)


def at_step(patch: pytest.MonkeyPatch, step: int, action: Callable[[], Any], first: int = 0) -> None:
    """Has `action` called while the batch of update `step` is put on the devices; `first` updates are done before."""
    done, plain = first, session.meshes.shard_batch

    def shard_batch(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            action()
        return plain(*arguments)

    patch.setattr(session.meshes, "shard_batch", shard_batch)


def crash() -> None:
    raise CrashError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if "per_second" not in name}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def assert_equal_to(whole: Whole, workdir: pathlib.Path, report: dict[str, Any], saved: Saved) -> None:
    assert saved[12] == whole.saved[12]
    assert lines(workdir) == lines(whole.workdir)
    assert report["splits"] == whole.report["splits"]
    assert report["training"]["chosen_step"] == whole.report["training"]["chosen_step"]
    for split in ("valid", "test"):
        name = f"predictions/{split}.jsonl"
        assert (workdir / name).read_bytes() == (whole.workdir / name).read_bytes()


def test_a_run_stopped_three_times_is_the_run_that_was_not(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved
) -> None:
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, terminate)  # within the first log interval and the first epoch
        with pytest.raises(Preempted, match="SIGTERM after saving step 3"):
            train(config, workdir)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 9, crash, first=3)  # the checkpoint is that of step 5; line 8 must not stay twice
        with pytest.raises(CrashError):
            train(config, workdir)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 10, terminate, first=5)  # on the step of an evaluation
        with pytest.raises(Preempted, match="step 10"):
            train(config, workdir)
    assert not (workdir / "report.json").exists()
    assert sorted(saved) == [3, 5, 10]
    report = train(config, workdir)
    assert_equal_to(whole, workdir, report, saved)
    assert [saved[step] for step in (5, 10)] == [whole.saved[step] for step in (5, 10)]
    # Random numbers are on: a run of another seed is another run.
    assert len({step: whole.saved[step] for step in (5, 10, 12)}) == 3


def test_a_growing_batch_resumes_to_the_same_bits(folder: pathlib.Path, tmp_path: pathlib.Path, saved: Saved) -> None:
    sizes = {"train__batch_size": 16, "train__first_batch_size": 8, "train__batch_warmup_steps": 3}
    config = tiny.config(folder, **BASE | sizes | {"train__steps": 5, "eval__every_steps": 2})
    report = train(config, tmp_path / "whole")
    wanted = dict(saved)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, crash)  # the first update of full size; step 2 is saved
        with pytest.raises(CrashError):
            train(config, tmp_path / "run")
    saved.clear()
    assert train(config, tmp_path / "run")["splits"] == report["splits"]
    assert saved[5] == wanted[5] and min(saved) > 2
    assert report["training"]["epochs"] == (3 * 8 + 2 * 16) / 31


def test_a_damaged_newest_checkpoint_costs_only_time(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 11, crash)
        with pytest.raises(CrashError):
            train(config, workdir)
    assert not [thread.name for thread in threading.enumerate() if "grain" in thread.name]  # that read ahead
    damage(workdir / "checkpoints" / "10")
    with caplog.at_level(logging.WARNING, logger="jaxfm"):
        report = train(config, workdir)
    assert f"{workdir / 'checkpoints' / '10'}" in caplog.text and "checkpoint before" in caplog.text
    assert_equal_to(whole, workdir, report, saved)
    # Step 10 was reached again: its checkpoint is whole now.
    caplog.clear()
    shutil.rmtree(workdir / "checkpoints" / "12")
    (workdir / "report.json").unlink()
    assert train(config, workdir)["splits"] == whole.report["splits"]
    assert not caplog.text


def damage(checkpoint: pathlib.Path) -> None:
    for path in (checkpoint / "params").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_without_a_whole_checkpoint_nothing_is_started_anew(config: Config, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 6, crash)
        with pytest.raises(CrashError):
            train(config, workdir)
    damage(workdir / "checkpoints" / "5")
    with pytest.raises(UserError, match=r"none of the checkpoints \[5\] is whole"):
        train(config, workdir)


def test_a_run_killed_at_its_first_files_starts_again(whole: Whole, config: Config, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / ".config.json.abc.part").write_text('{"half')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NerTask, "save", lambda *_: crash())
        with pytest.raises(CrashError):
            train(config, workdir)
    assert not (workdir / "task.json").exists()
    assert train(config, workdir)["splits"] == whole.report["splits"]
    assert (workdir / "task.json").read_bytes() == (whole.workdir / "task.json").read_bytes()


def test_a_finished_run_says_so_and_changes_nothing(whole: Whole, config: Config, folder: pathlib.Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")}
    (folder / "corpus").rename(folder / "elsewhere")  # a finished run needs no data
    try:
        assert train(config, whole.workdir) == json.loads((whole.workdir / "report.json").read_text())
    finally:
        (folder / "elsewhere").rename(folder / "corpus")
    assert {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")} == before


def test_a_work_directory_of_another_config_is_refused(whole: Whole, config: Config) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")}
    with pytest.raises(UserError, match=r"another config \(optim\.learning_rate: 0\.01 -> 0\.02\)"):
        train(tiny.replaced(config, optim__learning_rate=0.02), whole.workdir)
    assert {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")} == before
    # What does not change the result may differ: logging, mesh, how many checkpoints are kept.
    assert train(tiny.replaced(config, log__every_steps=1, checkpoint__keep_last=9), whole.workdir)


def test_resuming_on_other_data_is_refused(config: Config, tmp_path: pathlib.Path) -> None:
    shutil.copytree(config.data.source.removeprefix("conll:"), tmp_path / "corpus")
    own = tiny.replaced(config, data__source=f"conll:{tmp_path / 'corpus'}")
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 2, terminate)
        with pytest.raises(Preempted):
            train(own, tmp_path / "run")
    train_file = tmp_path / "corpus" / "train.conll"
    train_file.write_text(train_file.read_text().replace("met O", "saw O", 1))
    with pytest.raises(UserError, match=r"made with other training data \(or"):
        train(own, tmp_path / "run")
    shutil.copy(pathlib.Path(config.data.source.removeprefix("conll:")) / "train.conll", train_file)
    valid_file = tmp_path / "corpus" / "valid.conll"
    valid_file.write_text(valid_file.read_text().replace("saw O", "met O", 1))
    with pytest.raises(UserError, match=r"made with other validation data \(or"):
        train(own, tmp_path / "run")


# The best checkpoint and early stopping, on scripted scores.


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
    last = train(tiny.replaced(every, eval__select="last"), tmp_path / "last")
    assert last["training"]["chosen_step"] == 12
    assert valid[4] is valid[3]  # what the loop has computed is not computed again


@pytest.mark.parametrize("values", [[math.nan], [math.nan, 0.2, math.nan]])
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


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
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
    # TrainResult to the validation split, used on both.
    calibration = json.loads((whole.workdir / "calibration.json").read_text())
    for split, scores in report["splits"].items():
        assert scores["calibration"]["temperature"] == calibration["temperature"]
        before, after = (scores["calibration"][name]["nll"] for name in ("model", "calibrated"))
        assert after <= before or split == "test"
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
