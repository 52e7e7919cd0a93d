"""The loss of a tagger, and that its outputs are those that the loss is of."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import Loss, LossContext
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks import registry
from jaxfm.tasks.ner.task import NerTask
from jaxfm.training.initial import resolve
from tests import tiny

WIDE = dataclasses.replace(tiny.ENCODER, initializer_range=0.3)


def computed(
    folder: pathlib.Path, split: str = "test", **overrides: Any
) -> tuple[NerTask, dict[str, np.ndarray], Loss]:
    """A task, and outputs and loss of a split under random weights that find many entities, without dropout."""
    config = tiny.config(folder, model__dropout=0.0, **overrides)
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, NerTask)
    make = lambda: task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
    graphdef, _ = build_abstract(make, make_mesh(config.parallel.mesh))
    rows = task.datasets[split]
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}

    @jax.jit
    def both(params: Any) -> tuple[dict[str, jax.Array], Loss]:
        model = nnx.merge(graphdef, params)
        return task.objective.outputs(model, batch), task.objective.loss(model, batch, LossContext(jax.random.key(0)))

    outputs, loss = both(tiny.nested(tiny.random_params(WIDE, len(tiny.LABELS), seed=5)))
    return task, {name: np.asarray(value) for name, value in outputs.items()}, loss


def test_loss_and_outputs_agree(tmp_path: pathlib.Path) -> None:
    task, outputs, loss = computed(tmp_path, task__decoding="argmax")
    labels = task.datasets["test"].labels
    valid = labels >= 0
    assert float(loss.weight) == sum(len(sentence.words) for sentence in task.sentences["test"]) == valid.sum()
    logits = outputs["logits"][valid].astype(np.float64)
    nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[valid][:, None], -1)[:, 0]
    np.testing.assert_allclose(loss.total, nats.sum(), rtol=1e-5)
    right, words = loss.metrics["accuracy"]
    assert (float(right), float(words)) == ((outputs["logits"].argmax(-1) == labels)[valid].sum(), valid.sum())
    metrics = task.scorer("test").metrics(outputs)
    assert metrics["loss"] == pytest.approx(float(loss.total / loss.weight), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(float(right / words))
