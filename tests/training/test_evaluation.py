"""The outputs of a split against the model applied to all its rows at once."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.task import Task
from jaxfm.data.arrays import ArrayDataset
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks import registry
from jaxfm.training.evaluation import Evaluator, bucket, whole_batches
from jaxfm.training.initial import resolve
from tests import tiny


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    config = tiny.config(tmp_path_factory.mktemp("evaluation"))
    return registry.create(config, resolve(config.model))[0]


@pytest.mark.parametrize(("sizes", "batch_size"), [((4, 1, 1), 4), ((4, 1, 1), 64), ((1, 2, 2), 6), ((1, 1, 1), 7)])
def test_outputs_do_not_depend_on_the_batch_size(task: Task, sizes: tuple[int, int, int], batch_size: int) -> None:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    graphdef, _ = build_abstract(lambda: make_model(task), mesh)
    params = tiny.nested(tiny.random_params(tiny.ENCODER, len(tiny.LABELS), seed=1))
    rows = task.datasets["train"]
    batch = tiny.batch_of(rows, len(rows))
    wanted = task.objective.outputs(nnx.merge(graphdef, params), batch)
    done: list[int] = []
    got = Evaluator(task.objective.outputs, graphdef, mesh, batch_size)(params, rows, done.append)
    assert len(rows) % batch_size and sum(done) == len(rows) == 31  # the last batch is a partial one
    assert got.keys() == wanted.keys()
    np.testing.assert_allclose(got["logits"], wanted["logits"], rtol=2e-5, atol=1e-6)


def make_model(task: Task) -> nnx.Module:
    return task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))


@pytest.mark.parametrize(
    ("asked", "rows", "wanted"), [(32, 100, 32), (30, 100, 28), (2, 100, 4), (32, 5, 8), (32, 1, 4), (4, 4, 4)]
)
def test_whole_batches_fit_the_mesh_and_the_rows(asked: int, rows: int, wanted: int) -> None:
    assert whole_batches(asked, rows, make_mesh(MeshConfig(2, 2, 1))) == wanted


@pytest.mark.parametrize("sizes", [(4, 1, 1), (1, 2, 2)])
def test_no_rows_have_outputs_of_the_same_kinds(task: Task, sizes: tuple[int, int, int]) -> None:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices())
    graphdef, _ = build_abstract(lambda: make_model(task), mesh)
    params = tiny.nested(tiny.random_params(tiny.ENCODER, len(tiny.LABELS), seed=1))
    evaluator, rows = Evaluator(task.objective.outputs, graphdef, mesh, 4), task.datasets["test"]
    none = evaluator(params, ArrayDataset(rows.take(np.zeros(0, np.int64)), rows.spec, rows.volume))
    assert evaluator._apply._cache_size() == 0
    some = evaluator(params, rows)
    assert {name: (0, *value.shape[1:], value.dtype) for name, value in some.items()} == {
        name: (*value.shape, value.dtype) for name, value in none.items()
    }


@pytest.mark.parametrize("sizes", [(4, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("batch_size", [1, 5, 32, 100])
def test_buckets_are_few_and_large_enough(sizes: tuple[int, int, int], batch_size: int) -> None:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    largest = whole_batches(batch_size, batch_size, mesh)
    found = {rows: bucket(batch_size, rows, mesh) for rows in range(201)}
    for rows, size in found.items():
        assert size % sizes[0] == 0 and min(rows, largest) <= size <= max(2 * rows, sizes[0]) and size <= largest
    assert len(set(found.values())) <= batch_size.bit_length() + 1
