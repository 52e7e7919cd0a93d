"""Distillation: its loss against another library, runs that learn from teachers, and what is refused."""

import dataclasses
import json
import pathlib
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
from jaxfm.training import distillation
from jaxfm.training.initial import resolve
from jaxfm.training.paths import TRAINING_ONLY, flat
from jaxfm.training.saved_run import open_run
from jaxfm.training.session import Session, make_session
from jaxfm.training.setup import set_up
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
    return task, make_session(config, task.objective, make_mesh(config.parallel.mesh), total_steps=6), loaded


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
    context = LossContext(jax.random.key(0), constants=session.constants)
    found = jax.jit(lambda: session.objective.loss(nnx.merge(session.graphdef, params), batch, context))()

    projection = {name: torch.tensor(np.asarray(x)) for name, x in flat(params[TRAINING_ONLY]).items()}
    (student, mine), (known_model, known) = exported(run, tmp_path / "a"), exported(teacher, tmp_path / "b")
    mask = torch.tensor(np.asarray(batch["segment_ids"])).long()
    given = {"input_ids": torch.tensor(np.asarray(batch["tokens"])).long(), "attention_mask": mask}
    labels = torch.tensor(np.asarray(batch["labels"])[:, 0]).long()
    with torch.no_grad():
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
    assert evaluated["accuracy"] == report["splits"]["test"]["accuracy"]
    taught = report["distillation"]["teachers"][0]
    known = json.loads((teacher / "report.json").read_text())["splits"]
    assert taught["splits"]["test"]["accuracy"] == known["test"]["accuracy"]
    assert taught["retained"]["test"] == pytest.approx(
        report["splits"]["test"]["accuracy"] / known["test"]["accuracy"]
    )
    text = (run / "report.md").read_text()
    assert "## Teacher and student" in text and f"run:{teacher}" in text
    # A next run, and one of other weights in the same place, which the checkpoints tell apart.
    train(tiny.replaced(opened.config, **PLAIN, model__init=f"run:{run}", train__steps=1), tmp_path / "next")


def _padding(restored: Any) -> int:
    """Numbers of the rows that pad the vocabulary, which no count has."""
    words = restored.to_host()["encoder/embeddings/word/embedding"]
    return (len(words) - 30522) * words.shape[1]
