"""Whole tiny runs of masked LM: stopped, computed again, exported, and as the start of other runs."""

import dataclasses
import os
import pathlib
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.data.pipeline import TrainBatches
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.masked_lm.task import MaskedLMTask
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
    "task__unit": "whole_word",
    "task__ratio": 0.3,
    "task__final_ratio": 0.15,
    "task__evaluate": ["whole_word"],
    "task__z_loss": 1e-4,
    "eval__every_steps": 4,
    "log__every_steps": 1,
    "log__tensorboard": False,
    "checkpoint__keep_optimizer": True,  # for the hashes of the last state
}


# One unit to compile masks of.
QUICK = {"task__evaluate": ["token"]}


def created(config: Config) -> tuple[MaskedLMTask, dict[str, np.ndarray], tuple[str, ...]]:
    task, loaded = registry.create(config, resolve(config.model))
    assert isinstance(task, MaskedLMTask)
    return task, dict(loaded), task.notes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("runs")


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nothing stopped, and the batch of each of its steps as the host made it."""

    config: Config
    workdir: pathlib.Path
    report: dict[str, Any]
    batches: list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path) -> Whole:
    run = tiny.masked_lm_config(folder, model__dropout=0.1, **RUN)
    batches: list[dict[str, np.ndarray]] = []
    plain = session.meshes.shard_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.meshes, "shard_batch", lambda batch, *rest: batches.append(batch) or plain(batch, *rest))
        report = train(run, folder / "whole")
    return Whole(run, folder / "whole", report, batches)


def state_hashes(workdir: pathlib.Path) -> Any:
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        return checkpoints.meta(RUN["train__steps"])["hashes"]
    finally:
        checkpoints.close()


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if "per_second" not in name}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def test_a_run_learns_and_reports(whole: Whole) -> None:
    scores = whole.report["splits"]
    assert set(scores) == {"valid", "test"}
    own = scores["valid"]["units"]["whole_word"]
    first = next(line for line in lines(whole.workdir) if line["split"] == "valid")
    assert own["loss"] < first["loss"] and scores["valid"]["loss"] == own["loss"]
    assert (whole.workdir / "predictions" / "test.jsonl").is_file()
    assert "unigram" in (whole.workdir / "report.md").read_text()
    logged = [line for line in lines(whole.workdir) if line["split"] == "train"]
    assert [line["step"] for line in logged] == list(range(1, 10)) and all(
        0 <= line["accuracy"] <= 1 for line in logged
    )


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_nothing_had_been(whole: Whole, tmp_path: pathlib.Path) -> None:
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
            train(whole.config, tmp_path)
    assert not (tmp_path / "report.json").exists()
    report = train(whole.config, tmp_path)
    assert state_hashes(tmp_path) == state_hashes(whole.workdir)
    assert lines(tmp_path) == lines(whole.workdir)
    assert report["splits"] == whole.report["splits"]


def test_a_batch_computed_alone_is_the_one_of_the_run_on_any_number_of_processes(whole: Whole) -> None:
    task = created(whole.config)[0]  # opened anew
    rows = task.datasets["train"]
    assert len(whole.batches) == 9 and 9 * 8 > 2 * len(rows)  # more than two epochs
    for step in (7, 0, 8):
        for count in (1, 2, 4):
            parts = [
                TrainBatches(rows, batch_size=8, seed=0, host_rows=lambda _, own=own: own).batch(step)
                for own in np.split(np.arange(8), count)
            ]
            assert all(len(part["tokens"]) == 8 // count for part in parts)
            for name, values in whole.batches[step].items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_the_loss_of_a_step_computed_alone_is_that_of_the_run(whole: Whole) -> None:
    """Masks and dropout included: what step 1 logs, from the first weights, the seed and the number of the step."""
    line = next(line for line in lines(whole.workdir) if line["split"] == "train")
    task, loaded, _ = created(whole.config)
    batch = TrainBatches(task.datasets["train"], batch_size=8, seed=0).batch(0)
    graphdef, _ = build_abstract(
        lambda: task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig())
    )
    compiled = jax.jit(
        lambda params, part, key: task.objective.loss(nnx.merge(graphdef, params), part, LossContext(key))
    )
    key = jax.random.fold_in(jax.random.split(jax.random.key(0))[1], 0)  # see training.state.new_state
    total, weights, right = 0.0, 0.0, 0.0
    for number, part_key in enumerate(jax.random.split(key, 2)):  # rows 0, 2, ... and 1, 3, ...
        part = {name: values[number::2] for name, values in batch.items()}
        loss = compiled(tiny.nested(loaded), part, part_key)
        total, weights = total + float(loss.total), weights + float(loss.weight)
        right += float(loss.metrics["accuracy"][0])
    assert (line["step"], line["accuracy"]) == (1, pytest.approx(right / weights, abs=1e-6))
    assert line["loss"] == pytest.approx(total / weights, rel=1e-5)


def test_an_exported_run_is_that_model_in_transformers(whole: Whole, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    export(whole.workdir, tmp_path / "hf")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    assert type(theirs).__name__ == "BertForMaskedLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = np.asarray(tokenizer("ada met [MASK] in the old town .")["input_ids"])
    assert tokenizer.mask_token_id in ids
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(ids[None])).logits.numpy()
    restored = open_run(whole.workdir).restore(make_mesh(MeshConfig()), DEFAULT_BUILD)
    model = nnx.merge(restored.graphdef, restored.params)
    shape = (1, len(ids))
    logits = model.logits(
        model.hidden(
            {
                "tokens": jnp.asarray(ids[None], jnp.int32),
                "segment_ids": jnp.ones(shape, jnp.int32),
                "positions": jnp.arange(len(ids), dtype=jnp.int32)[None],
                "type_ids": jnp.zeros(shape, jnp.int32),
            }
        )
    )
    assert wanted.shape == (*shape, tiny.ENCODER.vocab_size)  # without the rows that pad the vocabulary here
    np.testing.assert_allclose(logits[..., : tiny.ENCODER.vocab_size], wanted, atol=1e-4, rtol=1e-5)


def test_a_run_is_scored_again_as_it_was(whole: Whole) -> None:
    evaluation = evaluate(whole.workdir, "test")
    wanted = whole.report["splits"]["test"]["units"]["whole_word"]
    found = evaluation.scores["units"]["whole_word"]
    assert found == pytest.approx({name: wanted[name] for name in found}, rel=1e-6)
    assert found["targets"] > 20


# From one run to the next.


def own_params(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    return open_run(workdir).restore(make_mesh(MeshConfig()), DEFAULT_BUILD).to_host()


def test_ner_and_masked_lm_start_from_each_others_runs(whole: Whole, folder: pathlib.Path) -> None:
    pretrained = own_params(whole.workdir)
    uri = f"run:{whole.workdir}"
    # Masked LM goes on with all of it.
    _, loaded, notes = created(tiny.masked_lm_config(folder, model__init=uri, **QUICK))
    assert set(loaded) == set(pretrained)
    for name, values in pretrained.items():
        np.testing.assert_array_equal(loaded[name], values)
    assert "masked-LM head: loaded with the weights" in notes
    assert any(note.startswith(f"weights: {uri}, step ") for note in notes)
    # NER takes the encoder.
    ner = tiny.config(folder, model__init=uri)
    task, loaded = registry.create(ner, resolve(ner.model))
    encoder = {name for name in pretrained if name.startswith("encoder/")}
    assert set(loaded) == encoder
    for name in encoder:
        np.testing.assert_array_equal(loaded[name], pretrained[name])
    assert any("head: new" in note for note in task.notes)
    # And back: masked LM from the NER run, whose head it cannot use.
    tuned = tiny.write_run(folder / "ner", tiny.config(folder), best=2)[2]
    _, loaded, notes = created(tiny.masked_lm_config(folder, model__init=f"run:{folder / 'ner'}", **QUICK))
    assert set(loaded) == encoder
    for name in encoder:
        np.testing.assert_array_equal(loaded[name], tuned[name])
    assert "masked-LM head: new, the weights have none that can be used" in notes


def test_the_log_says_what_becomes_of_a_checkpoints_head(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")

    def heads(where: pathlib.Path) -> tuple[set[str], str]:
        _, loaded, notes = created(tiny.masked_lm_config(folder, model__init=f"dir:{where}", **QUICK))
        return {name for name in loaded if not name.startswith("encoder/")}, "\n".join(notes)

    head = {name for name in tiny.random_masked_lm(tiny.ENCODER, 0) if not name.startswith("encoder/")}
    used, notes = heads(folder / "masked_lm")
    assert used == head and "masked-LM head: loaded" in notes
    tiny.write_weights(tmp_path / "bare")
    used, notes = heads(tmp_path / "bare")
    assert not used and "masked-LM head: new" in notes
    # A decoder that is not the word embedding cannot be kept: tied it would be another model.
    tiny.write_masked_lm_weights(tmp_path / "untied")
    path = tmp_path / "untied" / "model.safetensors"
    tensors = safetensors.load_file(path)
    decoder = tensors["bert.embeddings.word_embeddings.weight"] + 0.5
    safetensors.save_file(tensors | {"cls.predictions.decoder.weight": decoder}, path)
    used, notes = heads(tmp_path / "untied")
    assert not used and "masked-LM head: new" in notes
    assert (
        "vocabulary head not used: cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight"
        in notes
    )


def test_from_scratch_the_vocabulary_is_that_of_the_tokenizer(folder: pathlib.Path) -> None:
    config = tiny.masked_lm_config(
        folder,
        model__init="scratch",
        model__preset="bert_tiny",
        model__tokenizer=f"dir:{folder / 'masked_lm'}",
        **QUICK,
    )
    task, loaded, _ = created(config)
    encoder = task.objective.spec.encoder
    assert not loaded and encoder.vocab_size == 69 and encoder.hidden_size == 128
    assert len(task.text.vocabulary.ordinary) == len(tiny.VOCABULARY) - 5
