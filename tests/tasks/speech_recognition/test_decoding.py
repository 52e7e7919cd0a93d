"""Decoding and the loss against a sum over all alignments, written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.models.ctc import ctc_losses
from jaxfm.models.sound_steps import StepScores
from jaxfm.tasks.speech_recognition.decoding import Candidates, aligned, greedy, prefix_beam
from jaxfm.tasks.speech_recognition.symbols import characters, encoded, normalized, steps_needed


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a path without repetitions and then without blanks."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def every_transcript(log_probs_KV: np.ndarray) -> dict[tuple[int, ...], float]:
    """Returns each transcript with its probability, summed over all paths."""
    steps, symbols = log_probs_KV.shape
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(symbols), repeat=steps):
        share = float(np.exp(sum(log_probs_KV[step, symbol] for step, symbol in enumerate(path))))
        found[collapsed(path)] = found.get(collapsed(path), 0.0) + share
    return found


def drawn(seed: int, steps: int, symbols: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(steps, symbols)) * 2
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def candidates(log_probs_KV: np.ndarray, count: int | None = None) -> Candidates:
    order = np.argsort(-log_probs_KV[:, 1:], axis=1)[:, :count]
    return Candidates(order + 1, np.take_along_axis(log_probs_KV[:, 1:], order, axis=1), log_probs_KV[:, 0])


@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_the_likeliest_transcript(seed: int) -> None:
    log_probs_KV = drawn(seed, 6, 4)
    every = every_transcript(log_probs_KV)
    assert sum(every.values()) == pytest.approx(1)
    best = max(every, key=every.__getitem__)
    found, log_prob = prefix_beam(candidates(log_probs_KV), beams=10_000)
    assert found == best and np.exp(log_prob) == pytest.approx(every[best])


def test_the_search_knows_what_greedy_decoding_does_not() -> None:
    # A symbol that may be said at either of two steps is likelier than at neither.
    log_probs_KV = np.log(np.asarray([[0.6, 0.4], [0.6, 0.4]]))
    assert greedy(candidates(log_probs_KV)).ids == ()
    found, log_prob = prefix_beam(candidates(log_probs_KV), beams=4)
    assert found == (1,) and np.exp(log_prob) == pytest.approx(0.64)


def test_few_beams_and_candidates_leave_out_what_is_unlikely() -> None:
    for seed in range(20):
        log_probs_KV = drawn(seed, 6, 4)
        every = every_transcript(log_probs_KV)
        found, log_prob = prefix_beam(candidates(log_probs_KV, 2), beams=3)
        assert np.exp(log_prob) <= every[found] + 1e-9
        few = candidates(log_probs_KV)
        kept = few.log_probs_KN >= -2.0
        only = Candidates(few.ids_KN, np.where(kept, few.log_probs_KN, -np.inf), few.blank_K)
        assert prefix_beam(few, 100, least=-2.0) == prefix_beam(only, 100)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_decoding_is_the_likeliest_path(seed: int) -> None:
    log_probs_KV = drawn(seed, 7, 3)
    path = tuple(log_probs_KV.argmax(axis=1).tolist())
    said = greedy(candidates(log_probs_KV, 1))
    assert said.ids == collapsed(path)
    for symbol, (start, end) in zip(said.ids, said.spans, strict=True):
        assert set(path[start:end]) == {symbol}
        assert (start == 0 or path[start - 1] != symbol) and (end == len(path) or path[end] != symbol)


@pytest.mark.parametrize("seed", range(8))
def test_the_alignment_is_the_likeliest_one(seed: int) -> None:
    log_probs_KV = drawn(seed, 6, 4)
    for ids in ((1,), (1, 1), (2, 1, 3), (1, 1, 2)):
        paths = [path for path in itertools.product(range(4), repeat=6) if collapsed(path) == ids]
        best = max(paths, key=lambda path: sum(log_probs_KV[step, symbol] for step, symbol in enumerate(path)))
        wanted = [(each, len(list(run))) for each, run in itertools.groupby(best)]
        spans, step = [], 0
        for symbol, length in wanted:
            spans += [(step, step + length)] if symbol else []
            step += length
        assert aligned(candidates(log_probs_KV), ids).spans == tuple(spans)
    assert aligned(candidates(log_probs_KV), ()).spans == ()


def test_the_loss_is_the_sum_over_all_alignments() -> None:
    log_probs = np.stack([drawn(seed, 5, 4) for seed in range(4)])
    valid = np.arange(5) < np.asarray([5, 4, 3, 5])[:, None]
    labels = np.asarray([[1, 2, 0], [1, 1, 0], [3, 2, 1], [0, 0, 0]], np.int32)
    wanted = []
    for each, steps, label in zip(log_probs, valid.sum(axis=1).tolist(), labels, strict=True):
        ids = tuple(label[label > 0].tolist())
        wanted.append(-np.log(every_transcript(each[:steps])[ids]) if ids else 0.0)
    # Two clips a row; logits need not be normalised.
    logits = jnp.asarray(log_probs + 3.0, jnp.float32).reshape(2, 2, 5, 4)

    def loss(logits: jax.Array) -> jax.Array:
        return ctc_losses(StepScores(logits, jnp.asarray(valid).reshape(2, 2, 5)), jnp.asarray(labels).reshape(2, 2, 3))

    np.testing.assert_allclose(loss(logits).ravel(), wanted, rtol=1e-5)
    gradient = np.asarray(jax.grad(lambda logits: loss(logits).sum())(logits)).reshape(4, 5, 4)
    assert np.isfinite(gradient).all() and np.abs(gradient[:3][valid[:3]]).max() > 0.01
    assert not gradient[~valid].any() and not gradient[3].any()


def test_the_fewest_steps_are_those_of_a_path() -> None:
    for labels in ((1,), (1, 1), (1, 2), (1, 1, 1), (1, 2, 2, 1)):
        shortest = next(
            steps
            for steps in range(1, 9)
            if any(collapsed(path) == labels for path in itertools.product(range(3), repeat=steps))
        )
        assert steps_needed(labels) == shortest
    assert steps_needed(()) == 0


def test_transcripts_are_brought_to_one_form() -> None:
    assert normalized("  Room\t7b\n", lower=True, spell_digits=True) == "room seven b"
    assert normalized("Room 7b", lower=False, spell_digits=False) == "Room 7b"
    assert normalized("e\u0301", lower=True, spell_digits=False) == "\u00e9"
    assert characters(["ba", "a c"]) == (" ", "a", "b", "c")
    assert encoded("abx", {"a": 1, "b": 2}) == [1, 2]
