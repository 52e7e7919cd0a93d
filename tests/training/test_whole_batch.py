"""Losses over whole batches: the same with any number of micro-batches and on any mesh, dropout included."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.data.text.grouped_rows import GroupedRows, pack_groups
from jaxfm.parallel.mesh import build_abstract, initialise, make_mesh
from jaxfm.schema import replaced
from jaxfm.tasks.embedding.objective import EmbeddingObjective
from jaxfm.tasks.embedding.spec import EmbeddingSpec
from jaxfm.tasks.registry import default_config, from_config_dict
from jaxfm.tasks.text_groups.similarity_loss import SimilarityLoss
from jaxfm.training.session import Session, make_session
from jaxfm.training.whole_batch import loss_of
from tests import tiny

ROWS, LENGTH, TEXTS, GROUPS, STEPS = 8, 32, 3, 4, 20


def spec(**changes: Any) -> EmbeddingSpec:
    encoder = dataclasses.replace(tiny.ENCODER, dropout=0.1, attention_dropout=0.1)
    found = EmbeddingSpec(
        kind="pairs", encoder=encoder, pooling="mean", normalize=True, projected=0, query_prompt="", document_prompt="",
        row_length=LENGTH, window=LENGTH, texts=TEXTS, groups=GROUPS, positives=0, learned_scale=20.0,
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def rows(seed: int = 0, count: int = 200) -> GroupedRows:
    """Groups of two or three texts of very different lengths."""
    draw = np.random.default_rng(seed)
    groups = [
        [draw.integers(5, 69, draw.integers(2, 10)).astype(np.int32) for _ in range(draw.integers(2, TEXTS + 1))]
        for _ in range(count)
    ]
    ids, number = [], 0
    for group in groups:
        ids.append([number + index for index in range(len(group))])
        number += len(group)
    return pack_groups(
        groups, ids, row_length=LENGTH, texts=TEXTS, groups_per_row=GROUPS, pad_id=0, seed=0
    )  # fmt: skip


def objective(**changes: Any) -> EmbeddingObjective:
    return EmbeddingObjective(spec(**changes), SimilarityLoss("infonce"))


@functools.cache
def run(accumulate: int, mesh: tuple[int, int, int, int]) -> tuple[list[float], list[float]]:
    """Returns loss and gradient norm of each of 20 updates."""
    values = default_config("embedding")
    changes = {"train.accumulate": accumulate, "train.batch_size": ROWS, "optim.learning_rate": 1e-3}
    config = replaced(from_config_dict(values), changes)
    session = make_session(config, objective(), _mesh(mesh), total_steps=STEPS)
    return _follow(session)


def _mesh(sizes: tuple[int, int, int, int]) -> Mesh:
    data, fsdp, tensor, sequence = sizes
    devices = jax.devices()[: int(np.prod(sizes))]
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor, sequence=sequence), devices)


def _follow(session: Session) -> tuple[list[float], list[float]]:
    made = rows()
    batches = (made.take(np.arange(step * ROWS, (step + 1) * ROWS) % len(made)) for step in range(STEPS))
    losses, norms = [], []
    for stepped in session.steps(session.initial_state(0), batches):
        sums = stepped.take_sums()
        losses.append(float(sums["loss"][0] / sums["loss"][1]))
        norms.append(float(sums["gradient_norm"][0]))
    return losses, norms


ALONE = (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("accumulate", "mesh"),
    [
        (2, (2, 2, 1, 1)),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                (2, ALONE),
                (4, ALONE),
                (8, ALONE),
                (1, (4, 1, 1, 1)),
                (2, (4, 1, 1, 1)),
                (4, (1, 1, 2, 1)),
                (2, (1, 1, 1, 4)),
            )
        ),
    ],
)
def test_losses_of_20_steps_are_those_of_one_device_and_one_batch(accumulate: int, mesh: Any) -> None:
    losses, norms = run(1, ALONE)
    assert losses[-1] < 0.98 * losses[0]  # it learns
    found, found_norms = run(accumulate, mesh)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    np.testing.assert_allclose(found_norms, norms, rtol=1e-4)


@pytest.mark.parametrize("accumulate", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_the_gradient_is_that_of_the_whole_batch(accumulate: int) -> None:
    whole = _gradient(1)
    found = _gradient(accumulate)
    apart = optax.tree.norm(jax.tree.map(lambda one, other: one - other, found, whole))
    assert float(apart) < 1e-6 * float(optax.tree.norm(whole))
    # The set-up can tell: with dropout drawn for micro-batches by themselves it is another gradient.
    other = _gradient(1, key=6)
    apart = optax.tree.norm(jax.tree.map(lambda one, other: one - other, other, whole))
    assert float(apart) > 0.1 * float(optax.tree.norm(whole))


@functools.cache
def _gradient(accumulate: int, key: int = 5) -> Any:
    # A learned scale's gradient is a small difference of large sums, whose rounding would be most of what is measured.
    made = objective(learned_scale=0.0)

    def make() -> nnx.Module:
        return made.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))

    graphdef, _ = build_abstract(make, _mesh(ALONE))
    model = initialise(make)
    batch = {name: jax.numpy.asarray(value) for name, value in rows().take(np.arange(ROWS)).items()}
    context = LossContext(jax.random.key(key))

    @jax.jit
    def gradient(params: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            found = loss_of(made, nnx.merge(graphdef, params), batch, context, accumulate)
            return found.total / found.weight

        return jax.grad(mean)(params)

    return gradient(model)


def test_the_negatives_are_those_of_the_whole_batch() -> None:
    """Every anchor meets every other text of the batch, whatever the micro-batches and devices."""
    batch = rows().take(np.arange(ROWS))
    texts = batch["texts"].reshape(-1, TEXTS)
    texts = texts[texts[:, 0] >= 0]
    others = np.count_nonzero(texts[:, 1:] >= 0)
    for accumulate, mesh in ((1, ALONE), (4, ALONE), (2, (4, 1, 1, 1))):
        values = default_config("embedding")
        config = replaced(from_config_dict(values), {"train.accumulate": accumulate, "train.batch_size": ROWS})
        session = make_session(config, objective(), _mesh(mesh), total_steps=STEPS)
        stepped = next(iter(session.steps(session.initial_state(0), [batch])))
        total, weight = np.asarray(stepped.sums["negatives"])
        assert weight == len(texts) and total / weight == others - 1
