"""The best sequence of tags, against all sequences that the scheme allows, counted out one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.text.tagging import allowed_tags
from jaxfm.tasks.ner import chains
from jaxfm.tasks.ner.chains import ChainScores, chain_losses, constrained, log_marginals, viterbi

SCHEMES = {
    "BIO": ("O", "B-X", "I-X", "B-Y", "I-Y"),
    "IO": ("O", "I-X", "I-Y"),
    "BIOES": ("S-X", "B-X", "O", "I-X", "E-X"),
    "BILOU": ("U-X", "B-X", "O", "I-X", "L-X"),
}


def sentences(draw: np.random.Generator, classes: int, count: int, longest: int = 4) -> list[np.ndarray]:
    """Scores of sentences of 0 to `longest` words; whole numbers, so that there are ties."""
    return [draw.integers(-3, 4, (draw.integers(0, longest + 1), classes)).astype(np.float32) for _ in range(count)]


def total(scores_WC: np.ndarray, path: tuple[int, ...], chain: ChainScores) -> float:
    """The score of a sequence, added up term by term."""
    if not path:
        return 0.0
    words = sum(float(scores_WC[word, tag]) for word, tag in enumerate(path))
    pairs = sum(chain.pairs[one, other] for one, other in itertools.pairwise(path))
    return words + pairs + chain.start[path[0]] + chain.end[path[-1]]


def best_total(scores_WC: np.ndarray, chain: ChainScores) -> float:
    length, classes = scores_WC.shape
    return max(total(scores_WC, path, chain) for path in itertools.product(range(classes), repeat=length))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(SCHEMES)))
def test_the_best_allowed_sequence_is_found(seed: int, scheme: str) -> None:
    labels = SCHEMES[scheme]
    found = sentences(np.random.default_rng(seed), len(labels), 6)
    allowed = allowed_tags(labels)
    chain = ChainScores.of(allowed)
    for scores_WC, path in zip(found, constrained(found, allowed), strict=True):
        assert len(path) == len(scores_WC)
        assert total(scores_WC, tuple(path), chain) == best_total(scores_WC, chain) > -np.inf


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_scores_of_a_chain_are_taken_into_account(seed: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    chain = ChainScores(*(draw.integers(-3, 4, shape).astype(float) for shape in (classes, classes, (classes,) * 2)))
    found = sentences(draw, classes, 6)
    for scores_WC, path in zip(found, viterbi(found, chain), strict=True):
        assert total(scores_WC, tuple(path), chain) == best_total(scores_WC, chain)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(SCHEMES)))
def test_probabilities_are_those_counted_out(seed: int, scheme: str) -> None:
    labels, draw = SCHEMES[scheme], np.random.default_rng(seed)
    classes, allowed = len(labels), ChainScores.of(allowed_tags(labels))
    shapes = (classes, classes, (classes, classes))
    parts = zip((allowed.start, allowed.end, allowed.pairs), shapes, strict=True)
    chain = ChainScores(*(part + draw.normal(size=shape) for part, shape in parts))
    found = sentences(draw, classes, 5)
    gold = viterbi([draw.normal(size=each.shape) for each in found], allowed)  # any allowed sequence
    marginals, losses = log_marginals(found, chain), chain_losses(found, gold, chain)
    for scores_WC, path, marginal_WC, loss_W in zip(found, gold, marginals, losses, strict=True):
        if not len(scores_WC):
            assert marginal_WC.shape == (0, classes) and loss_W.shape == (0,)
            continue
        paths = list(itertools.product(range(classes), repeat=len(scores_WC)))
        weights = np.exp([total(scores_WC, each, chain) for each in paths])
        wanted_WC = np.zeros(scores_WC.shape)
        for each, weight in zip(paths, weights, strict=True):
            wanted_WC[np.arange(len(each)), each] += weight / weights.sum()
        np.testing.assert_allclose(np.exp(marginal_WC), wanted_WC, atol=1e-12)
        np.testing.assert_allclose(
            loss_W.sum(), np.log(weights.sum()) - total(scores_WC, tuple(path), chain), atol=1e-9
        )


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    found = [draw.normal(size=(length, 5)) for length in draw.integers(0, 30, 50)]
    chain = ChainScores.of(allowed_tags(SCHEMES["BIO"]))
    whole = viterbi(found, chain)
    monkeypatch.setattr(chains, "_BLOCK", 3 * 25)
    assert len(list(chains.blocks(found))) >= 15
    for one, other in zip(whole, viterbi(found, chain), strict=True):
        np.testing.assert_array_equal(one, other)
    portions = log_marginals(found, chain)
    monkeypatch.undo()
    for one, other in zip(log_marginals(found, chain), portions, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert viterbi([], chain) == [] and constrained([], allowed_tags(SCHEMES["BIO"])) == []


def test_likeliest_tags_that_are_allowed_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = allowed_tags(SCHEMES["BIO"])
    right = np.eye(5)[[0, 1, 2, 3]]
    asked: list[int] = []
    monkeypatch.setattr(chains, "viterbi", lambda scores, chain: asked.append(len(scores)) or [])
    (path,) = constrained([right], allowed)
    assert path.tolist() == [0, 1, 2, 3] and asked == [0]


def test_a_model_that_has_broken_down_is_decoded() -> None:
    (path,) = constrained([np.full((3, 5), np.nan, np.float32)], allowed_tags(SCHEMES["BIO"]))
    assert path.shape == (3,) and ((path >= 0) & (path < 5)).all()
