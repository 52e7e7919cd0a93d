"""The CRF's loss against all sequences counted out, its gradients against differences, and chains that never mix."""

# B batch, T tokens, C classes

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.data.text.tagging import allowed_tags
from jaxfm.models.heads import mean_over_words
from jaxfm.models.linear_chain import FIRST, LAST, LinearChain, TransitionScores, chain_loss
from jaxfm.parallel.mesh import make_mesh, shard_batch

LABELS = ("O", "B-X", "I-X")
ALLOWED = allowed_tags(LABELS)
C, T = len(LABELS), 12
# Chains of each row: segment, tokens of the words (others are pieces that no word is read at), gold, bounds.
CHAINS = (
    (
        (1, (1, 2, 4), (1, 2, 0), (True, True)),
        (2, (6, 9, 10), (2, 2, 1), (False, True)),  # cut: its first word is inside an entity
    ),
    ((1, (1,), (1,), (True, True)), (3, (5, 6), (1, 2), (True, False)), (4, (9, 11), (0, 0), (False, False))),
)


def batch() -> dict[str, np.ndarray]:
    labels, bounds, segments = np.full((2, T), -1), np.full((2, T), -1), np.zeros((2, T), int)
    for row, chains in enumerate(CHAINS):
        for segment, places, gold, (first, last) in chains:
            segments[row, places[0] - 1 : places[-1] + 1] = segment
            labels[row, places] = gold
            bounds[row, places] = 0
            bounds[row, places[0]] += FIRST * first
            bounds[row, places[-1]] += LAST * last
    return {name: each.astype(np.int32) for name, each in zip(NAMES, (labels, segments, bounds), strict=True)}


NAMES = ("labels", "segment_ids", "bounds")


def drawn(seed: int = 0) -> tuple[np.ndarray, TransitionScores]:
    """Logits and transitions, float64; what is not allowed has -1e30."""
    draw = np.random.default_rng(seed)
    shapes = (C, C, (C, C))
    parts = (np.where(mask, draw.normal(size=shape), -1e30) for mask, shape in zip(ALLOWED, shapes, strict=True))
    return draw.normal(size=(2, T, C)), TransitionScores(*parts)  # type: ignore[arg-type]


def in_f32(scores: TransitionScores) -> TransitionScores:
    return TransitionScores(*map(jnp.float32, scores))


def counted_out(logits_BTC: np.ndarray, scores: TransitionScores) -> float:
    """-log p(gold), summed over all chains, from every sequence of each."""
    start, end, pairs = (np.asarray(each, np.float64) for each in scores)
    loss = 0.0
    for row, chains in enumerate(CHAINS):
        for _, places, gold, (first, last) in chains:
            scored = {}
            for path in itertools.product(range(C), repeat=len(places)):
                value = sum(logits_BTC[row, place, tag] for place, tag in zip(places, path, strict=True))
                value += sum(pairs[pair] for pair in itertools.pairwise(path))
                scored[path] = value + first * start[path[0]] + last * end[path[-1]]
            loss += np.log(np.exp(list(scored.values())).sum()) - scored[gold]
    return loss


def total(logits: Any, scores: TransitionScores, rows: Mapping[str, Any]) -> jax.Array:
    labels, segments, bounds = (jnp.asarray(rows[name]) for name in NAMES)
    return chain_loss(logits, labels, segments, bounds, scores)[0].sum()


def test_the_loss_is_that_of_all_sequences_counted_out() -> None:
    logits, scores = drawn()
    labels, segments, bounds = map(jnp.asarray, batch().values())
    loss_BT, label_BT = chain_loss(jnp.asarray(logits, jnp.float32), labels, segments, bounds, in_f32(scores))
    np.testing.assert_allclose(loss_BT.sum(), counted_out(logits, scores), rtol=1e-5)
    assert (np.asarray(loss_BT)[batch()["labels"] < 0] == 0).all()
    assert label_BT.shape == (2, T) and label_BT.dtype == jnp.int32


def test_gradients_are_finite_differences() -> None:
    logits, scores = drawn(1)
    with jax.enable_x64(True):
        grads = jax.grad(total, argnums=(0, 1))(
            jnp.asarray(logits), TransitionScores(*map(jnp.asarray, scores)), batch()
        )
        found = [np.asarray(grads[0]), *map(np.asarray, grads[1])]
    values, step = [logits, *map(np.asarray, scores)], 1e-6
    for number, value in enumerate(values):
        wanted = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            if value[index] < -1e29:
                continue
            ends = []
            for sign in (1, -1):
                moved = [each.copy() for each in values]
                moved[number][index] += sign * step
                ends.append(counted_out(moved[0], TransitionScores(*moved[1:])))  # type: ignore[arg-type]
            wanted[index] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(found[number], wanted, atol=1e-8)
        assert np.abs(wanted).max() > 0.1
    assert (found[0][batch()["labels"] < 0] == 0).all()  # what no word is read at has no gradient


def test_packed_chains_are_those_of_rows_of_their_own() -> None:
    logits, scores = drawn(2)
    scores, rows, alone = in_f32(scores), batch(), 0.0
    for row, chains in enumerate(CHAINS):
        for segment, *_ in chains:
            inside = rows["segment_ids"][row] == segment
            one = {name: np.where(inside, rows[name][row], -1 if name != "segment_ids" else 0)[None] for name in NAMES}
            alone += float(total(jnp.float32(logits[row : row + 1]), scores, one))
    np.testing.assert_allclose(total(jnp.float32(logits), scores, rows), alone, rtol=1e-5)
    mixed = rows | {"segment_ids": np.ones_like(rows["segment_ids"])}
    assert abs(float(total(jnp.float32(logits), scores, mixed)) - alone) > 0.1  # the segments do make a difference


@pytest.mark.parametrize("axes", [{"data": 2, "sequence": 2}, {"data": 1, "fsdp": 2, "tensor": 2}])
def test_any_mesh_computes_the_same(axes: dict[str, int]) -> None:
    logits, scores = drawn(3)
    scores = in_f32(scores)
    rows = batch() | {"logits": logits.astype(np.float32)}
    plain = jax.value_and_grad(total)(jnp.asarray(rows["logits"]), scores, rows)
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}))
    sharded = shard_batch(rows, {name: ("tokens",) for name in rows}, mesh)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(total))(sharded["logits"], scores, sharded)
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], plain[1], atol=1e-6)


def test_what_is_not_allowed_has_no_score_to_learn() -> None:
    with nnx.use_eager_sharding(False):
        chain = LinearChain(*ALLOWED, nnx.Rngs(0))
    scores = chain.scores()
    assert [float(each.max()) for each in scores] == [0, 0, 0]
    assert scores.start[2] == scores.pairs[0, 2] == -1e30 and scores.pairs.dtype == jnp.float32

    def loss(chain: LinearChain) -> jax.Array:
        return total(jnp.zeros((2, T, C)), chain.scores(), batch())

    grads = nnx.to_pure_dict(nnx.grad(loss)(chain))
    assert np.isfinite(grads["pairs"]).all()
    for name, allowed in zip(("start", "end", "pairs"), ALLOWED, strict=True):
        assert (np.asarray(grads[name])[~allowed] == 0).all() and np.abs(grads[name]).max() > 0


def test_the_mean_over_a_word_is_of_its_own_pieces() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(2, 8, 3)).astype(np.float32)
    words = np.array([[-1, 0, 0, 1, -1, 0, 0, -1], [3, 3, 3, 4, -1, 4, 4, -1]])
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 2, 2, 2, 0]])
    found = np.asarray(mean_over_words(jnp.asarray(values), jnp.asarray(words), jnp.asarray(segments)))
    wanted = np.zeros_like(values)
    for row, token in np.ndindex(words.shape):
        if words[row, token] >= 0:
            same = (words[row] == words[row, token]) & (segments[row] == segments[row, token])
            wanted[row, token] = values[row, same].mean(axis=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
