"""Clusters of hidden steps from files to scores, a second round, and weights for other tasks."""

import json
import pathlib
import types
from typing import Any

import jax
import numpy as np
import pytest
import soundfile

from jaxfm.config import Config
from jaxfm.core.objective import LossContext
from jaxfm.errors import UserError
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.tasks.masked_sound.objective import MaskedSoundObjective
from jaxfm.tasks.registry import create
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests.tiny import replaced
from tests.tiny_speech import RATE, sound_config
from tests.training.whole_run import at_step, record_saves, terminate

OWN = {"model__init": "scratch", "task__clusters__count": 6, "task__spans__length": 3, "data__packed": True,
       "data__row_length": 64}  # fmt: skip
OF_RUN = {"model__preset": "", "model__num_layers": 0, "model__hidden_size": 0, "model__ffn_size": 0,
          "model__num_heads": 0, "task__seconds": 0.0, "task__sample_rate": 0, "task__mels": 0}  # fmt: skip


def masked_config(directory: pathlib.Path, **overrides: Any) -> Config:
    return sound_config("masked_sound", directory, **{**OWN, **overrides})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("masked")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    train(masked_config(folder, train__steps=80, log__every_steps=40), folder / "run")
    return folder / "run"


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        create(config, resolve(config.model))
    return str(caught.value)


def test_a_run_learns_more_than_the_commonest_cluster(run: pathlib.Path, folder: pathlib.Path) -> None:
    report = json.loads((run / "report.json").read_text())
    found = report["splits"]["test"]
    assert found["accuracy"] > found["commonest"] + 0.1 and found["loss"] < np.log(6)
    again = evaluate(run, split="test", source=f"jsonl:{folder / 'speech'}").metrics
    assert again["loss"] == pytest.approx(found["loss"], rel=1e-5) and again["accuracy"] == found["accuracy"]


def test_predictions_have_the_clusters_of_all_steps(
    run: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model, spec = Model(run), open_run(run).spec
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    results = model([str(folder / "speech" / f"test_{number}.wav") for number in range(len(lines))])
    # What is hidden of a clip goes by its number, so these are the losses of the evaluation.
    assert [result["loss"] for result in results] == pytest.approx([line["loss"] for line in lines], abs=2e-4)
    assert all(0 <= cluster < 6 for result in results for cluster in result["clusters"])
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(size=RATE) * 0.1, RATE)
    result = model(str(tmp_path / "long.wav"))
    assert abs(len(result["clusters"]) - 98 // 2) <= 2 + 98 // spec.settings.most_frames  # type: ignore[attr-defined]
    assert "steps of 20 ms" in model.lines(result)[1]
    soundfile.write(tmp_path / "one.wav", np.zeros(1), RATE)
    assert len(model(str(tmp_path / "one.wav"))["clusters"]) == 1


def test_the_loss_is_that_of_numpy(folder: pathlib.Path) -> None:
    config = masked_config(folder)
    task, _ = create(config, resolve(config.model))
    objective: Any = task.objective
    batch: dict[str, Any] = task.datasets["train"].take(np.arange(3))
    steps = objective._steps(batch)
    logits = np.random.default_rng(0).normal(size=(*steps.valid_BSK.shape, 6)).astype(np.float32)

    class Model:
        encoder = types.SimpleNamespace(embeddings=None)

        def __call__(self, given: dict[str, Any], key: Any = None) -> Any:
            self.hidden = np.asarray(given["hidden"])
            return types.SimpleNamespace(logits_BSKC=logits)

    model: Any = Model()
    loss = MaskedSoundObjective(objective.spec).loss(model, batch, LossContext(jax.random.key(0)))
    total = right = count = 0
    for row in range(3):
        for token in np.flatnonzero(model.hidden[row]).tolist():
            segment, column = batch["segment_ids"][row, token] - 1, batch["cells"][row, token, 1]
            scores, own = logits[row, segment, column].astype(np.float64), batch["labels"][row, token]
            assert batch["cells"][row, token, 0] == 0 and own >= 0
            total += np.log(np.exp(scores).sum()) - scores[own]
            right += scores.argmax() == own
            count += 1
    assert 0 < count < (batch["labels"] >= 0).sum()
    assert float(loss.total) == pytest.approx(total, rel=1e-5) and float(loss.weight) == count
    assert float(loss.metrics["accuracy"][0]) == right


def test_a_stopped_run_is_the_run_that_was_not(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = masked_config(folder, train__steps=6, eval__every_steps=3, model__dropout=0.1, task__augment__noise=0.2,
                           task__augment__frequency_masks=1, task__augment__frequency_width=3)  # fmt: skip
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


def test_four_devices_learn_the_same(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    more = {"train__steps": 3, "log__every_steps": 1, "train__precision": "f32"}
    rows = losses(masked_config(folder, **more), tmp_path / "rows")
    tokens = losses(
        masked_config(folder, **more, parallel__mesh__data=1, parallel__mesh__sequence=4), tmp_path / "tokens"
    )
    np.testing.assert_allclose(tokens, rows, rtol=1e-4)


def test_a_second_round_clusters_what_the_first_has_learned(
    run: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    second = masked_config(
        folder, **OF_RUN, model__init=f"run:{run}", task__clusters__features="weights", task__fresh=True,
        task__clusters__count=5, train__steps=4,
    )  # fmt: skip
    task, params = create(second, resolve(second.model))
    assert not params and task.clusters.centres_CF.shape == (5, 32)  # type: ignore[attr-defined]
    labels = task.datasets["train"].more["labels"]  # type: ignore[attr-defined]
    assert set(np.unique(labels).tolist()) == {-1, 0, 1, 2, 3, 4}
    train(second, tmp_path / "second")
    found = json.loads((tmp_path / "second" / "report.json").read_text())["splits"]["test"]
    # The run keeps the weights that its clusters are of.
    again = evaluate(tmp_path / "second", split="test", source=f"jsonl:{folder / 'speech'}").metrics
    assert again["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_other_tasks_go_on_from_it(run: pathlib.Path, folder: pathlib.Path) -> None:
    pytest.importorskip("jiwer", reason="it counts the errors")
    of_run = resolve(masked_config(folder, **OF_RUN, model__init=f"run:{run}").model)
    speech = sound_config("speech_recognition", folder, **OF_RUN, model__init=f"run:{run}")
    labels = sound_config("audio_classification", folder, **OF_RUN, model__init=f"run:{run}",
                          data__label_column="speaker")  # fmt: skip
    for config in (speech, labels):
        task, params = create(config, of_run)
        assert "encoder" in {name.partition("/")[0] for name in params} <= {"encoder", "head_norm"}
        assert task.objective.spec.layout == of_run.sound  # type: ignore[attr-defined]
        train(replaced(config, train__steps=2), folder / f"from_{config.task.name}")


def test_what_is_refused(folder: pathlib.Path, run: pathlib.Path) -> None:
    assert "the training clips have" in refusal(masked_config(folder, task__clusters__count=9000))
    assert "config.task.augment.shift: is 0.1" in refusal(masked_config(folder, task__augment__shift=0.1))
    of_none = masked_config(folder, task__clusters__features="weights")
    assert "clusters.features=weights: needs weights" in refusal(of_none)
    fresh = masked_config(folder, **OF_RUN, model__init=f"run:{run}", task__fresh=True)
    assert "config.task.fresh: is True, so weights are to be clustered alone" in refusal(fresh)
    deep = masked_config(folder, **OF_RUN, model__init=f"run:{run}", task__clusters__features="weights",
                         task__clusters__layer=7)  # fmt: skip
    assert "config.task.clusters.layer: is 7, but the weights have 1 layers" in refusal(deep)
    assert "transformers has no class of an AST that predicts clusters" in open_run(run).predictor().hf_problem()
