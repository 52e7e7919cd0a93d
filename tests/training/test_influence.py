"""TracIn beside gradients that are taken one example at a time, each in a row of its own."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks.classification.spec import encode
from jaxfm.training.influence import Examples, Kept, alone, influences, kept_checkpoints
from jaxfm.training.saved_run import SavedRun, open_run
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    runs: dict[str, pathlib.Path] = tiny.write_runs(tmp_path_factory.mktemp("influence"), ("classification",))
    return open_run(runs["classification"])


def explicit(run: SavedRun, kept: Kept, record: dict[str, Any]) -> np.ndarray:
    """The gradient of one example's loss for all parameters of the head, one after the other."""
    spec: Any = dataclasses.replace(run.spec, segments=1)  # type: ignore[type-var]
    tokenizer = load_tokenizer(run.workdir / "tokenizer")
    target = np.asarray([spec.labels.index(record["gold"])], np.int32)
    batch = encode(spec, tokenizer, [(record["text"], None)], target).rows.take(np.zeros(1, np.int64))

    def loss(head: Any) -> jax.Array:
        model: Any = nnx.merge(kept.graphdef, {**kept.params, **head})
        logits = model({name: jnp.asarray(value) for name, value in batch.items()})[0, 0]
        return -jax.nn.log_softmax(logits)[target[0]]

    head = {name: value for name, value in kept.params.items() if name != "encoder"}
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(jax.grad(loss)(head))])


def test_influences_are_products_of_gradients_summed_over_checkpoints(run: SavedRun) -> None:
    mesh = make_mesh(MeshConfig())
    (only,) = kept_checkpoints(run, mesh, DEFAULT_BUILD)
    assert only.rate == 1.0
    other = only._replace(params=jax.tree.map(lambda leaf: leaf * 1.1, only.params), rate=0.5)
    tasks: list[Any] = [run.task(run.config.data.source, split) for split in ("train", "valid")]
    train, valid = (task.labelled_records(split) for task, split in zip(tasks, ("train", "valid"), strict=True))
    numbers, asked = [0, 3, 4, 11, 20], [1, 5]
    rows = [task.datasets[split] for task, split in zip(tasks, ("train", "valid"), strict=True)]
    assert rows[0].example_locations[:, 1].max() > 0  # several examples share a row
    found = influences(tasks[0].objective, [only, other], Examples(rows[0], numbers), Examples(rows[1], asked), mesh, 4)
    wanted = np.zeros((2, 5))
    with jax.set_mesh(mesh):
        for kept in (only, other):
            of_train = np.stack([explicit(run, kept, train[number]) for number in numbers])
            of_asked = np.stack([explicit(run, kept, valid[number]) for number in asked])
            wanted += kept.rate * of_asked @ of_train.T
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-5)
    assert wanted.min() < 0 < wanted.max()


def test_an_example_stays_alone_in_its_row(run: SavedRun) -> None:
    rows: Any = run.task(run.config.data.source, "train").datasets["train"]
    number = int(np.flatnonzero(rows.example_locations[:, 1] == 1)[0])
    row, segment, start = rows.example_locations[number].tolist()
    whole = rows.take(np.asarray([row]))
    batch = alone(whole, rows.spec, np.asarray([segment + 1]))
    own = whole["segment_ids"][0] == segment + 1
    assert own.argmax() == start
    np.testing.assert_array_equal(batch["tokens"][0][own], whole["tokens"][0][own])
    assert not batch["segment_ids"][0][~own].any() and (batch["tokens"][0][~own] == rows.pad_id).all()
    assert batch["labels"][0, segment] == whole["labels"][0, segment] >= 0
    assert (np.delete(batch["labels"][0], segment) == -1).all()


def test_a_run_without_checkpoints_is_refused(run: SavedRun, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint of training"):
        kept_checkpoints(dataclasses.replace(run, workdir=tmp_path), make_mesh(MeshConfig()), DEFAULT_BUILD)
