"""A recogniser of speech from files to scores and predictions, and what it refuses."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import soundfile
import soxr
from flax import nnx

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict_file
from jaxfm.programs.train import train
from jaxfm.tasks.registry import create, definition
from jaxfm.tasks.segment_scorer import per_segment
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests.tiny import replaced
from tests.tiny_speech import RATE, said, sound_config
from tests.training.whole_run import at_step, record_saves, terminate

AUGMENTED = {
    "task__augment__shift": 0.02, "task__augment__noise": 0.1, "task__augment__time_masks": 1,
    "task__augment__time_width": 2, "task__augment__frequency_masks": 1, "task__augment__frequency_width": 3,
}  # fmt: skip


ONE, DEVICE = MeshConfig(data=1), jax.local_devices()[:1]


def speech_config(directory: pathlib.Path, **overrides: Any) -> Config:
    return sound_config("speech_recognition", directory, **overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("speech")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    pytest.importorskip("jiwer", reason="it counts the errors")
    config = speech_config(
        folder, train__steps=200, train__batch_size=16, log__every_steps=100, data__packed=True, data__row_length=64,
        eval__metric="wer",
    )  # fmt: skip
    train(config, folder / "run")
    return folder / "run"


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        create(config, resolve(config.model))
    return str(caught.value)


def lines_of(run: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]


def test_a_run_learns(run: pathlib.Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["splits"]["test"]["cer"] < 0.2 and {"wer", "loss", "exact_match"} <= report["splits"]["test"].keys()
    greedy = report["splits"]["test"]["greedy"]
    assert set(greedy) == {"wer", "cer", "exact_match"} and 0 <= greedy["cer"] < 0.5
    low, high = report["splits"]["test"]["intervals"]["metrics"]["cer"]
    assert 0 <= low <= report["splits"]["test"]["cer"] <= high
    spec: Any = open_run(run).spec
    assert spec.symbols == ("a", "b", "c") and spec.layout.std > 0 and spec.segments > 1
    assert all(set(line["gold"]) <= set("abc") for line in lines_of(run))  # in lower case


def test_predictions_are_those_of_the_evaluation(run: pathlib.Path, folder: pathlib.Path) -> None:
    lines, model = lines_of(run), Model(run)
    paths = [str(folder / "speech" / f"test_{number}.wav") for number in range(len(lines))]
    results = model(paths)
    assert [result["text"] for result in results] == [line["predicted"] for line in lines]
    for result in results:
        assert " ".join(word["word"] for word in result["words"]) == result["text"]
        assert all(0 <= word["start"] < word["end"] < 0.4 and 0 < word["score"] <= 1 for word in result["words"])
        shown = model.lines(result)
        assert shown[0].endswith(result["text"]) and len(shown) == 1 + len(result["words"])
    assert predict_file(run, folder / "speech" / "test.jsonl", folder / "out.jsonl") == len(lines)
    written = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [each["text"] for each in written] == [line["predicted"] for line in lines]
    found = evaluate(run, split="test", source=f"jsonl:{folder / 'speech'}")
    assert found.metrics["cer"] == pytest.approx(json.loads((run / "report.json").read_text())["splits"]["test"]["cer"])


def test_a_long_recording_is_read_by_windows(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    draw = np.random.default_rng(4)
    parts = ["a", "bc", "c", "ab", "b"]
    pieces, starts, place = [], [], 0.0
    for text in parts:
        pieces += [said(text, draw), 0.005 * draw.normal(size=RATE // 5)]
        starts.append(place)
        place += (len(pieces[-1]) + len(pieces[-2])) / RATE
    soundfile.write(tmp_path / "long.wav", np.concatenate(pieces), RATE)
    result = Model(run)(str(tmp_path / "long.wav"))
    model, found = Model(run), result["text"]
    # What is said in windows is nearly what is said in the pieces alone; at borders a letter may differ.
    alone = "".join(model({"array": each, "sampling_rate": RATE})["text"] for each in pieces[::2])
    assert abs(len(found) - len(alone)) <= 2 and len(found) >= 5
    (word,) = result["words"]  # training had no spaces
    assert word["start"] == pytest.approx(0.0, abs=0.08) and word["end"] == pytest.approx(starts[-1] + 0.08, abs=0.15)


def test_a_stopped_run_is_the_run_that_was_not(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = speech_config(
        folder, train__steps=6, eval__every_steps=3, model__dropout=0.1, data__packed=True, data__row_length=64,
        **AUGMENTED,
    )  # fmt: skip
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
    more = {
        "data__packed": True, "data__row_length": 64, "train__steps": 3, "log__every_steps": 1,
        "train__precision": "f32", **AUGMENTED,
    }  # fmt: skip
    rows = losses(speech_config(folder, **more), tmp_path / "rows")
    tokens = losses(
        speech_config(folder, **more, parallel__mesh__data=1, parallel__mesh__sequence=4), tmp_path / "tokens"
    )
    assert len(rows) == 3
    np.testing.assert_allclose(tokens, rows, rtol=1e-4)


def test_packed_clips_are_scored_as_clips_alone(run: pathlib.Path, folder: pathlib.Path) -> None:
    opened = open_run(run)
    spec: Any = opened.spec
    params = opened.restore(make_mesh(ONE, DEVICE), DEFAULT_BUILD).params
    found, losses = [], []
    for own in (spec, dataclasses.replace(spec, packed=False, segments=1)):
        source = f"jsonl:{folder / 'speech'}"
        task: Any = definition("speech_recognition").reopen(run, own, opened.config, source, "valid")
        rows = task.datasets["valid"]
        graphdef, _ = build_abstract(lambda own=own: own.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(ONE, DEVICE))
        compute = jax.jit(lambda params, batch, task=task, graphdef=graphdef: task.objective.outputs(
            nnx.merge(graphdef, params), batch))  # fmt: skip
        outputs = jax.tree.map(np.asarray, compute(params, rows.take(np.arange(len(rows)))))
        found.append(task.scorer("valid").metrics(outputs))
        losses.append(per_segment(rows, outputs["loss"]))
    assert len(losses[0]) == 12 and losses[0].min() > 0
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert found[0]["wer"] == found[1]["wer"] and found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)


def test_what_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path, run: pathlib.Path) -> None:
    def table(*lines: dict[str, Any]) -> str:
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return f"jsonl:{tmp_path}"

    for name in ("test_0.wav", "test_1.wav"):
        (tmp_path / name).write_bytes((folder / "speech" / name).read_bytes())
    good = {"audio": "test_0.wav", "text": "ab"}
    for text in ("", "  "):
        message = refusal(speech_config(folder, data__source=table(good, {"audio": "test_1.wav", "text": text})))
        assert "train.jsonl:2: without a text in 'text'" in message
    long = speech_config(
        folder, data__source=table(good, {"audio": "test_1.wav", "text": "aabb" * 6}), data__holdout=0.0
    )
    assert "train.jsonl:2: has" in refusal(long) and "needs 36: one a character" in refusal(long)
    assert "config.task.unfit=skip" in refusal(long)
    task, _ = create(replaced(long, task__unfit="skip"), resolve(long.model))
    assert any("1 of 2 clips are longer than what is read, or too short" in note for note in task.notes)
    soundfile.write(tmp_path / "long.wav", np.zeros(RATE), RATE)
    cut = speech_config(folder, data__source=table(good, {"audio": "long.wav", "text": "ab"}), data__holdout=0.0)
    assert "train.jsonl:2: is longer than the 0.3" in refusal(cut) and "config.task.seconds" in refusal(cut)
    (tmp_path / "broken.wav").write_bytes((tmp_path / "test_0.wav").read_bytes()[:300])
    broken = speech_config(folder, data__source=table(good, {"audio": "broken.wav", "text": "ab"}), data__holdout=0.0)
    assert "broken.wav" in refusal(broken) and "is cut" in refusal(broken)
    assert "config.task.join.fewest: is 3" in refusal(speech_config(folder, task__join__clips=2, task__join__fewest=3))
    with pytest.raises(UserError, match="transformers has no class of an AST that recognises speech"):
        export(run, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_silence_a_sample_and_two_channels(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(2000), RATE)
    soundfile.write(tmp_path / "one.wav", np.zeros(1), RATE)
    mono = said("abc", np.random.default_rng(0))
    soundfile.write(tmp_path / "mono.wav", mono, RATE)
    fast = soxr.resample(mono, RATE, 48_000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([fast, fast], axis=1), 48_000)
    model = Model(run)
    for name in ("silent", "one"):
        result = model(str(tmp_path / f"{name}.wav"))
        assert set(result) == {"audio", "text", "words"} and len(result["text"]) <= 2
    assert model(str(tmp_path / "stereo.wav"))["text"] == model(str(tmp_path / "mono.wav"))["text"] != ""


def test_joined_clips_are_those_of_one_speaker(folder: pathlib.Path) -> None:
    config = speech_config(
        folder, task__join__clips=2, task__join__column="speaker", task__join__gap=0.01, task__join__examples=30,
        task__seconds=0.8,
    )  # fmt: skip
    task: Any = create(config, resolve(config.model))[0]
    assert [len(task.examples[split]) for split in ("train", "valid", "test")] == [30, 12, 8]
    words = [each.text.split() for each in task.examples["train"]]
    assert all(len(each) == 2 for each in words) and " " in task.objective.spec.symbols
    again: Any = create(config, resolve(config.model))[0]
    assert again.datasets["train"].fingerprint() == task.datasets["train"].fingerprint()
    assert any("30 joined clips are drawn of these, of 2 each" in note for note in task.notes)


def test_a_check_names_rare_and_unseen_characters(tmp_path: pathlib.Path) -> None:
    config = speech_config(tmp_path)
    path = tmp_path / "speech" / "valid.jsonl"
    path.write_text(path.read_text().replace('"text": "A', '"text": "Z'))
    checked = definition("speech_recognition").check(config, resolve(config.model))
    found = {each.check: each for each in checked.findings}
    assert found["unseen characters"].level == "warning" and "'z'" in found["unseen characters"].examples[0]
    assert found["rare characters"].level == "ok" and found["long transcripts"].level == "ok"
