"""Whole tiny runs of causal LM: stopped, scored again, exported, and to and from other runs."""

import dataclasses
import os
import pathlib
import signal
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import CAUSAL, FULL
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import make_mesh
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.predict import predict
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.causal_lm.task import CausalLMTask
from jaxfm.training import session
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny

# Dropout and accumulation are on, batches straddle epochs, the last step is none of an evaluation's.
RUN = {
    "train__steps": 9,
    "train__batch_size": 8,
    "train__accumulate": 2,
    "task__z_loss": 1e-4,
    "task__logits_chunk": 20,  # does not divide the rows of 48 tokens
    "eval__every_steps": 4,
    "log__every_steps": 1,
    "log__tensorboard": False,
    "checkpoint__keep_optimizer": True,  # for the hashes of the last state
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.masked_lm_config(folder, "causal_lm", model__dropout=0.1, **RUN)


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path, config: Config) -> dict[str, Any]:
    return train(config, folder / "whole")


def created(config: Config) -> tuple[CausalLMTask, Mapping[str, Any]]:
    task, loaded = registry.create(config, resolve(config.model))
    assert isinstance(task, CausalLMTask)
    return task, loaded


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if "per_second" not in name}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def test_a_run_learns_and_reports(folder: pathlib.Path, whole: dict[str, Any]) -> None:
    scores = whole["splits"]
    assert set(scores) == {"valid", "test"}
    first = next(line for line in lines(folder / "whole") if line["split"] == "valid")
    assert scores["valid"]["loss"] < first["loss"]
    assert scores["valid"]["perplexity"] == pytest.approx(np.exp(scores["valid"]["loss"]))
    report = (folder / "whole" / "report.md").read_text()
    assert "Next tokens" in report and "unigram" in report
    assert (folder / "whole" / "predictions" / "test.jsonl").is_file()


def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    folder: pathlib.Path, config: Config, whole: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    batches, plain = 0, session.meshes.shard_batch

    def shard_batch(*arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 5:  # no step of an evaluation, and within an epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.meshes, "shard_batch", shard_batch)
        with pytest.raises(Preempted, match="step 5"):
            train(config, tmp_path)
    report = train(config, tmp_path)

    def hashes(workdir: pathlib.Path) -> Any:
        checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
        try:
            return checkpoints.meta(RUN["train__steps"])["hashes"]
        finally:
            checkpoints.close()

    assert hashes(tmp_path) == hashes(folder / "whole") and lines(tmp_path) == lines(folder / "whole")
    assert report["splits"] == whole["splits"]


def test_a_run_is_scored_again_as_it_was(folder: pathlib.Path, whole: dict[str, Any]) -> None:
    found = evaluate(folder / "whole", "test").scores
    wanted = whole["splits"]["test"]
    for name in ("loss", "accuracy", "unigram_loss", "targets"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-6)
    assert found["targets"] > 100


def test_an_exported_run_is_that_model_in_transformers(
    folder: pathlib.Path, whole: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    export(folder / "whole", tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert type(theirs).__name__ == "BertLMHeadModel" and theirs.config.is_decoder
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = np.asarray(tokenizer("ada met gauss in the old town .")["input_ids"])
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(ids[None])).logits
    restored = open_run(folder / "whole").restore(make_mesh(MeshConfig()), DEFAULT_BUILD)
    model, shape = nnx.merge(restored.graphdef, restored.params), (1, len(ids))
    batch = {
        "tokens": jnp.asarray(ids[None], jnp.int32),
        "segment_ids": jnp.ones(shape, jnp.int32),
        "positions": jnp.arange(len(ids), dtype=jnp.int32)[None],
    }
    logits = model.logits(model.hidden(batch))[..., : tiny.ENCODER.vocab_size]
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-4, rtol=1e-5)
    # What `predict` says of a text is what they say.
    result = predict(folder / "whole", "ada met gauss in the old town .")
    scores = torch.log_softmax(wanted[0, :-2], -1)[torch.arange(len(ids) - 2), torch.tensor(ids[1:-1])]
    found = [each["log_probability"] for each in result["tokens"]]
    np.testing.assert_allclose(found, scores.numpy(), atol=2e-4)
    assert whole["splits"]


def test_a_run_goes_on_as_a_masked_one_that_sees_both_sides_and_as_a_classifier(
    folder: pathlib.Path, whole: dict[str, Any]
) -> None:
    uri = f"run:{folder / 'whole'}"
    own = open_run(folder / "whole").restore(make_mesh(MeshConfig()), DEFAULT_BUILD).to_host()
    masked = tiny.masked_lm_config(folder, model__init=uri, model__sight=FULL, task__evaluate=["token"])
    task, loaded = registry.create(masked, resolve(masked.model))
    assert task.objective.spec.encoder.sight == FULL and set(loaded) == set(own)
    for name, values in own.items():
        np.testing.assert_array_equal(loaded[name], values)
    with pytest.raises(UserError, match=r"config\.model\.sight"):
        resolve(tiny.replaced(masked, model__sight="").model)
    ner = tiny.config(folder, model__init=uri, model__sight=FULL)
    assert registry.create(ner, resolve(ner.model))[0].objective.spec.encoder.sight == FULL
    assert whole["splits"]


def test_weights_that_see_both_sides_are_trained_causally(folder: pathlib.Path) -> None:
    task, loaded = created(tiny.masked_lm_config(folder, "causal_lm"))
    encoder = task.objective.spec.encoder
    assert (encoder.sight, encoder.family) == (CAUSAL, "bert")
    assert set(loaded) == set(tiny.random_masked_lm(tiny.ENCODER, 0))
    assert "vocabulary head: loaded with the weights" in task.notes


def test_a_run_goes_on_causally_from_a_causal_one(folder: pathlib.Path, whole: dict[str, Any]) -> None:
    config = tiny.masked_lm_config(folder, "causal_lm", model__init=f"run:{folder / 'whole'}")
    assert created(config)[0].objective.spec.encoder.sight == CAUSAL
    assert whole["splits"]


def test_from_scratch_the_family_is_that_of_the_decoder(folder: pathlib.Path) -> None:
    scratch = {"model__init": "scratch", "model__tokenizer": f"dir:{folder / 'masked_lm'}"}
    tiny.masked_lm_config(folder)
    modern = created(tiny.masked_lm_config(folder, "causal_lm", model__preset="modern_tiny", **scratch))[0]
    encoder = modern.objective.spec.encoder
    assert encoder == dataclasses.replace(
        preset("modern_tiny"), sight=CAUSAL, family="modernbert-decoder", vocab_size=len(tiny.VOCABULARY)
    )
    with pytest.raises(UserError, match=r"config.task.name: 'causal_lm' takes an encoder of another family: esm"):
        created(tiny.masked_lm_config(folder, "causal_lm", model__preset="esm2_8m", **scratch))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data__row_length": 65}, "config.data.row_length: 65 tokens, but the encoder has 64 positions"),
        ({"model__tokenizer": "train:bpe/300"}, "the weights have theirs already"),
    ],
    ids=str,
)
def test_contradictions_are_refused(config: Config, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        created(tiny.replaced(config, **change))
    assert words in str(caught.value)
