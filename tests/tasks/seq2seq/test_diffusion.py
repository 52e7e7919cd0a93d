"""Masks of targets against numpy, and filling against a loop over single sources."""

import dataclasses
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
from jaxfm.tasks.held_out import ROLE, SCORED
from jaxfm.tasks.seq2seq.diffusion import fill_targets
from jaxfm.tasks.seq2seq.encoding import blank_rows
from jaxfm.tasks.seq2seq.spec import UnmaskingConfig
from jaxfm.tasks.seq2seq.task import Seq2SeqTask
from jaxfm.tasks.unmasking import LEAST_SHARE, draw_shares, mask_targets
from jaxfm.training.initial import resolve
from tests import tiny

PARAMS = tiny.nested(tiny.random_masked_lm(tiny.ENCODER, seed=5))
KEY = jax.random.key(12)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Seq2SeqTask:
    config = tiny.seq2seq_config(tmp_path_factory.mktemp("diffusion"), model__dropout=0.0)
    return registry.create(config, resolve(config.model))[0]  # type: ignore[return-value]


@pytest.fixture(scope="module")
def graph(task: Seq2SeqTask) -> Any:
    make = task.objective.spec.make_model
    return build_abstract(lambda: make(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))[0]


def batch_of(task: Seq2SeqTask, count: int = 4) -> Any:
    return task.datasets["train"].take(np.arange(count))


def test_shares_are_uniform_and_masks_are_of_targets_alone(task: Seq2SeqTask) -> None:
    batch = batch_of(task)
    shares = np.asarray(draw_shares(KEY, 500, 8))
    assert shares.min() >= LEAST_SHARE and shares.max() < 1
    np.testing.assert_allclose(np.quantile(shares, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)
    source = (batch["labels"] < 0) & (batch["segment_ids"] > 0)
    masked_of_targets = []
    for seed in range(40):
        shares = draw_shares(jax.random.key(seed), len(batch["tokens"]), task.objective.spec.segments)
        masked, weight = mask_targets(jax.random.key(100 + seed), batch, shares, task.objective.tokens.mask)
        tokens, labels, weight = np.asarray(masked["tokens"]), np.asarray(masked["labels"]), np.asarray(weight)
        hidden = labels >= 0
        np.testing.assert_array_equal(tokens[~hidden], batch["tokens"][~hidden])
        assert (tokens[hidden] == task.objective.tokens.mask).all() and not hidden[source].any()
        np.testing.assert_array_equal(labels[hidden], batch["labels"][hidden])
        own = np.asarray(shares)[np.arange(len(tokens))[:, None], np.maximum(batch["segment_ids"] - 1, 0)]
        np.testing.assert_allclose(weight, np.where(hidden, 1 / own, 0), rtol=1e-6)
        masked_of_targets.append(hidden.sum() / (batch["labels"] >= 0).sum())
    assert np.mean(masked_of_targets) == pytest.approx(0.5, abs=0.06)


def test_each_segment_has_its_own_share(task: Seq2SeqTask) -> None:
    batch = batch_of(task)
    shares = jnp.asarray([[1.0, LEAST_SHARE, 1.0] + [LEAST_SHARE] * (task.objective.spec.segments - 3)] * 4)
    masked, _ = mask_targets(KEY, batch, shares, task.objective.tokens.mask)
    labels, segments = np.asarray(masked["labels"]), batch["segment_ids"]
    for segment, all_masked in ((1, True), (2, False), (3, True)):
        inside = (segments == segment) & (batch["labels"] >= 0)
        assert (labels[inside] >= 0).mean() == pytest.approx(float(all_masked), abs=0.1)


def test_the_loss_is_that_of_numpy(task: Seq2SeqTask, graph: Any) -> None:
    """Cross-entropy at masks, over all tokens of the row in float64, each times 1 / share."""
    objective, batch = task.objective, batch_of(task)
    loss = jax.jit(lambda params: objective.loss(nnx.merge(graph, params), batch, LossContext(KEY)))(PARAMS)
    share_key, mask_key, _ = jax.random.split(KEY, 3)
    shares = draw_shares(share_key, len(batch["tokens"]), objective.spec.segments)
    masked, weight = mask_targets(mask_key, batch, shares, objective.tokens.mask)

    def logits(params: Any) -> jax.Array:
        model = nnx.merge(graph, params)
        return model.logits(model.hidden(masked))

    scores = np.asarray(jax.jit(logits)(PARAMS), np.float64)
    labels, weight = np.asarray(masked["labels"]), np.asarray(weight, np.float64)
    log_z = np.log(np.exp(scores - scores.max(-1, keepdims=True)).sum(-1)) + scores.max(-1)
    picked = np.take_along_axis(scores, np.maximum(labels, 0)[..., None], -1)[..., 0]
    assert float(loss.total) == pytest.approx(((log_z - picked) * weight).sum(), rel=1e-4)
    assert float(loss.weight) == (batch["labels"] >= 0).sum()
    hits = (scores.argmax(-1) == labels)[labels >= 0].sum()
    assert float(loss.metrics["accuracy"][0]) == pytest.approx(hits)


def test_in_chunks_the_loss_is_the_same(task: Seq2SeqTask, graph: Any) -> None:
    batch, found = batch_of(task), []
    for chunk in (0, 7):
        objective = dataclasses.replace(task.objective, logits_chunk=chunk)
        made = jax.jit(lambda params, o=objective: o.loss(nnx.merge(graph, params), batch, LossContext(KEY)).total)
        found.append(float(made(PARAMS)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_nothing_leaks_between_segments(task: Seq2SeqTask, graph: Any) -> None:
    """The loss of one segment does not change with the words of another."""
    objective = task.objective
    rows = task.held_out["valid"].scored
    batch = {**rows.take(np.arange(2)), ROLE: np.full(2, SCORED, np.int32)}

    def first(words: jax.Array) -> jax.Array:
        model = nnx.merge(graph, PARAMS)
        shares = jnp.full((2, objective.spec.segments), 0.999)
        masked, weight = mask_targets(KEY, batch, shares, objective.tokens.mask)
        hidden = model.hidden({**masked, "word_vectors": words})
        log_p = jax.nn.log_softmax(model.logits(hidden))
        picked = jnp.take_along_axis(log_p, jnp.maximum(masked["labels"], 0)[..., None], -1)[..., 0]
        return (picked * weight * (batch["segment_ids"] == 1)).sum()

    words = jax.random.normal(KEY, (*batch["tokens"].shape, tiny.ENCODER.hidden_size))
    gradient = np.abs(np.asarray(jax.jit(jax.grad(first))(words))).sum(-1)
    assert (gradient[batch["segment_ids"] != 1] == 0).all()
    assert (gradient[batch["segment_ids"] == 1] > 0).all()


def filled_alone(task: Seq2SeqTask, graph: Any, source: list[int], steps: int) -> list[int]:
    """One source, by plain loops over lists: the length first, then the surest places."""
    spec, tokens = task.objective.spec, task.objective.tokens
    block = int(spec.lengths.block(np.asarray([len(source)]))[0])
    before = [tokens.opening, *source, tokens.separator]
    row, types = before + [tokens.mask] * block, [0] * len(before) + [1] * block
    size = len(row)

    def probabilities(row: list[int]) -> np.ndarray:
        batch = {
            "tokens": jnp.asarray([row]),
            "segment_ids": jnp.ones((1, size), jnp.int32),
            "positions": jnp.arange(size)[None],
            "type_ids": jnp.asarray([types]),
        }
        model = nnx.merge(graph, PARAMS)
        logits = np.asarray(model.logits(model.hidden(batch))[0], np.float64)
        return np.exp(logits - logits.max(-1, keepdims=True)) / np.exp(logits - logits.max(-1, keepdims=True)).sum(
            -1, keepdims=True
        )

    found = probabilities(row)[len(before) :, tokens.separator]
    length = next((place for place, share in enumerate(found) if share >= 0.5), block - 1)
    length = min(length, block - 1)
    row[len(before) + length :] = [tokens.separator] * (block - length)
    for step in range(steps or spec.lengths.most):
        masked = [place for place in range(size) if row[place] == tokens.mask]
        if not masked:
            break
        found = probabilities(row)
        found[:, [tokens.opening, tokens.padding, tokens.mask, tokens.separator]] = 0
        best = {place: int(found[place].argmax()) for place in masked}
        sure = {place: found[place].max() / found[place].sum() for place in masked}
        count = -(-len(masked) // ((steps or spec.lengths.most) - step))
        for place in sorted(masked, key=lambda place: (-sure[place], place))[:count]:
            row[place] = best[place]
    return row[len(before) : len(before) + length]


@pytest.mark.parametrize("steps", [0, 2])
def test_filling_packed_rows_is_filling_each_source_alone(task: Seq2SeqTask, graph: Any, steps: int) -> None:
    spec, tokens = task.objective.spec, task.objective.tokens
    sources = [[5 + (3 * index + place) % 12 for place in range(2 + index % 4)] for index in range(9)]
    rows = blank_rows(spec, tokens, sources)
    assert len(rows) < len(sources)

    def fill(params: Any) -> Any:
        return fill_targets(
            nnx.merge(graph, params),
            {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()},
            UnmaskingConfig(steps=steps),
            segments=spec.segments,
            most=spec.lengths.most,
            separator=tokens.separator,
            never=(tokens.opening, tokens.padding, tokens.mask),
        )

    written = np.asarray(jax.jit(fill)(PARAMS).tokens_BSM)
    for source, (row, segment, _) in zip(sources, rows.example_locations.tolist(), strict=True):
        own = [token for token in written[row, segment].tolist() if token >= 0]
        assert own == filled_alone(task, graph, source, steps)


def test_draws_do_not_depend_on_what_a_row_is_shared_with(task: Seq2SeqTask, graph: Any) -> None:
    spec, tokens = task.objective.spec, task.objective.tokens
    sources = [[5, 6, 7], [8, 9], [10, 11, 12, 5]]
    found = {}
    for temperature, seed in ((1.5, 0), (1.5, 1), (0.0, 0)):
        for given in ([*sources], [sources[1]]):
            rows = blank_rows(spec, tokens, given)
            fill = jax.jit(
                lambda params, batch, t=temperature, s=seed: (
                    fill_targets(
                        nnx.merge(graph, params),
                        batch,
                        UnmaskingConfig(temperature=t, seed=s),
                        segments=spec.segments,
                        most=spec.lengths.most,
                        separator=tokens.separator,
                        never=(tokens.opening, tokens.padding, tokens.mask),
                    ).tokens_BSM
                )
            )
            written = np.asarray(fill(PARAMS, rows.take(np.arange(len(rows)))))
            row, segment, _ = rows.example_locations[given.index(sources[1])].tolist()
            found[temperature, seed, len(given)] = written[row, segment].tolist()
    for temperature, seed in ((1.5, 0), (1.5, 1), (0.0, 0)):
        assert found[temperature, seed, 3] == found[temperature, seed, 1]
    assert len({tuple(found[key]) for key in found if key[2] == 1}) == 3


def test_a_batch_without_blank_rows_writes_nothing(task: Seq2SeqTask, graph: Any) -> None:
    rows = task.held_out["valid"]
    compute = jax.jit(lambda params, batch: task.objective.outputs(nnx.merge(graph, params), batch))
    scored = compute(PARAMS, rows.take(np.arange(2)))
    assert (np.asarray(scored["written"]) == -1).all() and (np.asarray(scored["count"]) > 0).any()
    blank = compute(PARAMS, rows.take(len(rows) - 1 - np.arange(2)))
    assert (np.asarray(blank["written"]) >= 0).any() and not np.asarray(blank["count"]).any()


def test_the_held_out_loss_is_of_fixed_masks_and_near_that_of_training(task: Seq2SeqTask, graph: Any) -> None:
    objective, rows = task.objective, task.held_out["valid"]
    index = np.arange(len(rows.scored))
    compute = jax.jit(lambda params, batch: objective.outputs(nnx.merge(graph, params), batch))
    first, again = (rows.sums({k: np.asarray(v) for k, v in compute(PARAMS, rows.take(index)).items()}) for _ in "ab")
    np.testing.assert_array_equal(first["loss"], again["loss"])
    assert first["count"].sum() == (rows.scored.labels >= 0).sum()
    batch: Any = rows.scored.take(index)
    drawn = jax.jit(lambda key: objective.loss(nnx.merge(graph, PARAMS), batch, LossContext(key)))
    losses = [drawn(jax.random.key(seed)) for seed in range(60)]
    mean = np.mean([float(each.total) / float(each.weight) for each in losses])
    assert first["loss"].sum() / first["count"].sum() == pytest.approx(mean, rel=0.25)
