"""Rows of histories, what is hidden of them, losses and rankings against slow versions."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import CAUSAL
from jaxfm.core.objective import LossContext
from jaxfm.evaluation.recommendation import rank_scores
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.recommendation.hidden_items import hide_items
from jaxfm.tasks.recommendation.objective import RecommendationObjective, gbce_losses
from jaxfm.tasks.recommendation.rows import asked_rows, training_rows
from jaxfm.tasks.recommendation.spec import (
    FIRST_ITEM,
    MASK,
    PAD,
    RecommendationLossConfig,
    RecommendationSpec,
)
from tests import tiny

ITEMS, ROW, HISTORY = 30, 16, 6
ENCODER = dataclasses.replace(
    tiny.ENCODER, vocab_size=ITEMS + FIRST_ITEM, max_positions=HISTORY + 1, type_vocab_size=1, dropout=0.0,
    attention_dropout=0.0, initializer_range=0.3,
)  # fmt: skip
KEY = jax.random.key(5)


def spec_of(method: str = "causal", **changes: Any) -> RecommendationSpec:
    encoder = dataclasses.replace(ENCODER, sight=CAUSAL) if method == "causal" else ENCODER
    return RecommendationSpec(encoder, ROW, method, HISTORY, repeats=False, top=4, separator="|", **changes)


def histories(count: int, longest: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(ITEMS)[: rng.integers(1, longest + 1)].astype(np.int32) for _ in range(count)]


@functools.cache
def graph(method: str) -> Any:
    spec = spec_of(method)
    return build_abstract(lambda: spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))[0]


@functools.cache
def params() -> Any:
    return tiny.nested(tiny.random_masked_lm(ENCODER, seed=5))


def call(method: str, function: Any, *arguments: Any) -> Any:
    graphdef = graph(method)
    return jax.jit(lambda values: function(nnx.merge(graphdef, values), *arguments))(params())


def alone(method: str, items: list[int]) -> np.ndarray:
    """Logits [T, V] of one history, in a row of its own, its last item at the last position."""
    length = len(items)
    places = np.arange(HISTORY - length, HISTORY, dtype=np.int32)
    batch = {"tokens": np.asarray([items], np.int32), "segment_ids": np.ones((1, length), np.int32)}
    batch = {name: jnp.asarray(value) for name, value in (batch | {"positions": places[None]}).items()}
    return np.asarray(call(method, lambda model: model.logits(model.hidden(batch))))[0]


@pytest.mark.parametrize("method", ["causal", "masked"])
def test_every_step_of_a_history_is_learned_once(method: str) -> None:
    taken = [np.arange(13, dtype=np.int32), np.arange(20, 21, dtype=np.int32), np.arange(14, 16, dtype=np.int32)]
    rows = training_rows(spec_of(method), taken, 0)
    batch = rows.take(np.arange(len(rows)))
    parts = [
        (batch["tokens"][row][own] - FIRST_ITEM).tolist()
        for row in range(len(rows))
        for own in [batch["segment_ids"][row] == number for number in range(1, 9)]
        if own.any()
    ]
    causal = [[0, 1, 2, 3, 4, 5, 6], [6, 7, 8, 9, 10, 11, 12], [14, 15]]
    masked = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [14, 15]]  # item 0 alone says nothing
    assert sorted(parts) == sorted(causal if method == "causal" else masked)
    for row in range(len(rows)):
        for number in range(1, 1 + batch["segment_ids"][row].max()):
            own = batch["positions"][row][batch["segment_ids"][row] == number].tolist()
            # The last item that predicts has the last position; of the causal method a target follows it.
            places = list(range(HISTORY))[-(len(own) - (method == "causal")) :]
            assert own == [*places, *([HISTORY] if method == "causal" else [])]


def test_hidden_items_are_as_often_as_they_should_be() -> None:
    rows = training_rows(spec_of("masked"), histories(400, HISTORY), 0)
    batch = rows.take(np.arange(len(rows)))
    tokens, segments = jnp.asarray(batch["tokens"]), jnp.asarray(batch["segment_ids"])
    hide = functools.partial(hide_items, ratio=0.3, limit=ROW)
    hidden, labels = (np.asarray(x) for x in hide(KEY, tokens, segments, last_share=0.0))
    assert ((hidden == MASK) == (labels >= 0)).all() and (labels[batch["segment_ids"] == 0] == -1).all()
    assert (np.where(labels >= 0, labels, hidden) == batch["tokens"]).all()
    each = [
        labels[row][batch["segment_ids"][row] == number] >= 0
        for row in range(len(rows))
        for number in range(1, 1 + batch["segment_ids"][row].max())
    ]
    assert all(own.any() for own in each)
    # Expected: 30 % of all, and the last one where none of n was drawn.
    wanted = sum(0.3 * len(own) + 0.7 ** len(own) for own in each)
    assert abs(sum(own.sum() for own in each) - wanted) < 4 * np.sqrt(wanted)
    last_alone = np.asarray(hide(KEY, tokens, segments, last_share=1.0)[1])
    for row in range(len(rows)):
        for number in range(1, 1 + batch["segment_ids"][row].max()):
            own = last_alone[row][batch["segment_ids"][row] == number] >= 0
            assert own[-1] and own.sum() == 1
    few = np.asarray(hide_items(KEY, tokens, segments, ratio=0.9, last_share=0.0, limit=3)[1])
    assert ((few >= 0).sum(axis=1) == np.minimum(3, (labels >= -1).sum(axis=1))).all()


def test_the_causal_loss_is_that_of_each_history_alone() -> None:
    taken = [each for each in histories(9, HISTORY, 3) if len(each) > 1]
    spec = spec_of("causal")
    rows = training_rows(spec, taken, 0)
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
    found = call("causal", lambda model: RecommendationObjective(spec).loss(model, batch, LossContext(KEY)))
    total, count = 0.0, 0
    for each in taken:
        ids = (each + FIRST_ITEM).tolist()
        logits = alone("causal", ids[:-1])
        for place, wanted in enumerate(ids[1:]):
            own_V = logits[place][: ITEMS + FIRST_ITEM].astype(np.float64)
            total += np.log(np.exp(own_V).sum()) - own_V[wanted]
            count += 1
    assert float(found.weight) == count
    np.testing.assert_allclose(float(found.total), total, rtol=1e-5)
    chunked = RecommendationObjective(spec, logits_chunk=5)
    again = call("causal", lambda model: chunked.loss(model, batch, LossContext(KEY)))
    np.testing.assert_allclose(float(again.total), total, rtol=1e-5)


def test_gbce_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=5), rng.normal(size=(5, 3))
    same = np.zeros((5, 3), bool)
    same[2, 1] = True
    for calibration in (0.0, 0.5, 1.0):
        share = 3 / 9
        power = share * (calibration * (1 - 1 / share) + 1 / share)
        sigmoid = 1 / (1 + np.exp(-positive))
        others = np.where(same, 0.0, np.log(1 - 1 / (1 + np.exp(-negative)))).sum(axis=1)
        wanted = -(np.log(sigmoid**power) + others) / 4
        found = gbce_losses(
            jnp.asarray(positive), jnp.asarray(negative), jnp.asarray(same), items=10, calibration=calibration
        )
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-5)
    assert share * (1.0 * (1 - 1 / share) + 1 / share) == pytest.approx(share)  # all of the bias undone


@pytest.mark.parametrize("method", ["causal", "masked"])
def test_drawn_items_have_the_scores_of_the_catalogue(method: str) -> None:
    taken = [each for each in histories(6, HISTORY, 4) if len(each) > 1]
    rows = training_rows(spec_of(method), taken, 0)
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}

    def scores(model: Any) -> Any:
        hidden = model.hidden(batch)
        ids = jnp.arange(FIRST_ITEM, FIRST_ITEM + 5)[None].repeat(len(hidden), axis=0)
        wanted = jnp.maximum(batch["tokens"], FIRST_ITEM)
        return model.logits(hidden), model.logits_of(hidden, ids), model.target_logits(hidden, wanted), wanted

    whole, some, targets, wanted = (np.asarray(x) for x in call(method, scores))
    np.testing.assert_allclose(some, whole[..., FIRST_ITEM : FIRST_ITEM + 5], atol=1e-5)
    np.testing.assert_allclose(targets, np.take_along_axis(whole, wanted[..., None], axis=-1)[..., 0], atol=1e-5)
    costs = RecommendationLossConfig(kind="gbce", negatives=8)
    objective = RecommendationObjective(spec_of(method), costs=costs)
    found = call(method, lambda model: objective.loss(model, batch, LossContext(KEY)))
    assert np.isfinite(float(found.total)) and float(found.weight) > 0


@pytest.mark.parametrize("method", ["causal", "masked"])
def test_ranks_are_those_of_each_user_alone(method: str) -> None:
    spec = spec_of(method)
    before = histories(9, 10, 7)  # longer than what is read, too
    gold = [int(np.setdiff1d(np.arange(ITEMS), each)[0]) for each in before]
    gold[2], gold[4] = -1, int(before[4][0])  # unknown; one that the user took
    rows = asked_rows(spec, before, gold, before)
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
    found = {
        name: np.asarray(value)
        for name, value in call(method, lambda model: RecommendationObjective(spec).outputs(model, batch)).items()
    }
    scores = []
    for each in before:
        ids = (each + FIRST_ITEM).tolist()
        ids = ids[-HISTORY:] if method == "causal" else [*ids[-HISTORY + 1 :], MASK]
        scores.append(alone(method, ids)[-1][FIRST_ITEM : FIRST_ITEM + ITEMS])
    wanted = rank_scores(np.stack(scores), np.asarray(gold), before, 20)
    row, user, _ = rows.packed.example_locations.T
    np.testing.assert_allclose(found["rank"][row, user], np.where(np.isfinite(wanted.rank), wanted.rank, 0.0))
    finite = np.isfinite(found["scores"][row, user])
    assert (np.where(finite, found["items"][row, user], -1) == wanted.items).all()
    assert len(rows) < len(before) and (rows.take(np.asarray([0]))["labels"] != PAD - 1).any()
