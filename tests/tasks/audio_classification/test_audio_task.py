"""A classifier of sound from files to scores, predictions and exports, and what it refuses."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import soundfile

from jaxfm.config import Config
from jaxfm.data.audio.stored import StoredClip
from jaxfm.errors import UserError
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict_file
from jaxfm.programs.train import train
from jaxfm.tasks.registry import create, definition
from jaxfm.tasks.sound_windows import windows_of
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny
from tests.tiny_audio import audio_config
from tests.training.whole_run import at_step, record_saves, terminate

AUGMENTED = {
    "task__augment__shift": 0.05, "task__augment__noise": 0.2, "task__augment__time_masks": 1,
    "task__augment__frequency_masks": 1, "task__augment__frequency_width": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("audio")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    config = audio_config(
        folder, train__steps=40, eval__metric="accuracy", task__lengths="padded", task__sample_rate=16_000, **AUGMENTED
    )
    train(config, folder / "run")
    return folder / "run"


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        create(config, resolve(config.model))
    return str(caught.value)


def test_a_run_learns(run: pathlib.Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["splits"]["test"]["accuracy"] > 0.9
    spec: Any = open_run(run).spec
    assert spec.labels == ("high", "low") and spec.layout.rate == 16_000 and spec.layout.std > 0
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    assert {line["gold"] for line in lines} == {"high", "low"} and all(line["audio"].endswith(".wav") for line in lines)


def test_predictions_are_those_of_the_evaluation(run: pathlib.Path, folder: pathlib.Path) -> None:
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    model = Model(run)
    results = model([line["audio"] for line in lines])
    for line, result in zip(lines, results, strict=True):
        assert result["audio"] == line["audio"] and result["label"] == line["predicted"] and "parts" not in result
        assert result["scores"] == pytest.approx(line["scores"], abs=2e-4)
    assert model({"audio": pathlib.Path(lines[0]["audio"])}) == results[0]
    assert predict_file(run, folder / "audio" / "test", folder / "out.jsonl") == len(lines)
    written = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert sorted(each["audio"] for each in written) == sorted(line["audio"] for line in lines)
    assert evaluate(run, split="test", source=f"audio:{folder / 'audio'}").metrics["accuracy"] > 0.9


def test_a_long_recording_is_answered_once_everywhere(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    time = np.arange(32_000) / 16_000
    noise = 0.01 * np.random.default_rng(0).normal(size=len(time))
    samples = noise + 0.3 * np.where(time < 1, np.sin(2 * np.pi * 300 * time), np.sin(2 * np.pi * 2000 * time))
    soundfile.write(tmp_path / "long.wav", samples, 16_000)
    result = Model(run)(str(tmp_path / "long.wav"))
    parts = result["parts"]
    assert parts[0]["start"] == 0.0 and parts[-1]["end"] == pytest.approx(1.98, abs=0.011)
    assert all(one["end"] == other["start"] for one, other in zip(parts, parts[1:], strict=False))
    assert {part["label"] for part in parts if part["end"] <= 0.8} == {"low"}
    assert {part["label"] for part in parts if part["start"] >= 1.2} == {"high"}
    weights = np.asarray([part["end"] - part["start"] for part in parts])
    shares = np.asarray([part["scores"]["low"] for part in parts])
    assert result["scores"]["low"] == pytest.approx(weights @ shares / weights.sum(), abs=2e-4)


def test_every_frame_has_one_window_that_hears_it(run: pathlib.Path) -> None:
    settings = open_run(run).spec.settings  # type: ignore[attr-defined]
    size = settings.most_frames
    for frames in (1, size, size + 1, size * 3 // 2, size * 2, 5 * size + 3):
        samples = np.zeros((frames - 1) * 160 + 400, np.float32)
        windows = windows_of(StoredClip("x", array=samples, rate=16_000), samples, settings)
        owned = np.concatenate([np.arange(window.start, window.end) for window in windows])
        np.testing.assert_array_equal(owned, np.arange(frames))
        assert len(windows) == 1 or all(len(window.clip.array) == settings.most_samples for window in windows)  # type: ignore[arg-type]


def test_an_export_has_the_scores_of_the_run(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    export(run, tmp_path / "hf")
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    classify = transformers.pipeline("audio-classification", model=str(tmp_path / "hf"), top_k=None)
    for line in lines[:4]:
        samples, rate = soundfile.read(line["audio"], dtype="float32")
        result = Model(run)({"array": samples, "sampling_rate": rate})
        assert result["label"] == line["predicted"]
        twice = np.repeat(samples, 2)  # any sound at the model's rate will do, and needs no resampling there
        theirs = {each["label"]: each["score"] for each in classify(twice)}
        ours = Model(run)({"array": twice, "sampling_rate": 16_000})
        assert max(theirs, key=theirs.__getitem__) == ours["label"]
    again = audio_config(
        tmp_path, model__init=f"dir:{tmp_path / 'hf'}", model__preset="", model__num_layers=0, model__hidden_size=0,
        model__ffn_size=0, task__seconds=0.0, task__sample_rate=0, task__mels=0,
    )  # fmt: skip
    task, params = create(again, resolve(again.model))
    layout = open_run(run).spec.layout  # type: ignore[attr-defined]
    assert task.objective.spec.layout == layout and "head/kernel" in params  # type: ignore[attr-defined]


def test_a_stopped_run_is_the_run_that_was_not(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = audio_config(folder, train__steps=6, eval__every_steps=3, model__dropout=0.1, **AUGMENTED)
    with pytest.MonkeyPatch.context() as patch:
        saved = record_saves(patch)
        report = train(config, tmp_path / "whole")
        wanted = dict(saved)
        saved.clear()
        with pytest.MonkeyPatch.context() as stopping:
            at_step(stopping, 4, terminate)
            with pytest.raises(Preempted):
                train(config, tmp_path / "run")
        assert train(config, tmp_path / "run")["splits"] == report["splits"]
        assert saved[6] == wanted[6] and min(saved) < 6


def losses(config: Config, workdir: pathlib.Path) -> list[float]:
    train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line.get("split") == "train"]


def test_four_devices_and_packed_rows_learn_the_same(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    more = {"data__packed": True, "train__steps": 4, "log__every_steps": 1, "train__precision": "f32", **AUGMENTED}
    rows = losses(audio_config(folder, **more), tmp_path / "rows")
    tokens = losses(
        audio_config(folder, **more, parallel__mesh__data=1, parallel__mesh__sequence=4), tmp_path / "tokens"
    )
    assert len(rows) == 4
    np.testing.assert_allclose(tokens, rows, rtol=1e-4)


def test_what_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tiny.write_audio(tmp_path / "audio", {"train": 8, "valid": 4})
    (tmp_path / "audio" / "valid" / "other").mkdir()
    (tmp_path / "audio" / "valid" / "low" / "1.wav").rename(tmp_path / "audio" / "valid" / "other" / "1.wav")
    unknown = refusal(audio_config(tmp_path))
    assert "other/1.wav: the label 'other' does not occur in the training data" in unknown
    texts = refusal(audio_config(folder, model__preset="bert_tiny", model__num_layers=0, model__hidden_size=0,
                                      model__ffn_size=0))  # fmt: skip
    assert "reads texts, and this task reads sound" in texts and "ast_nano" in texts
    assert "config.task.mels: is 4, but a patch has 8 bands" in refusal(audio_config(folder, task__mels=4))
    assert "a patch alone has 8 frames" in refusal(audio_config(folder, task__seconds=0.05))
    assert "config.data.row_length: is 8" in refusal(audio_config(folder, data__row_length=8))
    for split in ("train", "valid"):
        for number, label in enumerate(("high", "low")):
            path = tmp_path / "silent" / split / label / f"{number}.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, np.zeros(4000), 8000)
    silent = audio_config(folder, data__source=f"audio:{tmp_path / 'silent'}")
    assert "all frames of the training clips are equal: they are silent" in refusal(silent)
    checked = definition("audio_classification").check(silent, resolve(silent.model))
    assert any(each.check == "silence" and each.level == "warning" for each in checked.findings)


def test_a_silent_clip_and_a_broken_one(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(3000), 16_000)
    soundfile.write(tmp_path / "short.wav", np.zeros(1), 16_000)
    (tmp_path / "broken.wav").write_bytes((tmp_path / "silent.wav").read_bytes()[:500])
    for name in ("silent", "short"):
        assert sum(Model(run)(str(tmp_path / f"{name}.wav"))["scores"].values()) == pytest.approx(1, abs=1e-3)
    with pytest.raises(UserError, match=r"broken\.wav: is cut"):
        Model(run)(str(tmp_path / "broken.wav"))
    with pytest.raises(UserError, match=r"'no\.wav' is not a file"):
        Model(run)("no.wav")
