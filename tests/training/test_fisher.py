"""The Fisher diagonal beside gradients that are taken one example at a time, each in a row of its own."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks.classification.spec import encode
from jaxfm.training import cut_run, initial
from jaxfm.training.consolidation import ANCHOR, IMPORTANCE
from jaxfm.training.cut_run import Start
from jaxfm.training.fisher import consolidated, drawn, fisher_diagonal
from jaxfm.training.influence import Examples
from jaxfm.training.paths import flat
from tests import tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write_runs(tmp_path_factory.mktemp("fisher"), ("classification",))["classification"]


@pytest.fixture(scope="module")
def start(workdir: pathlib.Path) -> Start:
    config = cut_run.config_from(tiny.classification_config(workdir.parent), workdir)
    return cut_run.start(config, initial.resolve(config.model))


def test_it_is_the_mean_of_squared_gradients_of_single_examples(start: Start, workdir: pathlib.Path) -> None:
    task: Any = start.task
    numbers = [0, 1, 3, 4, 7, 11, 12, 20, 21, 33]  # more than one call's, and the last call is not full
    rows, session = task.datasets["train"], start.setup.session
    assert rows.example_locations[numbers, 1].max() > 0  # some share a row
    examples = Examples(rows, numbers)
    found = fisher_diagonal(task.objective, session.graphdef, start.params, examples, session.mesh)
    spec = dataclasses.replace(task.objective.spec, segments=1)
    tokenizer, wanted = load_tokenizer(workdir / "tokenizer"), dict[str, Any]()
    graphdef, params = session.graphdef, start.params

    def loss(params: Any, batch: Any, target: Any) -> jax.Array:
        logits: Any = nnx.merge(graphdef, params)(batch)
        return -jax.nn.log_softmax(logits[0, 0])[target]

    gradient = jax.jit(jax.grad(loss))
    with jax.set_mesh(session.mesh):
        for number in numbers:
            example = task.examples["train"][number]
            target = np.asarray([spec.labels.index(example.target)], np.int32)
            batch = encode(spec, tokenizer, [(example.text, None)], target).rows.take(np.zeros(1, np.int64))
            arrays = {name: jnp.asarray(value) for name, value in batch.items()}
            for path, leaf in flat(gradient(params, arrays, target[0])).items():
                wanted[path] = wanted.get(path, 0.0) + np.asarray(leaf, np.float64) ** 2 / len(numbers)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_allclose(found[path], value, rtol=2e-3, atol=1e-9 + 1e-5 * value.max(), err_msg=path)
    assert max(value.max() for value in found.values()) > 1e-3


@pytest.mark.slow
def test_the_number_of_devices_does_not_matter(start: Start, workdir: pathlib.Path) -> None:
    del workdir
    task: Any = start.task
    one = make_mesh(start.config.parallel.mesh, jax.devices()[:1])
    examples = Examples(task.datasets["train"], [0, 5])
    session = start.setup.session
    assert session.mesh.size == 4
    alone = jax.device_put(jax.device_get(start.params), jax.devices()[0])
    graphdef = session.graphdef
    several = fisher_diagonal(task.objective, graphdef, start.params, examples, session.mesh)
    single = fisher_diagonal(task.objective, graphdef, alone, examples, one)
    for path, value in several.items():
        np.testing.assert_allclose(single[path], value, rtol=1e-3, atol=1e-8 + 1e-5 * value.max(), err_msg=path)


def test_importance_is_a_decaying_sum_about_the_last_weights() -> None:
    first = consolidated(None, {"head/bias": np.asarray([1.0, 2.0])}, {"head/bias": np.asarray([5.0, 6.0])}, 0.5)
    np.testing.assert_array_equal(first[IMPORTANCE]["head/bias"], [1, 2])
    fisher = {"head/bias": np.asarray([10.0, 20.0, 30.0])}  # the head has grown
    second = consolidated(first, fisher, {"head/bias": np.asarray([7.0, 8.0, 9.0]), "other": np.zeros(1)}, 0.5)
    np.testing.assert_array_equal(second[IMPORTANCE]["head/bias"], [10.5, 21, 30])
    np.testing.assert_array_equal(second[ANCHOR]["head/bias"], [7, 8, 9])
    assert second[ANCHOR].keys() == {"head/bias"}


def test_examples_are_drawn_by_the_seed() -> None:
    assert drawn(5, 9, (0, 1)) == [0, 1, 2, 3, 4]
    some = drawn(100, 10, (0, 1))
    assert some == sorted(set(some)) and len(some) == 10 and some == drawn(100, 10, (0, 1)) != drawn(100, 10, (0, 2))
