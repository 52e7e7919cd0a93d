"""The masked-LM loss against transformers and by hand."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import Loss, LossContext
from jaxfm.data.text.masking import mask_tokens, max_predictions
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.masked_lm.objective import MaskedLMObjective
from jaxfm.tasks.masked_lm.task import MaskedLMTask
from tests import tiny
from tests.tasks.masked_lm.test_task import created

PARAMS = tiny.nested(tiny.random_masked_lm(tiny.ENCODER, seed=5))
KEY = jax.random.key(12)
COMPILED: dict[Any, Any] = {}  # the loss, by the ratios that give it its shape


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> MaskedLMTask:
    return created(tiny.masked_lm_config(tmp_path_factory.mktemp("objective"), model__dropout=0.0))[0]


def graph(objective: MaskedLMObjective) -> Any:
    return build_abstract(lambda: objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))[0]


def batch_of(task: MaskedLMTask, count: int = 8) -> dict[str, np.ndarray]:
    return task.datasets["train"].take(np.arange(count))


def masked_by_hand(objective: MaskedLMObjective, batch: Mapping[str, np.ndarray], progress: float = 0.0) -> Any:
    """(tokens, labels) that `objective.loss` sees with KEY."""
    spec = objective.spec
    first, last = spec.ratios
    return mask_tokens(
        jax.random.split(KEY)[0],
        jnp.asarray(batch["tokens"]),
        jnp.asarray(batch["segment_ids"]),
        objective.vocabulary,
        spec.masking,
        ratio=first + (last - first) * progress,
        limit=max_predictions(spec.masking.unit, max(spec.ratios), batch["tokens"].shape[1]),
    )


def computed_loss(objective: MaskedLMObjective, batch: Any, progress: float = 0.0) -> tuple[float, float, float]:
    """Returns (sum of losses, weight, sum of right predictions)."""
    graphdef, ratios = graph(objective), objective.spec.ratios

    def compute(params: Any, batch: Any, progress: Any, z_loss: Any) -> Loss:
        weighed = dataclasses.replace(objective, z_loss=z_loss)
        return weighed.loss(nnx.merge(graphdef, params), batch, LossContext(KEY, progress))

    if ratios not in COMPILED:
        COMPILED[ratios] = jax.jit(compute)
    found = COMPILED[ratios](PARAMS, batch, progress, objective.z_loss)
    return float(found.total), float(found.weight), float(found.metrics["accuracy"][0])


def logits_of(objective: MaskedLMObjective, batch: Any) -> np.ndarray:
    """The vocabulary's logits [B, T, V] at every token, in float64."""
    graphdef = graph(objective)

    def compute(params: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return model.logits(model.hidden(batch))

    return np.asarray(jax.jit(compute)(PARAMS), np.float64)


def test_the_loss_is_that_of_transformers_on_the_same_hidden_tokens(task: MaskedLMTask, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    tiny.write_masked_lm_weights(tmp_path, seed=5)
    model = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    objective, batch = task.objective, batch_of(task)
    tokens, labels = (np.asarray(array) for array in masked_by_hand(objective, batch))
    assert (labels >= 0).sum() > 30 and batch["segment_ids"].max() > 1
    wanted, right = 0.0, 0
    for row in range(len(tokens)):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            here = batch["segment_ids"][row] == segment
            targets = np.where(labels[row, here] >= 0, labels[row, here], -100)
            if (targets < 0).all():
                continue
            with torch.no_grad():
                ids = torch.tensor(tokens[row, here][None].astype(np.int64))
                found = model(input_ids=ids, labels=torch.tensor(targets[None].astype(np.int64)))
            wanted += float(found.loss) * (targets >= 0).sum()
            right += int((found.logits[0].argmax(-1).numpy() == targets).sum())
    loss, weight, sums = computed_loss(objective, batch)
    assert weight == (labels >= 0).sum() and sums == right
    assert loss == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("chunk", [0, 1, 4])  # 4 of 20 places or so: the last part is not full
def test_seeing_the_vocabulary_only_where_tokens_are_hidden_changes_neither_loss_nor_gradient(
    task: MaskedLMTask, chunk: int
) -> None:
    objective, batch = dataclasses.replace(task.objective, logits_chunk=chunk), batch_of(task)
    labels = np.asarray(masked_by_hand(objective, batch)[1])
    graphdef = graph(objective)
    states = np.random.default_rng(0).normal(size=(*labels.shape, tiny.ENCODER.hidden_size)).astype(np.float32)

    class Head:
        """The model with hidden states that are given: the encoder is the same either way."""

        def __init__(self, params: Any, hidden: jax.Array) -> None:
            self.hidden = lambda batch, key=None: hidden
            self.logits = nnx.merge(graphdef, params).logits

    def everywhere(params: Any, hidden: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(Head(params, hidden).logits(hidden))
        picked = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        return -jnp.sum(picked * (labels >= 0))

    def gathered(params: Any, hidden: jax.Array) -> jax.Array:
        return objective.loss(cast(Any, Head(params, hidden)), cast(Any, batch), LossContext(KEY)).total

    wanted, wanted_grads = jax.jit(jax.value_and_grad(everywhere, (0, 1)))(PARAMS, states)
    found, grads = jax.jit(jax.value_and_grad(gathered, (0, 1)))(PARAMS, states)
    assert float(jnp.abs(wanted_grads[1][labels >= 0]).min(axis=-1).max()) > 0 and wanted > 30
    assert not np.any(np.asarray(grads[1])[labels < 0])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for own, other in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted_grads), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5 * max(1.0, float(jnp.abs(other).max())))


def test_z_loss_is_the_squared_log_partition(task: MaskedLMTask) -> None:
    objective, batch = task.objective, batch_of(task)
    tokens, labels = masked_by_hand(objective, batch)
    logits = logits_of(objective, {**batch, "tokens": tokens})
    log_z = np.log(np.exp(logits).sum(-1))[np.asarray(labels) >= 0]
    plain, _, _ = computed_loss(objective, batch)
    with_z, _, _ = computed_loss(dataclasses.replace(objective, z_loss=0.01), batch)
    assert with_z - plain == pytest.approx(0.01 * np.sum(log_z**2), rel=1e-3) and with_z > plain + 1


def test_the_ratio_follows_its_schedule(task: MaskedLMTask) -> None:
    objective, batch = task.objective, batch_of(task)
    scheduled = dataclasses.replace(objective, spec=dataclasses.replace(objective.spec, ratios=(0.4, 0.1)))
    total = (objective.vocabulary.maskable[batch["tokens"]] & (batch["segment_ids"] > 0)).sum()
    for progress, ratio in ((0.0, 0.4), (0.5, 0.25), (1.0, 0.1)):
        weight = computed_loss(scheduled, batch, progress)[1]
        assert abs(weight - ratio * total) < 8  # below one a row


def test_a_step_without_a_target_has_no_loss_and_no_weight(task: MaskedLMTask) -> None:
    objective, batch = task.objective, batch_of(task)
    # Nothing but special tokens, as text in unknown tokens is.
    batch = batch | {"tokens": np.where(batch["segment_ids"] > 0, 1, 0).astype(np.int32)}
    assert computed_loss(objective, batch) == (0.0, 0.0, 0.0)
    assert computed_loss(dataclasses.replace(objective, z_loss=0.01), batch) == (0.0, 0.0, 0.0)
    graphdef = graph(objective)
    for chunk in (0, 4):
        other = dataclasses.replace(objective, z_loss=0.01, logits_chunk=chunk)

        def total(params: Any, other: MaskedLMObjective = other) -> jax.Array:
            return other.loss(nnx.merge(graphdef, params), cast(Any, batch), LossContext(KEY)).total

        assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(PARAMS)))


def test_a_step_says_how_much_it_masks(task: MaskedLMTask) -> None:
    objective, batch = task.objective, batch_of(task)
    labels = np.asarray(masked_by_hand(objective, batch)[1])
    graphdef = graph(objective)

    def sums(params: Any) -> Any:
        return objective.loss(nnx.merge(graphdef, params), cast(Any, batch), LossContext(KEY)).metrics

    found = jax.jit(sums)(PARAMS)
    assert found["masked_share"].tolist() == [(labels >= 0).sum(), (batch["segment_ids"] > 0).sum()]
    assert found["rows_without_target"].tolist() == [(labels < 0).all(1).sum(), len(labels)]
