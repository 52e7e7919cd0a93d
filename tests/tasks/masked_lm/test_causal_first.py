"""Runs that predict next tokens first and masked ones later."""

import dataclasses
import json
import os
import pathlib
import signal
from typing import Any, cast

import jax
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import CAUSAL, FULL
from jaxfm.core.objective import Loss, LossContext
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.causal_lm.objective import CausalLMObjective
from jaxfm.tasks.causal_lm.spec import CausalLMSpec
from jaxfm.tasks.masked_lm.causal_first import CausalFirstObjective
from jaxfm.tasks.masked_lm.task import MaskedLMTask
from jaxfm.training import session
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from jaxfm.training.setup import set_up
from jaxfm.training.step import moved_part
from tests import tiny

KEY = jax.random.key(12)
PARAMS = tiny.nested(tiny.random_masked_lm(tiny.ENCODER, seed=5))
UNTIL = 0.5
# The last causal step is one of an evaluation; the step at which it stops is the first with masks.
RUN = {
    "train__steps": 8,
    "train__batch_size": 8,
    "train__accumulate": 2,
    "task__causal_until": UNTIL,
    "task__ratio": 0.3,
    "task__later_ratios": [0.15, 0.1],
    "task__later_at": [0.6, 0.8],
    "task__evaluate": ["token"],
    "task__z_loss": 1e-4,
    "task__logits_chunk": 16,
    "eval__every_steps": 4,
    "log__every_steps": 1,
    "log__tensorboard": False,
    "checkpoint__keep_optimizer": True,  # for the hashes of the last state
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("causal_first")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.masked_lm_config(folder, model__dropout=0.1, **RUN)


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path, config: Config) -> dict[str, Any]:
    return train(config, folder / "whole")


def created(config: Config) -> MaskedLMTask:
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, MaskedLMTask)
    return task


def computed(objective: Any, batch: Any, progress: float) -> tuple[Loss, Any]:
    """Returns the loss and its gradients."""
    graphdef = build_abstract(lambda: objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))[0]

    def total(params: Any, progress: Any) -> Any:
        found = objective.loss(nnx.merge(graphdef, params), batch, LossContext(KEY, progress))
        return found.total, found

    (_, found), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(PARAMS, progress)
    return found, gradients


@pytest.mark.parametrize("progress", [0.0, 0.499, 0.5, 1.0])
def test_a_step_is_one_of_causal_lm_or_one_of_masked_lm(config: Config, progress: float) -> None:
    task = created(config)
    objective, batch = task.objective, cast(Any, task.datasets["train"].take(np.arange(8)))
    assert isinstance(objective, CausalFirstObjective)
    spec = objective.spec
    assert spec.encoder.sight == FULL and batch["segment_ids"].max() > 1
    causal = CausalLMObjective(CausalLMSpec(dataclasses.replace(spec.encoder, sight=CAUSAL), spec.row_length), 1e-4, 16)
    (found, gradients), (wanted, wanted_gradients) = (
        computed(each, batch, progress) for each in (objective, causal if progress < UNTIL else objective.masked)
    )
    assert float(found.total) == pytest.approx(float(wanted.total), rel=1e-6)
    assert float(found.weight) == float(wanted.weight) > 30
    for own, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted_gradients), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6 * max(1.0, float(np.abs(other).max())))
    assert set(found.metrics) == {"accuracy", "masked_share", "rows_without_target", "causal"}
    assert found.metrics["causal"].tolist() == [float(progress < UNTIL), 1.0]
    for name in wanted.metrics:
        np.testing.assert_allclose(found.metrics[name], wanted.metrics[name], rtol=1e-6)


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if "per_second" not in name}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def test_the_log_says_which_part_is_on_and_held_out_text_is_always_masked(
    folder: pathlib.Path, config: Config, whole: dict[str, Any]
) -> None:
    logged = [line for line in lines(folder / "whole") if line["split"] == "train"]
    assert [line["causal"] for line in logged] == [1.0] * 4 + [0.0] * 4
    # Stages of the whole run: 0.3 up to its 60 %, 0.15 up to 80 %, then 0.1; of tokens that can be masked.
    masked = [line["masked_share"] for line in logged]
    assert masked[:4] == [0.0] * 4 and masked[4] > masked[5] > masked[7] > 0
    valid = [line for line in lines(folder / "whole") if line["split"] == "valid"]
    assert [line["step"] for line in valid][:2] == [4, 8]
    alone = created(tiny.replaced(config, task__causal_until=0.0))
    assert alone.datasets["valid"].fingerprint() == created(config).datasets["valid"].fingerprint()
    scores = evaluate(folder / "whole", "valid").scores
    assert scores["loss"] == pytest.approx(whole["splits"]["valid"]["loss"], rel=1e-6)
    said = [(0.0, "next tokens are predicted"), (0.5, "30% of the tokens are masked and predicted")]
    more = [(share, f"{ratio} of the tokens are masked and predicted") for share, ratio in ((0.6, "15%"), (0.8, "10%"))]
    assert list(created(config).objective.phases) == [*said, *more]
    late = created(tiny.replaced(config, task__causal_until=0.7)).objective.phases
    assert late[1:] == ((0.7, more[0][1]), more[1])
    assert alone.objective.phases[0] == (0.0, said[1][1])
    constant = tiny.replaced(config, task__later_ratios=[], task__later_at=[])
    assert created(constant).objective.phases == (said[0], (0.5, "masked tokens are predicted"))
    assert created(tiny.replaced(constant, task__causal_until=0.0)).objective.phases == ()
    assert "of the updates predict next tokens" in "\n".join(created(config).notes)


@pytest.mark.parametrize("batches_before", [3, 5])  # before the change, and after its first step
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    folder: pathlib.Path,
    config: Config,
    whole: dict[str, Any],
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    batches_before: int,
) -> None:
    batches, plain = 0, session.meshes.shard_batch

    def shard_batch(*arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == batches_before:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.meshes, "shard_batch", shard_batch)
        with pytest.raises(Preempted, match=f"step {batches_before}"):
            train(config, tmp_path)
    before = "".join(capfd.readouterr())
    report = train(config, tmp_path)
    after = "".join(capfd.readouterr())
    assert "step 1: next tokens are predicted" in before and "tokens are masked and predicted" in after
    assert ("next tokens are predicted\n" in after) == (batches_before == 3)

    def hashes(workdir: pathlib.Path) -> Any:
        checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
        try:
            return checkpoints.meta(RUN["train__steps"])["hashes"]
        finally:
            checkpoints.close()

    assert hashes(tmp_path) == hashes(folder / "whole") and lines(tmp_path) == lines(folder / "whole")
    assert report["splits"] == whole["splits"]


def test_a_teacher_is_refused(config: Config, folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"config.task.causal_until: is 0.5, but a model that learns from a teacher"):
        created(tiny.replaced(config, distil__teacher=f"run:{folder}"))
    with pytest.raises(UserError, match=r"config.task.causal_until: is 0.5, but a model that learns from a teacher"):
        registry.abstract_objective(tiny.replaced(config, distil__teacher=f"run:{folder}"), tiny.ENCODER)


@pytest.mark.parametrize("key", ["eval__patience", "grow__patience"])
def test_a_run_does_not_wait_for_scores_that_its_causal_part_does_not_improve(config: Config, key: str) -> None:
    name = key.replace("__", r"\.")
    with pytest.raises(UserError, match=rf"^config\.{name}: is 2, but while next tokens are predicted .* Set 0\."):
        created(tiny.replaced(config, **{key: 2}))


def test_replaced_tokens_know_no_causal_part() -> None:
    with pytest.raises(UserError, match=r"config.task.causal_until: is of the task masked_lm alone"):
        registry.from_config_dict({"task": {"name": "replaced_token", "causal_until": 0.5}})
    with pytest.raises(UserError, match=r"config.task.causal_until: is 1.0, but must be .*below 1"):
        registry.from_config_dict({"task": {"name": "masked_lm", "causal_until": 1.0}})


def test_work_is_counted_by_the_parts_of_the_run(config: Config) -> None:
    def flops(until: float) -> float:
        changed = tiny.replaced(config, task__causal_until=until)
        return registry.abstract_objective(changed, tiny.ENCODER).flops_per_row(config.adapt)

    spec = CausalLMSpec(dataclasses.replace(tiny.ENCODER, sight=CAUSAL), config.data.row_length)
    causal = CausalLMObjective(spec).flops_per_row(config.adapt)
    assert flops(0.25) == pytest.approx(0.25 * causal + 0.75 * flops(0.0)) and causal > flops(0.0)


def gradients_of(config: Config, mesh: MeshConfig) -> tuple[float, list[np.ndarray]]:
    """Returns the first step's loss and gradients, sums, as a run of that config computes them."""
    task, loaded = registry.create(config, resolve(config.model))
    setup = set_up(tiny.replaced(config, parallel__mesh=dataclasses.asdict(mesh)), task, loaded, make_mesh(mesh))
    state, made = setup.initial_state(), setup.session
    batch = made.shard(task.datasets["train"].take(np.arange(config.train.batch_size)))
    adaptation = made.adaptation
    with jax.set_mesh(made.mesh):
        found = jax.jit(made.gradients)(moved_part(state, adaptation), state, batch)
    return float(found.loss), [np.asarray(leaf) for leaf in jax.tree.leaves(found.grads)]


# Of one step: the first one of a run of this many is causal.
SHORT = {**RUN, "train__accumulate": 1, "task__later_ratios": [], "task__later_at": []}


@pytest.mark.parametrize(
    ("mesh", "keys"),
    [
        (MeshConfig(data=1, fsdp=2, tensor=2), {}),
        (MeshConfig(data=2, sequence=2), {}),
        (MeshConfig(data=1, fsdp=2, sequence=2), {"model__remat": "full"}),
    ],
    ids=["fsdp-tensor", "data-sequence", "remat"],
)
def test_a_causal_step_is_the_same_on_any_mesh(folder: pathlib.Path, mesh: MeshConfig, keys: dict[str, Any]) -> None:
    config = tiny.masked_lm_config(folder, model__dropout=0.0, **SHORT)
    wanted_loss, wanted = gradients_of(config, MeshConfig())
    loss, found = gradients_of(tiny.replaced(config, **keys), mesh)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    for own, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(other).max())))


def test_frozen_parts_have_no_gradient_and_the_others_that_of_the_whole(folder: pathlib.Path) -> None:
    config = tiny.masked_lm_config(folder, model__dropout=0.0, **SHORT)
    whole_loss, whole = gradients_of(config, MeshConfig())
    loss, found = gradients_of(tiny.replaced(config, adapt__lora__rank=2), MeshConfig())
    assert loss == pytest.approx(whole_loss, rel=1e-5)  # what is added begins as nothing
    assert 0 < len(found) and sum(each.size for each in found) < sum(each.size for each in whole) / 2
    assert any(np.abs(each).max() > 0 for each in found)


def test_subnets_learn_causally_too(folder: pathlib.Path) -> None:
    subnets = {"supernet__depths": (1,), "supernet__ffn_sizes": (32,), "supernet__distillation": 0.0}
    config = tiny.masked_lm_config(folder, model__dropout=0.0, **SHORT, **subnets)
    one, first = gradients_of(tiny.replaced(config, supernet__depths=(), supernet__ffn_sizes=()), MeshConfig())
    loss, found = gradients_of(config, MeshConfig())
    assert np.isfinite(loss) and loss != pytest.approx(one, rel=1e-6) and len(found) == len(first)


@pytest.mark.parametrize("family", ["bert", "modernbert-decoder"])
def test_a_decoder_becomes_an_encoder(tmp_path: pathlib.Path, family: str) -> None:
    shape = dataclasses.replace(tiny.ENCODER, sight=CAUSAL)
    if family != "bert":
        sizes = {name: getattr(tiny.ENCODER, name) for name in ("vocab_size", "hidden_size", "num_heads", "ffn_size")}
        shape = dataclasses.replace(preset("modern_tiny"), sight=CAUSAL, family=family, **sizes)
    uri = tiny.write_masked_lm_weights(tmp_path / "decoder", shape)
    if family != "bert":  # whose tokenizers are files of the library tokenizers alone
        tiny.write_tokenizer(tmp_path / "tokenizer")
        (tmp_path / "decoder" / "vocab.txt").unlink()
        load_tokenizer(tmp_path / "tokenizer").save_pretrained(tmp_path / "decoder")
    changes = {**SHORT, "train__steps": 2, "eval__every_steps": 2, "model__init": uri}
    config = tiny.masked_lm_config(tmp_path, **changes)
    with pytest.raises(UserError, match=r"has tokens that see only those before them.*config\.model\.sight=full"):
        created(config)
    config = tiny.replaced(config, model__sight="full")
    encoder = created(config).objective.spec.encoder
    assert (encoder.sight, encoder.family) == (FULL, family.removesuffix("-decoder"))
    report = train(config, tmp_path / "run")
    assert report["splits"]["valid"]["loss"] > 0
    # It goes out as any encoder does.
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch", reason="transformers' models need it")
    export(tmp_path / "run", tmp_path / "hf")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf")
    assert type(model).__name__ in ("BertForMaskedLM", "ModernBertForMaskedLM")
    assert not getattr(model.config, "is_decoder", False)


def test_a_run_of_before_there_were_stages_is_opened(tmp_path: pathlib.Path) -> None:
    run = tiny.write_runs(tmp_path, ["masked_lm"])["masked_lm"]
    now = open_run(run)
    for name, keys in (("task.json", ("ratio_starts",)), ("config.json", ("later_ratios", "later_at", "causal_until"))):
        values = json.loads((run / name).read_text())
        group = values if name == "task.json" else values.get("config", values)["task"]
        for key in keys:
            del group[key]
        (run / name).write_text(json.dumps(values))
    assert open_run(run).spec == now.spec and open_run(run).config == now.config
