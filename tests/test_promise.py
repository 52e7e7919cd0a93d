"""A task, a family or a modality is new files only, and a train step is free of any run."""

import ast
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.observe import metrics
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.session import Session, make_session
from tests import tiny
from tests.families import toy
from tests.toy import image

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_a_task_of_another_modality_from_the_test_folder_alone(tmp_path: pathlib.Path) -> None:
    with image.registered():
        values = registry.default_config(image.NAME)
        values.model.init, values.model.preset, values.model.scan_layers = "scratch", "bert_tiny", True
        values.train.steps, values.train.batch_size, values.eval.metric = 5, 8, "accuracy"
        values.optim.learning_rate, values.log.every_steps, values.eval.batch_size = 1e-3, 1, 8
        report = train(values, tmp_path / "run")
        assert report["task"] == image.NAME and report["training"]["unit"] == "patches"
        assert report["training"]["useful_patches_per_second"] > 0
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if line["split"] == "train"]
        assert len(losses) == 5 and losses[-1] < losses[0]
        assert (
            " useful patches a second (100.0% of the patches computed" in (tmp_path / "run" / "report.md").read_text()
        )
        scores = evaluate(tmp_path / "run", "test").scores
        assert 0 <= scores["accuracy"] <= 1 and "accuracy" in scores["intervals"]["metrics"]
        records = [{"pixels": pixels} for pixels in image.images(3, seed=4).arrays["pixels"]]
        assert {found["label"] for found in Model(tmp_path / "run").stream(records)} <= set(image.LABELS)
        folder = export(tmp_path / "run", tmp_path / "exported")
        assert json.loads((folder / "config.json").read_text())["model_type"] == image.NAME


def test_a_family_from_the_test_folder_alone(tmp_path: pathlib.Path) -> None:
    with toy.registered():
        tokenizer = tiny.write_tokenizer(tmp_path / "tokenizer")
        config = tiny.config(
            tmp_path, model__init="scratch", model__preset="toy_tiny", model__tokenizer=tokenizer, train__steps=5
        )
        train(config, tmp_path / "run")
        assert 0 <= evaluate(tmp_path / "run", "test").metrics["f1"] <= 1
        assert predict(tmp_path / "run", "ada met boole in hull .")["text"] == "ada met boole in hull ."
        folder = export(tmp_path / "run", tmp_path / "exported")
        assert json.loads((folder / "config.json").read_text())["model_type"] == "toy"
        again = resolve(dataclasses.replace(config.model, init=f"dir:{folder}", preset="", tokenizer=""))
        assert again.encoder.family == "toy" and set(again.labels) == set(tiny.LABELS)


def test_names_of_tasks_stand_in_their_own_folders_alone() -> None:
    found = []
    for path in sorted((ROOT / "jaxfm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in registry.names():
                # Records may have columns of the same name ("ner"), which are other people's words.
                # The doctor's self test trains one task as an example.
                if path.name == "self_test.py":
                    continue
                if path.parent != ROOT / "jaxfm" / "tasks" / str(node.value) and "records" not in path.parts:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}")
    assert not found, "\n" + "\n".join(found)


@pytest.fixture(scope="module")
def ner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, image.Any]:
    """A session on one device, and the batch of each step."""
    # A large epsilon: Adam would turn the rounding of gradients that are 0 (of keys' biases) into whole steps.
    config = tiny.config(tmp_path_factory.mktemp("promise"), model__dropout=0.1, optim__eps=1e-3)
    task, loaded = registry.create(config, resolve(config.model))
    session = make_session(config, task.objective, make_mesh(MeshConfig(), jax.devices()[:1]), total_steps=12)
    return session, (task, loaded)


@pytest.mark.slow
def test_three_federated_rounds_of_two_clients(ner: tuple[Session, image.Any]) -> None:
    session, (task, loaded) = ner
    rows = task.datasets["train"]
    clients = [np.arange(0, 16), np.arange(16, 31)]  # each sees its own rows alone
    state, losses = session.initial_state(0, loaded), []
    for turn in range(3):
        trained = []
        for index in clients:
            batches = [rows.take(np.roll(index, 4 * step + turn)[:4]) for step in range(4)]
            *_, last = session.steps(jax.tree.map(jnp.copy, state), batches)
            trained.append(last.state)
            losses.append(metrics.means(last.take_sums())["loss"])
        mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *[each.params for each in trained])
        state = dataclasses.replace(trained[0], params=mean)  # its moments and its step: one of many choices
    assert int(state.step) == 12 and max(losses[-2:]) < min(losses[:2]) - 0.1


@pytest.mark.slow
def test_eight_seeds_in_one_program(ner: tuple[Session, image.Any]) -> None:
    session, (task, loaded) = ner
    rows = task.datasets["train"]
    batches = [rows.take(np.arange(4 * step, 4 * step + 4)) for step in range(3)]
    head_free = {name: value for name, value in loaded.items() if not name.startswith("head/")}
    states = [session.initial_state(seed, head_free) for seed in range(8)]
    step = jax.jit(jax.vmap(session.train_step, in_axes=(0, 0, None)))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    sums = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[session.empty_sums()] * 8)
    for batch in batches:
        stacked, sums = step(stacked, sums, session.shard(batch))
    for seed, state in enumerate(states):
        *_, last = session.steps(state, batches)
        together = jax.tree.map(lambda leaf, seed=seed: leaf[seed], stacked.params)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5), last.state.params, together
        )
    heads = np.asarray(stacked.params["head"]["kernel"])
    assert len({head.tobytes() for head in heads}) == 8  # the seeds do differ
