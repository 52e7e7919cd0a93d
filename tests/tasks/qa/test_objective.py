"""The loss against torch's cross-entropy, window by window, and that packing changes nothing."""

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
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks import registry
from jaxfm.tasks.qa.spec import END, START
from jaxfm.tasks.qa.task import QaTask
from jaxfm.training.initial import resolve
from tests import tiny

CONTEXT = LossContext(jax.random.key(0))


def created(folder: pathlib.Path, **overrides: Any) -> QaTask:
    config = tiny.qa_config(folder, model__dropout=0.0, model__attention_dropout=0.0, **overrides)
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, QaTask)
    return task


class Fixed:
    """A model that says what it is told."""

    def __init__(self, logits: jax.Array):
        self.logits = logits

    def __call__(self, batch: object, *, key: object = None) -> jax.Array:
        return self.logits


def test_the_loss_is_the_mean_of_both_cross_entropies(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    task = created(tmp_path)
    rows = task.datasets["train"]
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
    logits = np.random.default_rng(0).normal(scale=3, size=(*rows.tokens.shape, 2)).astype(np.float32)
    loss = task.objective.loss(Fixed(jnp.asarray(logits)), batch, CONTEXT)  # type: ignore[arg-type]
    total, exact, count = 0.0, 0, 0
    for row, segment, begin in rows.example_locations:
        start, end, first, after = rows.labels[row, segment]
        choices = np.concatenate([[0], np.arange(first, after)]) + begin
        right = True
        for side, target in ((0, start), (1, end)):
            scores = torch.tensor(logits[row, choices, side], dtype=torch.float64)
            place = torch.tensor(0 if target == 0 else int(target - first + 1))
            total += float(torch.nn.functional.cross_entropy(scores, place)) / 2
            right &= int(scores.argmax()) == int(place)
        exact += right
        count += 1
    assert float(loss.total) == pytest.approx(total, rel=1e-5)
    assert float(loss.weight) == count == len(task.encoded["train"].windows.tokens)
    assert float(loss.metrics["exact"][0]) == exact and 0 < exact < count


def test_packed_rows_have_the_loss_of_one_window_a_row(tmp_path: pathlib.Path) -> None:
    found = []
    for packed in (True, False):
        task = created(tmp_path, data__packed=packed)
        rows, windows = task.datasets["train"], task.encoded["train"].windows
        batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
        make = lambda spec=task.objective.spec: spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
        graphdef, abstract = build_abstract(make, make_mesh(MeshConfig()))
        draw = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf, draw=draw: 0.3 * draw.standard_normal(leaf.shape).astype(np.float32), abstract
        )

        def mean(params: Any, task: QaTask = task, batch: Any = batch, graphdef: Any = graphdef) -> jax.Array:
            loss = task.objective.loss(nnx.merge(graphdef, params), batch, CONTEXT)
            return loss.total / loss.weight

        assert len(rows) < len(windows.tokens) if packed else len(rows) == len(windows.tokens)
        found.append(jax.jit(jax.value_and_grad(mean))(params))
    (loss, gradient), (expected, expected_gradient) = found
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_tokens_of_answers_are_fixed(tmp_path: pathlib.Path) -> None:
    task = created(tmp_path)
    rows = task.datasets["train"]
    batch = {name: np.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
    found = np.asarray(task.objective.fixed_tokens({name: jnp.asarray(value) for name, value in batch.items()}))
    wanted = np.zeros(found.shape, bool)
    for row, windows in enumerate(batch["labels"]):
        for number, (start, end) in enumerate(windows[:, [START, END]], start=1):
            if start > 0:
                first = int(np.argmax(batch["segment_ids"][row] == number))
                wanted[row, first + start : first + end + 1] = True
    np.testing.assert_array_equal(found, wanted)
    assert wanted.any(axis=1).mean() > 0.5
