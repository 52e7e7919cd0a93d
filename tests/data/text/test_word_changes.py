"""Words chosen by the content of rows, and pieces drawn from probabilities, against counts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.masking import WORD_TOKENS
from jaxfm.data.text.word_changes import choose_words, draw_pieces, row_keys
from tests.data.text.test_masking import MASK, SPECIALS, VOCABULARY, V, random_rows

SHARE = 0.2


@functools.partial(jax.jit, static_argnames="share")
def chosen(key: Any, tokens: Any, segments: Any, share: float = SHARE) -> tuple[Any, Any]:
    return choose_words(row_keys(key, tokens), tokens, segments, VOCABULARY, share, limit=tokens.shape[1])


def test_a_share_of_the_tokens_is_chosen_by_whole_words() -> None:
    tokens, segments = random_rows(4000, 64, seed=1, framed=True)
    masked, labels = (np.asarray(each) for each in chosen(jax.random.key(0), tokens, segments))
    free = VOCABULARY.maskable[tokens] & (segments > 0)
    assert not (labels >= 0)[~free].any() and (masked == np.where(labels >= 0, MASK, tokens)).all()
    assert (labels[labels >= 0] == tokens[labels >= 0]).all()
    share = (labels >= 0).sum() / free.sum()
    assert share == pytest.approx(SHARE, abs=4 * np.sqrt(SHARE * (1 - SHARE) * 4 / free.sum()))
    # A token that goes on with a word has the fate of the one before it; words of more tokens are cut.
    run = np.zeros(tokens.shape, int)
    for at in range(1, tokens.shape[1]):
        joined = free[:, at] & free[:, at - 1] & (segments[:, at] == segments[:, at - 1])
        joined &= VOCABULARY.continues[tokens[:, at]]
        run[:, at] = np.where(joined, run[:, at - 1] + 1, 0)
    inside = run % WORD_TOKENS > 0
    at_inside = np.argwhere(inside)
    fate = labels >= 0
    assert len(at_inside) > 10_000
    assert (fate[at_inside[:, 0], at_inside[:, 1]] == fate[at_inside[:, 0], at_inside[:, 1] - 1]).all()


def test_a_row_has_the_same_words_chosen_wherever_it_lies() -> None:
    tokens, segments = random_rows(64, 48, seed=2, framed=True)
    tokens, segments = tokens[segments.any(axis=1)], segments[segments.any(axis=1)]
    _, whole = chosen(jax.random.key(3), tokens, segments)
    order = np.random.default_rng(0).permutation(len(tokens))[:16]
    _, some = chosen(jax.random.key(3), tokens[order], segments[order])
    np.testing.assert_array_equal(np.asarray(whole)[order], some)
    _, other = chosen(jax.random.key(4), tokens, segments)
    assert (np.asarray(whole) != np.asarray(other)).any(axis=1).mean() > 0.7


def test_keys_of_rows_tell_order_and_place_apart() -> None:
    rows = jnp.asarray([[5, 6, 7, 0], [6, 5, 7, 0], [5, 6, 0, 7], [5, 6, 7, 1], [5, 6, 7, 0]], jnp.int32)
    keys = np.asarray(jax.random.key_data(row_keys(jax.random.key(1), rows)))
    assert len(np.unique(keys, axis=0)) == 4 and (keys[0] == keys[4]).all()
    many = np.random.default_rng(0).integers(0, 30_000, (20_000, 16)).astype(np.int32)
    found = np.asarray(jax.random.key_data(row_keys(jax.random.key(1), jnp.asarray(many))))
    assert len(np.unique(found, axis=0)) >= 20_000 - 3


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_pieces_are_drawn_by_their_probabilities(temperature: float) -> None:
    """Against the softmax over the pieces that may stand there; the padded vocabulary is wider than the tokenizer's."""
    rng, draws = np.random.default_rng(1), 40_000
    logits = 1.5 * rng.standard_normal((1, 2, V + 8))
    targets = np.asarray([[SPECIALS + 1, 70]])  # one that starts a word, one that goes on
    keys = jax.random.split(jax.random.key(0), draws)
    found = np.asarray(
        jax.jit(functools.partial(draw_pieces, vocabulary=VOCABULARY, temperature=temperature))(
            keys, jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (draws, 2, V + 8)), jnp.tile(targets, (draws, 1))
        )
    )
    for place, goes_on in ((0, False), (1, True)):
        allowed = np.pad(VOCABULARY.maskable & (VOCABULARY.continues == goes_on), (0, 8))
        weights = np.where(allowed, np.exp(logits[0, place] / temperature), 0.0)
        wanted = weights / weights.sum()
        counts = np.bincount(found[:, place], minlength=V + 8)
        assert not counts[~allowed].any()
        expected = draws * wanted[allowed]
        chi = ((counts[allowed] - expected) ** 2 / expected).sum()
        freedom = allowed.sum() - 1
        assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


def test_where_no_words_are_marked_each_token_is_one() -> None:
    plain = MaskVocabulary(MASK, VOCABULARY.maskable, np.zeros(V, bool), marks_words=False)
    tokens, segments = random_rows(200, 32, seed=5, framed=False)
    keys = row_keys(jax.random.key(0), jnp.asarray(tokens))
    _, labels = jax.jit(lambda: choose_words(keys, jnp.asarray(tokens), jnp.asarray(segments), plain, 0.5, limit=32))()
    fate, goes_on = np.asarray(labels) >= 0, VOCABULARY.continues[tokens[:, 1:]] & (segments[:, 1:] > 0)
    assert 0.4 < (fate[:, 1:] != fate[:, :-1])[goes_on].mean() < 0.6
