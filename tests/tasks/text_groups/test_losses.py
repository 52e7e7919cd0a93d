"""Losses over similarities against slow loops, and against sentence-transformers' own."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.tasks.embedding.objective import similarities
from jaxfm.tasks.text_groups import losses
from jaxfm.tasks.text_groups.similarity_loss import SimilarityLoss

# Groups of three texts: of 1 the negative is absent, 3 is no group; 11 is the positive of 0 and of 4, 30 a known
# positive of 0, and 4's negative is the text of its anchor.
TEXTS = np.asarray([[10, 11, 12], [20, 21, -1], [30, 31, 32], [-1, -1, -1], [40, 11, 40], [10, 13, 14]], np.int32)
POSITIVES = np.asarray([[11, 13], [21, -1], [31, -1], [-1, -1], [11, -1], [11, 13]], np.int32)
COUNT = len(TEXTS)


def drawn(seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((COUNT, 3, 8))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def slow_negatives(row: int, known: bool) -> list[tuple[int, int]]:
    """Which texts (group, place) are negatives of an anchor, by the rules one by one."""
    found = []
    mine = {int(text) for text in POSITIVES[row]} if known else set()
    for group in range(COUNT):
        for place in (1, 2):
            text = int(TEXTS[group, place])
            if text < 0 or text == TEXTS[row, 0] or text == TEXTS[row, 1] or text in mine:
                continue
            found.append((group, place))
    return found


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_is_that_of_a_loop(known: bool, symmetric: bool) -> None:
    vectors, scale = drawn(), 7.0
    positives = jnp.asarray(POSITIVES) if known else None
    found, weights, sums = losses.info_nce(
        similarities(jnp.asarray(vectors)), jnp.asarray(TEXTS), positives, jnp.float32(scale), symmetric
    )
    right, counted = 0, 0
    for row in range(COUNT):
        if TEXTS[row, 0] < 0:
            assert found[row] == weights[row] == 0
            continue
        own = scale * float(vectors[row, 0] @ vectors[row, 1])
        negatives = [
            scale * float(vectors[row, 0] @ vectors[group, place]) for group, place in slow_negatives(row, known)
        ]
        counted += len(negatives)
        right += own > max(negatives)
        wanted = math.log(math.exp(own) + sum(map(math.exp, negatives))) - own
        if symmetric:
            others = [
                scale * float(vectors[row, 1] @ vectors[group, 0])
                for group in range(COUNT)
                if TEXTS[group, 0] >= 0
                and group != row
                and TEXTS[group, 0] != TEXTS[row, 0]
                and (row, 1) in slow_negatives(group, known)
            ]
            wanted = 0.5 * (wanted + math.log(math.exp(own) + sum(map(math.exp, others))) - own)
        assert float(found[row]) == pytest.approx(wanted, rel=1e-5)
        assert weights[row] == 1
    np.testing.assert_allclose(sums["negatives"], [counted, 5])
    np.testing.assert_allclose(sums["accuracy"], [right, 5])
    assert len(slow_negatives(0, True)) < len(slow_negatives(0, False))  # the set-up can tell


def test_cosent_is_that_of_a_loop_and_knows_no_empty_pair() -> None:
    similarity, scores, valid = (
        np.asarray([0.1, 0.9, 0.3, -0.2]),
        np.asarray([3.0, 1.0, 3.0, 9.0]),
        [1.0, 1.0, 1.0, 0.0],
    )
    total = 1.0
    for i in range(3):
        for j in range(3):
            if scores[i] < scores[j]:
                total += math.exp(20.0 * (similarity[i] - similarity[j]))
    found = losses.cosent(*(jnp.asarray(each, jnp.float32) for each in (similarity, scores, valid, 20.0)))
    assert float(found) == pytest.approx(math.log(total), rel=1e-5)


def test_triplet_margin_and_divergence_by_hand() -> None:
    similarity = jnp.asarray([[0.9, 0.7], [0.2, 0.8], [0.5, 0.0]], jnp.float32)
    texts = jnp.asarray([[0, 1, 2], [3, 4, 5], [6, 7, -1]])
    found, weights = losses.triplet(similarity, texts, 0.3)
    np.testing.assert_allclose(found[:, 0], [0.1, 0.9, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(weights[:, 0], [1, 1, 0])
    teacher = jnp.asarray([[5.0, 2.0], [1.0, 3.0], [4.0, 0.0]], jnp.float32)
    found, weights = losses.margin_mse(similarity, teacher, texts, jnp.float32(10.0))
    np.testing.assert_allclose(found[:, 0], [1.0, 16.0, 0.0], rtol=1e-4, atol=1e-5)
    found, weights = losses.divergence(similarity, teacher, texts, jnp.float32(10.0))
    p, q = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-2))
    wanted = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert float(found[0]) == pytest.approx(wanted, rel=1e-4)
    assert float(found[2]) == pytest.approx(0.0, abs=1e-6) and weights[2] == 1  # of one passage nothing can differ


def batch(scores: Any = None) -> dict[str, jax.Array]:
    texts = np.arange(12, dtype=np.int32).reshape(2, 2, 3)  # two rows of two groups
    return {"texts": jnp.asarray(texts)} | ({} if scores is None else {"scores": jnp.asarray(scores, jnp.float32)})


def torch_of(vectors: np.ndarray) -> list[Any]:
    torch = pytest.importorskip("torch")
    return [torch.tensor(vectors[:, place]) for place in range(vectors.shape[1])]


def test_losses_are_those_of_sentence_transformers() -> None:
    pytest.importorskip("sentence_transformers", reason="the oracle is not installed")
    import torch
    from sentence_transformers.sentence_transformer import losses as st

    vectors = drawn(3)[:4]
    texts = np.arange(12, dtype=np.int32).reshape(1, 4, 3)
    with torch.no_grad():
        loss = st.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0)
        wanted = float(loss.compute_loss_from_embeddings(torch_of(vectors), None))
        scores = torch.tensor([0.1, 0.9, 0.4, 0.4])
        ordered = float(
            st.CoSENTLoss(torch.nn.Identity()).compute_loss_from_embeddings(torch_of(vectors[:, :2]), scores)
        )
    found = SimilarityLoss("infonce")(
        similarities(jnp.asarray(vectors)), {"texts": jnp.asarray(texts)}, jnp.float32(20.0)
    )
    assert float(found.total / found.weight) == pytest.approx(wanted, rel=1e-5)
    pairs = {"texts": jnp.asarray(texts[..., :2]), "scores": jnp.asarray(scores.numpy()).reshape(1, 4, 1)}
    found = SimilarityLoss("cosent")(similarities(jnp.asarray(vectors[:, :2])), pairs, jnp.float32(20.0))
    assert float(found.total / found.weight) == pytest.approx(ordered, rel=1e-5)


def test_cosine_regression_divides_scores_by_their_range() -> None:
    vectors = drawn(1)[:4]
    loss = SimilarityLoss("cosine", score_range=5.0)
    found = loss(
        similarities(jnp.asarray(vectors[:, :2])),
        batch(np.full((2, 2, 1), 2.5)) | {"texts": batch()["texts"][..., :2]},
        jnp.float32(1.0),
    )
    wanted = [(float(one @ other) - 0.5) ** 2 for one, other in vectors[:, :2]]
    assert float(found.total / found.weight) == pytest.approx(np.mean(wanted), rel=1e-5)
