"""Distillation: its loss against another library, runs that learn from teachers, and what is refused."""

import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxfm.config import Config
from jaxfm.core.build import Build
from jaxfm.core.objective import LossContext
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import make_mesh
from jaxfm.parallel.preemption import Paused
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training.initial import find_teachers, resolve
from jaxfm.training.paths import TRAINING_ONLY, flat
from jaxfm.training.saved_run import open_run
from jaxfm.training.session import Session, make_session
from tests import tiny

# What of a student's config is put back for a run of its weights without a teacher.
PLAIN: dict[str, Any] = {
    **{f"model__{name}": 0 for name in ("num_layers", "hidden_size", "num_heads", "ffn_size")},
    **{f"distil__{name}": 0.0 for name in ("hidden", "attention", "relations")},
    **{"model__preset": "", "model__tokenizer": "", "distil__teacher": ""},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("distillation")


@pytest.fixture(scope="module")
def teacher(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A trained classifier of two layers."""
    config = tiny.classification_config(folder, train__batch_size=8, train__steps=12, train__accumulate=1)
    train(config, folder / "teacher")
    yield folder / "teacher"


@pytest.fixture(scope="module")
def config(folder: pathlib.Path, teacher: pathlib.Path) -> Config:
    """A student of one layer, half as wide, that learns from the teacher's outputs."""
    return tiny.classification_config(
        folder,
        distil__teacher=f"run:{teacher}",
        model__init="scratch",
        model__preset="bert_tiny",
        model__num_layers=1,
        model__hidden_size=16,
        model__num_heads=2,
        model__ffn_size=32,
        model__tokenizer=f"dir:{folder / 'weights'}",
        train__batch_size=8,
        train__steps=6,
        eval__every_steps=3,
        log__every_steps=1,
        checkpoint__keep_optimizer=True,
    )


@pytest.fixture(scope="module")
def run(config: Config, folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A student of half the width, which has learned outputs, hidden states, scores of attention and relations."""
    everything = {f"distil__{name}": 1.0 for name in ("hidden", "attention", "relations")}
    train(tiny.replaced(config, **everything), folder / "student")
    yield folder / "student"


def created(config: Config) -> Any:
    return registry.create(config, resolve(config.model))


def opened(config: Config) -> tuple[Any, Session, Any]:
    task, loaded = created(config)
    return task, session_of(config, task), loaded


def session_of(config: Config, task: Any) -> Session:
    mesh = make_mesh(config.parallel.mesh)
    return make_session(config, task.objective, mesh, total_steps=6, teachers=find_teachers(config))


def exported(workdir: pathlib.Path, folder: pathlib.Path) -> Any:
    """The model of a run as transformers reads it, and what its maps to queries, keys and values gave last."""
    import transformers

    opened = open_run(workdir)
    restored = opened.restore(make_mesh(opened.config.parallel.mesh), Build())
    opened.predictor().write_hf(folder, restored.to_host())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    seen: dict[str, torch.Tensor] = {}
    for number, layer in enumerate(model.base_model.encoder.layer):
        for name in ("query", "key", "value"):
            own = getattr(layer.attention.self, name)
            own.register_forward_hook(lambda _, __, out, at=f"{name}{number}": seen.update({at: out}))
    return model, seen


def test_the_loss_is_that_of_transformers_models(
    config: Config, teacher: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    factors = {"hard": 0.3, "soft": 0.7, "hidden": 0.5, "attention": 0.25, "relations": 2.0, "temperature": 3.0}
    config = tiny.replaced(
        config,
        **{f"distil__{name}": value for name, value in factors.items()},
        **{f"model__{name}": 0 for name in ("num_layers", "hidden_size", "num_heads", "ffn_size")},
        model__init=f"run:{run}",
        model__preset="",
        model__tokenizer="",
        model__dropout=0.0,
        data__packed=False,
    )
    task, session, loaded = opened(config)
    params = session.initial_state(0, loaded).params
    batch = {name: jnp.asarray(value) for name, value in tiny.batch_of(task.datasets["train"], 8).items()}
    (known_params,) = session.constants
    for each in (params, known_params):  # models that are hardly trained hardly differ
        each["head"]["kernel"] = 200 * each["head"]["kernel"]
    context = LossContext(jax.random.key(0), constants=(known_params,))
    found = jax.jit(lambda: session.objective.loss(nnx.merge(session.graphdef, params), batch, context))()

    projection = {name: torch.tensor(np.asarray(x)) for name, x in flat(params[TRAINING_ONLY]).items()}
    (student, mine), (known_model, known) = exported(run, tmp_path / "a"), exported(teacher, tmp_path / "b")
    mask = torch.tensor(np.asarray(batch["segment_ids"])).long()
    given = {"input_ids": torch.tensor(np.asarray(batch["tokens"])).long(), "attention_mask": mask}
    labels = torch.tensor(np.asarray(batch["labels"])[:, 0]).long()
    with torch.no_grad():
        for each in (student, known_model):
            each.classifier.weight *= 200
        ours = student(**given, output_hidden_states=True)
        theirs = known_model(**given, output_hidden_states=True)
    cross = torch.nn.functional.cross_entropy
    wanted = {"hard": cross(ours.logits, labels).item()}
    # The cross-entropy less the teacher's entropy is the divergence.
    soft = torch.softmax(theirs.logits / 3, dim=-1)
    wanted["soft"] = 9 * (cross(ours.logits / 3, soft) - cross(theirs.logits / 3, soft)).item()
    mse, valid = torch.nn.functional.mse_loss, mask.bool()
    projected = [x @ projection["hidden/kernel"] + projection["hidden/bias"] for x in ours.hidden_states]
    pairs = ((0, 0), (1, 2))
    wanted["hidden"] = sum(mse(projected[a][valid], theirs.hidden_states[b][valid]).item() for a, b in pairs)

    def scores(seen: dict[str, Any], layer: int) -> list[Any]:
        q, k = (seen[f"{name}{layer}"].unflatten(-1, (2, -1)).transpose(1, 2) for name in ("query", "key"))
        every = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return [one[:, :length, :length].flatten() for one, length in zip(every, mask.sum(1), strict=True)]

    wanted["attention"] = mse(torch.cat(scores(mine, 0)), torch.cat(scores(known, 1))).item()
    wanted["relations"] = 0.0
    for name in ("query", "key", "value"):
        divergence, count = 0.0, 0
        for row, length in enumerate(mask.sum(1)):
            log_relations = []
            for vectors in (mine[f"{name}0"][row, :length], known[f"{name}1"][row, :length]):
                heads = vectors.unflatten(-1, (2, -1)).transpose(0, 1)
                log_relations.append(torch.log_softmax(heads @ heads.transpose(-1, -2) / heads.shape[-1] ** 0.5, -1))
            divergence += torch.nn.functional.kl_div(*log_relations, log_target=True, reduction="sum").item()
            count += 2 * int(length)
        wanted["relations"] += divergence / count
    for name, value in wanted.items():
        total, weight = found.metrics[f"loss_{name}"]
        np.testing.assert_allclose(total / weight, value, rtol=2e-4, err_msg=name)
        assert value > 1e-4
    np.testing.assert_allclose(
        found.total / found.weight, sum(factors[name] * value for name, value in wanted.items()), rtol=2e-4
    )


def numbers(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if "second" not in key and "time" not in key}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = open_run(run).config
    with pytest.raises(Paused):
        train(config, tmp_path / "run", pause=lambda step, _: step == 3)
    train(config, tmp_path / "run")
    assert numbers(run) == numbers(tmp_path / "run")
    lines = [line for line in numbers(run) if line["split"] == "train"]
    names = [f"loss_{name}" for name in ("hard", "soft", "hidden", "attention", "relations")]
    assert len(lines) == 6 and all(line[name] > 0 for line in lines for name in names)
    assert lines[-1]["loss_hidden"] < 0.7 * lines[0]["loss_hidden"]
    reports = [json.loads((workdir / "report.json").read_text()) for workdir in (run, tmp_path / "run")]
    assert reports[0]["splits"] == reports[1]["splits"]


def test_a_student_is_an_ordinary_run(run: pathlib.Path, teacher: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """What only its training has is in no model that is used, and counts as none of its parameters."""
    opened = open_run(run)
    restored = opened.restore(make_mesh(opened.config.parallel.mesh), Build())
    assert not any(path.startswith(TRAINING_ONLY) for path in restored.to_host())
    report = json.loads((run / "report.json").read_text())
    assert report["model"]["parameters"] == sum(x.size for x in restored.to_host().values()) - _padding(restored)
    evaluated = evaluate(run, "test")
    assert evaluated.metrics["accuracy"] == report["splits"]["test"]["accuracy"]
    taught = report["distillation"]["teachers"][0]
    known = json.loads((teacher / "report.json").read_text())["splits"]
    assert taught["splits"]["test"]["accuracy"] == known["test"]["accuracy"]
    assert taught["retained"]["test"] == pytest.approx(report["splits"]["test"]["accuracy"] / known["test"]["accuracy"])
    text = (run / "report.md").read_text()
    assert "## Teacher and student" in text and f"run:{teacher}" in text
    # A next run, and one of other weights in the same place, which the checkpoints tell apart.
    train(tiny.replaced(opened.config, **PLAIN, model__init=f"run:{run}", train__steps=1), tmp_path / "next")


def _padding(restored: Any) -> int:
    """Numbers of the rows that pad the vocabulary, which no count has."""
    words = restored.to_host()["encoder/embeddings/word/embedding"]
    return (len(words) - 30522) * words.shape[1]


def test_teachers_are_averaged_and_other_weights_are_told_apart(
    config: Config, teacher: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The weights of a teacher are constants; a checkpoint remembers which they were."""
    both = tiny.replaced(config, distil__teacher=f"run:{teacher}, run:{run}", distil__hard=0.0, model__dropout=0.0)
    task, session, _ = opened(both)
    objective: Any = session.objective
    batch = {name: jnp.asarray(value) for name, value in tiny.batch_of(task.datasets["train"], 8).items()}
    first, second = session.constants
    state = session.initial_state(0)

    @jax.jit
    def loss_and_means() -> Any:
        model = nnx.merge(session.graphdef, state.params)
        found = objective.loss(model, batch, LossContext(jax.random.key(0), constants=(first, second)))
        known = [
            each.objective.logits(each.model(params), batch)
            for each, params in zip(objective.teachers, (first, second), strict=True)
        ]
        wanted = task.objective.soft_loss(task.objective.logits(model, batch), sum(known) / 2, batch, 2.0)
        return found, wanted

    found, (wanted, weight) = loss_and_means()
    np.testing.assert_allclose(found.total, 0.5 * wanted, rtol=1e-5)
    assert found.weight == weight and len(objective.teachers) == 2
    alone = opened(config)[1].objective
    assert objective.flops_per_row(config.adapt) > alone.flops_per_row(config.adapt)
    plain = task.objective.flops_per_row(config.adapt)
    theirs = objective.teachers[0].objective.flops_per_row(config.adapt)
    assert alone.flops_per_row(config.adapt) == pytest.approx(plain + theirs / 3)
    # Another teacher in the same place.
    copied, place = tmp_path / "copied", tmp_path / "run"
    shutil.copytree(teacher, copied)
    moved = tiny.replaced(config, distil__teacher=f"run:{copied}")
    with pytest.raises(Paused):
        train(moved, place, pause=lambda step, _: step == 3)
    shutil.rmtree(copied)
    train(tiny.replaced(open_run(teacher).config, train__steps=1), copied)
    with pytest.raises(UserError, match="other weights of the teacher"):
        train(moved, place)


def test_micro_batches_and_meshes_change_nothing(config: Config) -> None:
    plain = tiny.replaced(config, model__dropout=0.0)
    grads = []
    for accumulate, mesh in ((1, {}), (2, {}), (1, {"data": 1, "fsdp": 2, "tensor": 2})):
        changes = {f"parallel__mesh__{axis}": size for axis, size in mesh.items()}
        one = tiny.replaced(plain, train__accumulate=accumulate, **changes)
        task, session, _ = opened(one)
        state = session.initial_state(0)
        batch = session.shard(tiny.batch_of(task.datasets["train"], 8))
        constants = session.constants
        with jax.set_mesh(session.mesh):
            found = jax.jit(session.gradients)(state.params, state, batch, constants)
        grads.append(jax.tree.map(lambda leaf, weight=found.weight: np.asarray(leaf / weight), found.grads))
    sharding = constants[0]["encoder"]["layers"]["ffn"]["up"]["kernel"].sharding
    assert sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
    for other in grads[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), grads[0], other)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads[0])) > 1e-3


@pytest.mark.parametrize("task_name", ["ner", "masked_lm"])
def test_other_tasks_learn_from_a_larger_model(task_name: str, tmp_path: pathlib.Path) -> None:
    """The layers of a student taken from its teacher; masked text is masked alike for both."""
    make = tiny.config if task_name == "ner" else tiny.masked_lm_config
    config = make(tmp_path, train__steps=4, model__dropout=0.0)
    known = config.model.init
    if task_name == "ner":
        train(config, tmp_path / "teacher")
        known = f"run:{tmp_path / 'teacher'}"
    losses = {f"distil__{name}": 1.0 for name in ("hidden", "attention", "relations")}
    config = tiny.replaced(config, **losses, distil__teacher=known, model__init=known)
    task, loaded = created(config)
    session = session_of(config, task)
    batch = {name: jnp.asarray(value) for name, value in tiny.batch_of(task.datasets["train"], 4).items()}

    def loss(session: Session, params: Any) -> Any:
        context = LossContext(jax.random.key(3), constants=session.constants)
        return jax.jit(
            lambda params, constants: session.objective.loss(
                nnx.merge(session.graphdef, params), batch, context._replace(constants=constants)
            )
        )(params, session.constants)

    same = loss(session, session.initial_state(0, loaded).params).metrics
    # A student that is its teacher has nothing to learn.
    for name in ("soft", "hidden", "attention", "relations"):
        np.testing.assert_allclose(same[f"loss_{name}"][0], 0.0, atol=1e-5, err_msg=name)
    assert same["loss_hard"][0] > 0.1
    config = tiny.replaced(config, model__keep_layers=(2,))
    task, loaded = created(config)
    assert task.objective.spec.encoder.num_layers == 1
    half = session_of(config, task)
    found = loss(half, half.initial_state(0, loaded).params)
    assert all(found.metrics[f"loss_{name}"][0] > 1e-4 for name in ("soft", "hidden", "attention", "relations"))
    if task_name == "masked_lm":
        with pytest.raises(UserError, match=r"config.distil.cache: of the task 'masked_lm' what a model sees"):
            opened(tiny.replaced(config, **dict.fromkeys(losses, 0.0), distil__cache=True))


@pytest.mark.slow
def test_several_seeds_learn_from_one_teacher(config: Config, tmp_path: pathlib.Path) -> None:
    """The teacher's weights are shared by the runs of one program."""
    several = tiny.replaced(config, train__seeds=2, train__steps=2, data__packed=False, eval__every_steps=2)
    train(several, tmp_path / "runs")
    alone = tiny.replaced(several, train__seeds=1, seed=1)
    train(alone, tmp_path / "alone")
    known, found = (numbers(tmp_path / name)[-1] for name in ("alone", "runs/seed1"))
    np.testing.assert_allclose(found["loss"], known["loss"], rtol=1e-4)
