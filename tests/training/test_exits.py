"""The loss of all heads against models that end where a head stands, runs with early heads, and what is refused."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config
from jaxfm.core.build import Build
from jaxfm.core.exits import exit_layers
from jaxfm.core.objective import LossContext
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.parallel.preemption import Paused
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training import exits
from jaxfm.training.initial import resolve
from jaxfm.training.paths import flat, nested
from jaxfm.training.saved_run import open_run
from jaxfm.training.session import Session, make_session
from jaxfm.training.step import make_gradients
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, num_layers=3)


def config_of(directory: pathlib.Path, task: str = "classification", **changes: Any) -> Config:
    """A run with a head after each of three layers."""
    if not (directory / "weights").exists():
        tiny.write_weights(directory / "weights", ENCODER)
    make = {"classification": tiny.classification_config, "ner": tiny.config}[task]
    return make(directory, exits__every=1, train__batch_size=8, **changes)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return config_of(
        tmp_path_factory.mktemp("exits"),
        train__steps=6,
        eval__every_steps=3,
        log__every_steps=1,
        checkpoint__keep_optimizer=True,
    )


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A run with early heads trained in one go."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(config, folder)
    yield folder


def created(config: Config) -> Any:
    return registry.create(config, resolve(config.model))


def session_of(config: Config) -> tuple[Any, Session, Any, dict[str, jax.Array]]:
    """Returns the task, its session, the first parameters and a batch."""
    task, loaded = created(config)
    session = make_session(config, task.objective, make_mesh(config.parallel.mesh), total_steps=6)
    batch = {name: jnp.asarray(value) for name, value in tiny.batch_of(task.datasets["train"], 8).items()}
    return task, session, session.initial_state(0, loaded), batch


def cut_params(params: Any, layers: int, depth: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a post-norm model that ends after `depth` of `layers` layers, with the head there."""
    head = f"exits/after_{depth}/classifier/"
    found = {}
    for path, leaf in flat(params).items():
        value = np.asarray(leaf)
        if path.startswith("encoder/"):
            found[path] = value[:depth] if path.startswith("encoder/layers/") else value
        elif depth < layers and path.startswith(head):
            found[path.removeprefix(head)] = value
        elif depth == layers and not path.startswith("exits/"):
            found[path] = value
    return found


@pytest.mark.parametrize(
    ("task_name", "changes"),
    [
        ("classification", {"exits__weights": "depth", "exits__pooling": "task"}),
        ("classification", {"exits__weights": "equal", "exits__distillation": 0.25, "exits__temperature": 2.0}),
        ("ner", {"task__word_pooling": "mean"}),
    ],
)
def test_the_loss_is_the_mean_over_models_that_end_at_a_head(
    tmp_path: pathlib.Path, task_name: str, changes: dict[str, Any]
) -> None:
    config = config_of(tmp_path, task_name, model__dropout=0.0, **changes)
    task, session, state, batch = session_of(config)
    context = LossContext(jax.random.key(5))
    objective = session.objective
    found = jax.jit(lambda: objective.loss(nnx.merge(session.graphdef, state.params), batch, context))()

    plain, logits = {}, {}
    for depth in (1, 2, 3):
        encoder = dataclasses.replace(task.objective.spec.encoder, num_layers=depth)
        spec = dataclasses.replace(task.objective.spec, encoder=encoder, exits=())
        if depth < 3 and task_name == "classification":
            spec = dataclasses.replace(spec, pooling=task.objective.spec.exit_pooling)
        single = dataclasses.replace(task.objective, spec=spec)
        graphdef, _ = build_abstract(lambda spec=spec: spec.make_model(Build(scan=False), nnx.Rngs(0)), session.mesh)
        model = nnx.merge(graphdef, nested(cut_params(state.params, 3, depth)))
        plain[depth] = float(jax.jit(lambda model=model, single=single: single.loss(model, batch, context).total)())
        logits[depth] = single.logits(model, batch)
    share, weights = config.exits.distillation, {1: 1.0, 2: 1.0, 3: 1.0}
    if config.exits.weights == "depth":
        weights = {1: 1.0, 2: 2.0, 3: 3.0}
    total = 0.0
    for depth, weight in weights.items():
        loss = plain[depth]
        if share and depth < 3:
            soft, _ = task.objective.soft_loss(logits[depth], logits[3], batch, 2.0)
            loss = (1 - share) * loss + share * float(soft)
        np.testing.assert_allclose(found.metrics[f"loss_after_{depth}"][0], loss, rtol=2e-5)
        total += loss * weight / sum(weights.values())
    np.testing.assert_allclose(found.total, total, rtol=2e-5)
    assert float(found.weight) == (np.asarray(batch["labels"]) >= 0).sum()


def test_the_last_head_has_the_dropout_of_a_model_without_early_ones(config: Config) -> None:
    task, session, state, batch = session_of(config)
    context = LossContext(jax.random.key(5))
    found = jax.jit(lambda: session.objective.loss(nnx.merge(session.graphdef, state.params), batch, context))()
    plain = jax.jit(lambda: task.objective.loss(nnx.merge(session.graphdef, state.params), batch, context))()
    np.testing.assert_allclose(found.metrics["loss_after_3"][0], plain.total, rtol=1e-6)
    assert found.metrics["accuracy"][0] == plain.metrics["accuracy"][0]


def gradients(session: Session, state: Any, batch: Any, accumulate: int, objective: Any = None) -> dict[str, Any]:
    objective = objective or session.objective

    def loss(params: Any, batch: Any, context: LossContext) -> Any:
        return objective.loss(nnx.merge(session.graphdef, params), batch, context)

    def found(state: Any) -> Any:
        made = make_gradients(loss, total_steps=6, accumulate=accumulate)(state.params, state, batch)
        return jax.tree.map(lambda leaf: leaf / made.weight, made.grads)

    return flat(jax.jit(found)(state))


def test_micro_batches_change_nothing(config: Config) -> None:
    config = tiny.replaced(config, model__dropout=0.0, exits__distillation=0.5)
    _, session, state, batch = session_of(config)
    whole, parts = (gradients(session, state, batch, accumulate) for accumulate in (1, 4))
    for path, value in whole.items():
        np.testing.assert_allclose(value, parts[path], atol=2e-6, err_msg=path)
    assert np.abs(whole["exits/after_1/classifier/head/kernel"]).max() > 1e-4


def test_early_heads_that_are_apart_leave_the_layers_as_they_would_be(config: Config) -> None:
    config = tiny.replaced(config, exits__joint=False, exits__weights="equal")
    task, session, state, batch = session_of(config)
    apart = gradients(session, state, batch, 1)
    alone = gradients(session, state, batch, 1, task.objective)
    for path, value in alone.items():
        if path.startswith("exits/"):
            assert not np.asarray(value).any() and np.abs(apart[path]).max() > 0, path
        else:  # a third of the loss is the last head's
            np.testing.assert_allclose(3 * apart[path], value, rtol=1e-4, atol=1e-6, err_msg=path)


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    config: Config, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(Paused):
        train(config, tmp_path / "run", pause=lambda step, _: step == 3)
    train(config, tmp_path / "run")

    def numbers(workdir: pathlib.Path) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in line.items() if "second" not in key and "time" not in key}
            for line in read_metrics(workdir / "metrics.jsonl")
        ]

    assert numbers(run) == numbers(tmp_path / "run")
    assert all(line["loss_after_1"] > 0 for line in numbers(run) if line["split"] == "train")
    reports = [json.loads((workdir / "report.json").read_text()) for workdir in (run, tmp_path / "run")]
    assert reports[0]["splits"] == reports[1]["splits"]


def test_early_heads_are_part_of_the_run(config: Config, run: pathlib.Path) -> None:
    opened: Any = open_run(run)
    assert opened.spec.exits == (1, 2)
    without, _ = created(tiny.replaced(config, exits__every=0))
    session = make_session(
        tiny.replaced(config, exits__every=0), without.objective, make_mesh(config.parallel.mesh), total_steps=6
    )
    plain = sum(leaf.size for leaf in flat(session.abstract.params).values())
    assert opened.spec.exit_pooling == "mean" and opened.spec.pooling == "cls"
    of_heads = 2 * (32 * len(opened.spec.labels) + len(opened.spec.labels))
    padded = (ENCODER.padded_vocab_size - ENCODER.vocab_size) * 32
    assert json.loads((run / "report.json").read_text())["model"]["parameters"] == plain + of_heads - padded
    # A run that goes on from this one has its early heads too.
    again = tiny.replaced(config, model__init=f"run:{run}")
    _, loaded = created(again)
    assert {path.split("/")[1] for path in loaded if path.startswith("exits/")} == {"after_1", "after_2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exits__every": 2}, "config.exits.every: 2, but the encoder has 3 layers: .* Those that fit: 1"),
        ({"exits__every": 3}, "config.exits.every: 3, but the encoder has 3 layers"),
        ({"task__loss__r_drop": 1.0}, "config.task.loss.r_drop: is 1, but"),
        ({"supernet__depths": (1,)}, "config.exits.every: is 1, but config.supernet"),
        ({"adapt__quantise__bits": 8}, "config.adapt.quantise.bits: is 8, but"),
    ],
)
def test_what_has_no_early_heads_is_refused(config: Config, changes: dict[str, Any], message: str) -> None:
    changed = tiny.replaced(config, **changes)
    with pytest.raises(UserError, match=message):
        exit_layers(changed.exits, ENCODER)
        exits.around(changed, created(config)[0].objective)


def test_tasks_without_early_heads_are_refused(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "weights", ENCODER)
    regression = tiny.classification_config(tmp_path, "regression", exits__every=1)
    with pytest.raises(UserError, match="'classification' has no early heads: nothing says how sure"):
        exits.around(regression, created(regression)[0].objective)
    crf = tiny.config(tmp_path, exits__every=1, task__head="crf", task__decoding="viterbi")
    with pytest.raises(UserError, match="'ner' has no early heads: it scores whole sequences"):
        exits.around(crf, created(crf)[0].objective)
    answers = tiny.qa_config(tmp_path, exits__every=1)
    with pytest.raises(UserError, match="'qa' has no early heads: its outputs are no classes"):
        exits.around(answers, created(answers)[0].objective)
