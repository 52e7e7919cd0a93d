"""The loss of a classifier of pairs: packed equal to apart, and R-Drop."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.data.text.packing import PackedRows
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.relations.objective import RelationObjective
from jaxfm.tasks.relations.scorer import targets_of
from jaxfm.tasks.relations.spec import encode, mark_all
from tests import tiny
from tests.tasks.relations.test_task import create


def loss_and_gradient(objective: RelationObjective, rows: PackedRows, params: Any) -> tuple[Any, Any]:
    """Mean loss over all rows and its gradient."""
    graphdef, _ = build_abstract(lambda: objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))

    def mean(params: Any) -> jax.Array:
        batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
        loss = objective.loss(nnx.merge(graphdef, params), batch, LossContext(jax.random.key(0)))
        return loss.total / loss.weight

    return jax.jit(jax.value_and_grad(mean))(params)


def test_packed_equals_one_pair_a_row(tmp_path: pathlib.Path) -> None:
    """Several pairs of one text share a row, each a segment that sees no other."""
    task, _, _ = create(tiny.relations_config(tmp_path, model__dropout=0.0, data__row_length=64))
    examples, spec = task.examples["test"], task.objective.spec
    turned = [dataclasses.replace(each, head=each.tail, tail=each.head) for each in examples]
    both = [pair for pairs in zip(examples, turned, strict=True) for pair in pairs]  # neighbours of one text
    marked, targets = mark_all(spec, task.tokenizer, both), targets_of(spec, both)
    packed = encode(spec, task.tokenizer, marked, targets).rows
    alone_spec = dataclasses.replace(spec, segments=1)
    alone = encode(alone_spec, task.tokenizer, marked, targets).rows
    assert len(alone) == len(both) > 2 * len(packed)
    _, abstract = build_abstract(lambda: spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * draw.standard_normal(leaf.shape).astype(np.float32), abstract)
    loss, gradient = loss_and_gradient(task.objective, packed, params)
    expected, expected_gradient = loss_and_gradient(dataclasses.replace(task.objective, spec=alone_spec), alone, params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), gradient, expected_gradient)
    # The rows of all markers learn, each from its own pairs.
    table = np.asarray(gradient["encoder"]["embeddings"]["word"]["embedding"])
    assert all(np.abs(table[number]).max() > 0 for number in (*spec.head_starts, *spec.tail_starts))
