"""The loss of a classifier: packed equal to apart, and its settings."""

# B batch, T tokens, S segments, C classes, E examples

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
from jaxfm.core.objective import LossContext
from jaxfm.data.text.packing import PackedRows
from jaxfm.models.heads import pool
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.classification.objective import ClassifierObjective
from jaxfm.tasks.classification.scorer import targets_of
from jaxfm.tasks.classification.spec import encode
from tests import tiny
from tests.tasks.classification.test_task import create


def loss_and_gradient(objective: ClassifierObjective, rows: PackedRows, params: Any, graphdef: Any) -> tuple[Any, Any]:
    """Mean loss over all rows and its gradient."""

    def mean(params: Any) -> jax.Array:
        batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
        loss = objective.loss(nnx.merge(graphdef, params), batch, LossContext(jax.random.key(0)))
        return loss.total / loss.weight

    return jax.jit(jax.value_and_grad(mean))(params)


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [
        ("single", "cls"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("single", "mean"), ("regression", "cls"), ("regression", "mean"))
        ),
        pytest.param("multi", "cls", marks=pytest.mark.slow),
        pytest.param("multi", "mean", marks=pytest.mark.slow),
    ],
)
def test_packed_equals_one_example_a_row(tmp_path: pathlib.Path, kind: str, pooling: str) -> None:
    config = tiny.classification_config(
        tmp_path, kind, pairs=True, task__pooling=pooling, model__dropout=0.0, data__row_length=64
    )
    task, _, _ = create(config)
    packed = task.datasets["test"]
    texts = [(example.text, example.pair) for example in task.examples["test"]]
    targets = targets_of(task.objective.spec, task.examples["test"])
    # One example a row: rows that hold one segment at most.
    alone_spec = dataclasses.replace(task.objective.spec, segments=1)
    alone = encode(alone_spec, task.tokenizer, texts, targets).rows
    assert len(alone) == len(texts) > 2 * len(packed)
    make = lambda spec: lambda: spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
    graphdef, abstract = build_abstract(make(task.objective.spec), make_mesh(MeshConfig()))
    alone_graphdef, _ = build_abstract(make(alone_spec), make_mesh(MeshConfig()))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * draw.standard_normal(leaf.shape).astype(np.float32), abstract)
    alone_objective = dataclasses.replace(task.objective, spec=alone_spec)
    loss, gradient = loss_and_gradient(task.objective, packed, params, graphdef)
    expected, expected_gradient = loss_and_gradient(alone_objective, alone, params, alone_graphdef)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), gradient, expected_gradient)


def test_pooling_reads_its_own_segment_alone() -> None:
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 3)), jnp.float32)
    segments, positions = jnp.asarray([[1, 1, 2, 2, 2, 0]]), jnp.asarray([[0, 1, 0, 1, 2, 0]])
    first = pool(hidden, segments, positions, "cls", 4)
    np.testing.assert_array_equal(first[0], [hidden[0, 0], hidden[0, 2], np.zeros(3), np.zeros(3)])
    mean = pool(hidden, segments, positions, "mean", 4)
    np.testing.assert_allclose(mean[0, :2], [hidden[0, :2].mean(0), hidden[0, 2:5].mean(0)], rtol=1e-6)
    for pooling in ("cls", "mean"):
        leak = jax.grad(lambda h, p=pooling: pool(h, segments, positions, p, 4)[0, 1].sum())(hidden)
        assert np.all(np.asarray(leak)[0, [0, 1, 5]] == 0) and np.any(np.asarray(leak)[0, 2:5] != 0)


def test_r_drop_and_weights_reach_the_loss(tmp_path: pathlib.Path) -> None:
    plain, _, _ = create(tiny.classification_config(tmp_path))
    other, _, _ = create(
        tiny.classification_config(tmp_path, task__loss__r_drop=1.0, task__loss__class_weights="balanced")
    )
    assert plain.objective.r_drop == 0.0 and other.objective.r_drop == 1.0
    counts = np.bincount(targets_of(plain.objective.spec, plain.examples["train"]))
    np.testing.assert_allclose(other.objective.class_loss.weights, counts.sum() / (2 * counts))
    assert plain.objective.class_loss.weights == ()
