"""Masks against their definition: a sequential oracle, statistics over a million tokens, meshes, vocabularies."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfm.core.objective import Loss, LossContext
from jaxfm.data.text import masking
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.masking import SPAN_TOKENS, UNITS, WORD_TOKENS, Masking, mask_tokens
from jaxfm.observe.metrics import weighted
from jaxfm.training.state import TrainState
from jaxfm.training.step import make_train_step

SPECIALS, PIECES, UNUSED = 5, 120, 3
PAD, CLS, SEP, MASK = 0, 2, 3, 4
V = SPECIALS + PIECES + UNUSED
# Pieces 5..64 start words, 65..124 go on with them.
VOCABULARY = MaskVocabulary(
    mask_id=MASK,
    maskable=(np.arange(V) >= SPECIALS) & (np.arange(V) < SPECIALS + PIECES),
    continues=(np.arange(V) >= 65) & (np.arange(V) < SPECIALS + PIECES),
)
Arrays = tuple[np.ndarray, np.ndarray]


def random_rows(rows: int, length: int, seed: int, *, framed: bool, starts: float = 0.7) -> Arrays:
    """Tokens and segments [rows, length]: 0 to 7 segments a row, with or without special tokens around, then padding.

    A piece starts a word with the probability `starts`.
    """
    draw = np.random.default_rng(seed)
    pieces = np.where(
        draw.random((rows, length)) < starts,
        draw.integers(5, 65, (rows, length)),
        draw.integers(65, 125, (rows, length)),
    )
    tokens, segments = np.full((rows, length), PAD), np.zeros((rows, length), int)
    for row in range(rows):
        ends = np.sort(draw.integers(0, length + 1, draw.integers(0, 8)))
        for number, (first, end) in enumerate(itertools.pairwise([0, *ends]), start=1):
            tokens[row, first:end], segments[row, first:end] = pieces[row, first:end], number
            if framed and end - first >= 2:
                tokens[row, first], tokens[row, end - 1] = CLS, SEP
    return tokens.astype(np.int32), segments.astype(np.int32)


# Everything but the unit is traced, and few shapes are used: compiling takes longer than all else here.
@functools.partial(jax.jit, static_argnames="unit")
def masked(
    key: jax.Array,
    tokens: jax.Array,
    segments: jax.Array,
    ratio: jax.Array | float,
    *,
    unit: str,
    limit: Any,
    mask_share: Any = 0.8,
    random_share: Any = 0.1,
) -> tuple[jax.Array, jax.Array]:
    how = Masking(unit, mask_share, random_share)
    return mask_tokens(key, tokens, segments, VOCABULARY, how, ratio=ratio, limit=limit)


def numpy_masked(seed: int, rows: Arrays, ratio: float, **options: Any) -> Arrays:
    """(tokens with some hidden, labels) on the host."""
    hidden, labels = masked(jax.random.key(seed), *rows, ratio, **options)
    return np.asarray(hidden), np.asarray(labels)


# The choice, unit after unit.


def words_of(tokens: np.ndarray, segments: np.ndarray) -> list[list[int]]:
    """The places of each word of a row, in order."""
    words: list[list[int]] = []
    for place, (token, segment) in enumerate(zip(tokens.tolist(), segments.tolist(), strict=True)):
        if segment == 0 or not VOCABULARY.maskable[token]:
            continue
        goes_on = words and words[-1][-1] == place - 1 and segments[place - 1] == segment
        if goes_on and VOCABULARY.continues[token] and len(words[-1]) < WORD_TOKENS:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def units_of(tokens: np.ndarray, segments: np.ndarray, unit: str, lengths: np.ndarray) -> list[list[int]]:
    """The places of each unit that may be hidden, in the order of their first tokens."""
    words = words_of(tokens, segments)
    if unit == "token":
        return [[place] for word in words for place in word]
    if unit == "whole_word":
        return words
    spans = []
    for first, word in enumerate(words):
        span = list(word)
        for other in words[first + 1 : first + lengths[word[0]]]:
            if other[0] != span[-1] + 1 or segments[other[0]] != segments[span[0]]:
                break
            if len(span) + len(other) > SPAN_TOKENS:
                break
            span += other
        spans.append(span)
    return spans


def oracle(key: jax.Array, rows: Arrays, unit: str, ratio: float, limit: int) -> np.ndarray:
    """Bool [B, T]: units are taken in the order of their draws until the count is reached, with a coin for the last."""
    order_key, length_key, coin_key, _, _ = jax.random.split(key, 5)
    shape = rows[0].shape
    order = np.asarray(jax.random.bits(order_key, shape, jnp.uint32) >> 1)
    uniform = np.asarray(jax.random.uniform(length_key, shape, minval=0.8**10), np.float64)
    lengths = 1 + sum((uniform < 0.8**words).astype(int) for words in range(1, 10))
    coins = np.asarray(jax.random.uniform(coin_key, shape))
    chosen = np.zeros(shape, bool)
    for row, (tokens, segments) in enumerate(zip(*rows, strict=True)):
        wanted = np.float32(ratio) * np.float32(np.sum(VOCABULARY.maskable[tokens] & (segments > 0)))
        seen: set[int] = set()
        units = units_of(tokens, segments, unit, lengths[row])
        for places in sorted(units, key=lambda places: order[row, places[0]]):
            new = [place for place in places if place not in seen]
            if not new:
                continue
            if len(seen) >= wanted or len(seen) + len(new) > limit:
                break
            if coins[row, places[0]] < (wanted - np.float32(len(seen))) / np.float32(len(new)):
                chosen[row, new] = True
            seen |= set(new)
    return chosen


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("unit", UNITS)
def test_the_choice_is_that_of_taking_units_one_by_one(unit: str, framed: bool) -> None:
    rows = random_rows(48, 80, seed=3 + framed, framed=framed)
    left_out = 0
    for seed, ratio, limit in ((0, 0.15, 80), (1, 0.4, 80), (2, 0.15, 8), (3, 0.6, 16)):
        wanted = oracle(jax.random.key(seed), rows, unit, ratio, limit)
        hidden, labels = numpy_masked(seed, rows, ratio, unit=unit, limit=limit)
        np.testing.assert_array_equal(labels >= 0, wanted)
        np.testing.assert_array_equal(labels[wanted], rows[0][wanted])
        np.testing.assert_array_equal(hidden[~wanted], rows[0][~wanted])
        assert wanted.sum(1).max() <= limit
        left_out += (wanted.sum(1) == limit).any()
    assert left_out  # the limit was met


@pytest.mark.parametrize("unit", ["whole_word", "span"])
def test_no_word_is_hidden_in_part(unit: str) -> None:
    rows = random_rows(48, 80, seed=5, framed=True)
    for limit in (80, 12):
        chosen = numpy_masked(0, rows, 0.3, unit=unit, limit=limit)[1] >= 0
        parts = [chosen[row, word] for row in range(48) for word in words_of(rows[0][row], rows[1][row])]
        assert all(part.all() or not part.any() for part in parts)
        assert any(len(part) > 2 and part.all() for part in parts)


def test_spans_stay_within_their_segment() -> None:
    # Segments of three words side by side, no special token between, and hardly more than a span a row.
    segments = (np.arange(80, dtype=np.int32) // 3 + 1)[None].repeat(48, 0)
    tokens = np.full((48, 80), 7, np.int32)
    parts = [numpy_masked(seed, (tokens, segments), 1.5 / 80, unit="span", limit=80)[1] >= 0 for seed in range(12)]
    chosen = np.concatenate(parts)
    # Whole segments are hidden together far more often than across an edge (where two spans meet by chance).
    pairs = chosen[:, 1:] & chosen[:, :-1]
    edge = segments[0, 1:] != segments[0, :-1]
    assert pairs[:, ~edge].mean() > 5 * pairs[:, edge].mean()


def test_span_lengths_are_geometric_up_to_ten_words() -> None:
    # Every 20th word's span comes first by far, so that no other covers any of its words.
    shape = (64, 2000)
    first = np.zeros(shape, bool)
    first[:, ::20] = True
    draws = np.where(first, np.arange(2000), 2**30 + np.arange(2000)).astype(np.uint32)
    own = np.broadcast_to(np.arange(2000, dtype=np.int32), shape)
    whole = jnp.ones(shape, bool)
    owner = masking._span_owners(jax.random.key(3), draws, whole, own, jnp.ones(shape, jnp.int32), whole)
    lengths = (np.asarray(owner).reshape(64, 100, 20) == np.arange(0, 2000, 20)[:, None]).sum(-1).ravel()
    share = 0.2 * 0.8 ** np.arange(10)
    expected = len(lengths) * share / share.sum()
    counts = np.bincount(lengths, minlength=11)
    assert counts[0] == 0 and len(counts) == 11
    assert np.sum((counts[1:] - expected) ** 2 / expected) < 9 + 5 * math.sqrt(2 * 9)
    assert abs(lengths.mean() - 3.797) < 5 * lengths.std() / math.sqrt(len(lengths))  # SpanBERT's 3.8


# A million places.

ROWS, LENGTH = 2400, 512


def deviation(by_row: np.ndarray) -> float:
    """How many standard deviations a sum of independent rows, each expected to be 0, lies from 0."""
    by_row = np.asarray(by_row, np.float64)
    return abs(by_row.sum()) / math.sqrt((by_row**2).sum())


@pytest.fixture(scope="module")
def million() -> Arrays:
    rows = random_rows(ROWS, LENGTH, seed=11, framed=True)
    assert (rows[1] > 0).sum() > 750_000 and rows[0].size > 1_000_000
    return rows


@pytest.mark.parametrize(
    "unit", ["whole_word", *(pytest.param(unit, marks=pytest.mark.slow) for unit in UNITS if unit != "whole_word")]
)
def test_statistics_over_a_million_places(unit: str, million: Arrays) -> None:
    ratio = 0.15
    tokens, segments = million
    maskable = VOCABULARY.maskable[tokens] & (segments > 0)
    hidden, labels = numpy_masked(1, million, ratio, unit=unit, limit=LENGTH)
    chosen = labels >= 0
    assert not chosen[~maskable].any()
    np.testing.assert_array_equal(labels[chosen], tokens[chosen])
    np.testing.assert_array_equal(hidden[~chosen], tokens[~chosen])
    # The share: exact on average, and never far off in any row.
    wanted = ratio * maskable.sum(1)
    assert deviation(chosen.sum(1) - wanted) < 5
    assert np.abs(chosen.sum(1) - wanted).max() < {"token": 1, "whole_word": 12, "span": 60}[unit]
    assert abs(chosen.sum() / maskable.sum() - ratio) < 0.0015
    # 80 % the mask, 10 % another token, 10 % (and the few random ones that are equal) as they were.
    ordinary = SPECIALS + np.arange(PIECES)
    equal_by_chance = 0.1 / PIECES
    of_row = chosen.sum(1)
    assert deviation((chosen & (hidden == MASK)).sum(1) - 0.8 * of_row) < 5
    assert deviation((chosen & (hidden == tokens)).sum(1) - (0.1 + equal_by_chance) * of_row) < 5
    replaced = chosen & (hidden != MASK) & (hidden != tokens)
    assert np.isin(hidden[replaced], ordinary).all()
    # Replacements are uniform over the ordinary tokens other than the one that stood there.
    counts = np.bincount(hidden[replaced], minlength=V)[ordinary]
    originals = np.bincount(tokens[replaced], minlength=V)[ordinary]
    expected = (replaced.sum() - originals) / (PIECES - 1)
    assert np.sum((counts - expected) ** 2 / expected) < PIECES - 1 + 5 * math.sqrt(2 * (PIECES - 1))
    # Other places for another key (step, epoch): two choices have no more in common than chance has it.
    other = numpy_masked(2, million, ratio, unit=unit, limit=LENGTH)[1] >= 0
    assert abs((other & chosen).sum() / chosen.sum() - ratio) < 0.01
    # At the places that a step has room for next to nothing is lost.
    limit = masking.max_predictions(unit, ratio, LENGTH)
    cut = numpy_masked(1, million, ratio, unit=unit, limit=limit)[1] >= 0
    assert cut.sum(1).max() <= limit and cut.sum() > 0.995 * chosen.sum()


def test_a_span_has_one_fate_and_tokens_have_their_own() -> None:
    tokens = np.full((48, 80), 7, np.int32)
    segments = np.ones_like(tokens)

    def changes(unit: str) -> float:
        parts = [numpy_masked(seed, (tokens, segments), 0.3, unit=unit, limit=80) for seed in range(10)]
        hidden, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        chosen, mask = labels >= 0, hidden == MASK
        pairs = chosen[:, 1:] & chosen[:, :-1]
        return float((mask[:, 1:] != mask[:, :-1])[pairs].mean())

    assert abs(changes("token") - 2 * 0.8 * 0.2) < 0.03
    assert changes("span") < 0.16


@pytest.mark.parametrize(("mask_share", "random_share"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_shares_at_their_ends(mask_share: float, random_share: float) -> None:
    rows = random_rows(48, 80, seed=4, framed=True)
    shares = {"mask_share": mask_share, "random_share": random_share}
    hidden, labels = numpy_masked(0, rows, 0.9, unit="token", limit=80, **shares)
    chosen = labels >= 0
    assert chosen.sum() > 1000
    if mask_share:
        assert (hidden[chosen] == MASK).all()
    elif random_share:
        counts = np.bincount(hidden[chosen], minlength=V)[SPECIALS : SPECIALS + PIECES]
        assert counts.sum() == chosen.sum()
        assert np.sum((counts - counts.mean()) ** 2 / counts.mean()) < PIECES - 1 + 5 * math.sqrt(2 * (PIECES - 1))
    else:
        np.testing.assert_array_equal(hidden, rows[0])


def test_a_ratio_may_change_while_a_run_goes_on() -> None:
    rows = random_rows(48, 80, seed=6, framed=False)
    maskable = (rows[1] > 0).sum(1)
    shares = []
    for ratio in (0.3, 0.225, 0.15):  # one compiled function
        chosen = numpy_masked(0, rows, ratio, unit="token", limit=80)[1] >= 0
        assert np.abs(chosen.sum(1) - ratio * maskable).max() < 1
        shares.append(chosen.sum() / maskable.sum())
    np.testing.assert_allclose(shares, (0.3, 0.225, 0.15), atol=0.008)


def test_rows_of_padding_hide_nothing() -> None:
    rows = (np.full((48, 80), PAD, np.int32), np.zeros((48, 80), np.int32))
    for unit in UNITS:
        assert (numpy_masked(0, rows, 0.9, unit=unit, limit=80)[1] == -1).all()


# Text without spaces: words of any length.


def long_words(kind: str) -> Arrays:
    """Rows [48, 80] in which few or no pieces start a word."""
    draw = np.random.default_rng(12)
    inside = draw.integers(65, 125, (48, 80))
    starts = {"one word": 0.0, "long words": 0.04, "mixed": np.where(np.arange(80) < 40, 0.8, 0.0)}
    tokens = np.where(draw.random((48, 80)) < starts.get(kind, 1.0), draw.integers(5, 65, (48, 80)), inside)
    segments = np.ones((48, 80), int)
    if kind == "rows of one token":
        tokens[:, 3:], segments[:, 3:] = PAD, 0
    else:
        tokens[::2, 70:], segments[::2, 70:] = PAD, 0  # rows of two lengths
    tokens[:, 0] = CLS
    tokens[np.arange(48), segments.sum(1) - 1] = SEP
    return tokens.astype(np.int32), segments.astype(np.int32)


@pytest.mark.parametrize("kind", ["one word", "long words", "mixed", "rows of one token"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_share_is_exact_whatever_the_length_of_words(unit: str, kind: str) -> None:
    rows = long_words(kind)
    maskable = VOCABULARY.maskable[rows[0]] & (rows[1] > 0)
    limit, off = masking.max_predictions(unit, 0.15, 80), []
    for seed in range(40):
        labels = numpy_masked(seed, rows, 0.15, unit=unit, limit=limit)[1]
        np.testing.assert_array_equal(labels, numpy_masked(seed, rows, 0.15, unit=unit, limit=80)[1])
        off.append((labels >= 0).sum(1) - 0.15 * maskable.sum(1))
    assert deviation(np.concatenate(off)) < 5
    without = np.mean(np.concatenate(off) + 0.15 * np.tile(maskable.sum(1), 40) == 0)
    assert abs(without - 0.85) < 0.05 if kind == "rows of one token" else without < 0.45
    if kind != "rows of one token" and unit != "token":
        assert np.abs(np.concatenate(off)).max() > 4  # units of several tokens, not tokens
    wanted = oracle(jax.random.key(3), rows, unit, 0.15, limit)
    np.testing.assert_array_equal(numpy_masked(3, rows, 0.15, unit=unit, limit=limit)[1] >= 0, wanted)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_layout_of_segments(data: st.DataObject) -> None:
    """Nothing special is masked, nothing in part, nothing across a segment, and the places of a row always suffice."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    starts, specials = (data.draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]), label=name) for name in ("starts", "special"))
    tokens = np.where(draw.random((48, 80)) < starts, draw.integers(5, 65, (48, 80)), draw.integers(65, 125, (48, 80)))
    tokens[draw.random((48, 80)) < specials * 0.5] = SEP
    borders = draw.random((48, 80)) < data.draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]), label="borders")
    segments = 1 + np.cumsum(borders, axis=1)
    segments[np.arange(80) >= draw.integers(0, 81, (48, 1))] = 0
    rows = tokens.astype(np.int32), segments.astype(np.int32)
    unit = data.draw(st.sampled_from(UNITS), label="unit")
    ratio = np.float32(data.draw(st.sampled_from([0.01, 0.15, 0.4, 0.9]), label="ratio"))
    seed = data.draw(st.integers(0, 2**31), label="key")
    limit = masking.max_predictions(unit, float(ratio), 80)
    hidden, labels = numpy_masked(seed, rows, ratio, unit=unit, limit=limit)
    chosen = labels >= 0
    maskable = VOCABULARY.maskable[rows[0]] & (rows[1] > 0)
    assert not (chosen & ~maskable).any() and chosen.sum(1).max() <= limit
    np.testing.assert_array_equal(hidden[~chosen], rows[0][~chosen])
    np.testing.assert_array_equal(labels[chosen], rows[0][chosen])
    np.testing.assert_array_equal(labels, numpy_masked(seed, rows, ratio, unit=unit, limit=80)[1])  # none is left out
    longest = {"token": 1, "whole_word": WORD_TOKENS, "span": SPAN_TOKENS}[unit]
    assert np.abs(chosen.sum(1) - ratio * maskable.sum(1)).max() < longest + 1e-3
    if unit != "token":
        parts = [chosen[row, word] for row in range(0, 48, 8) for word in words_of(rows[0][row], rows[1][row])]
        assert all(part.all() or not part.any() for part in parts)


# Devices and micro-batches.


@pytest.mark.parametrize(("unit", "counts"), [("token", (4,)), ("whole_word", (2,)), ("span", (1, 2, 4))])
def test_masks_do_not_depend_on_the_mesh(unit: str, counts: tuple[int, ...]) -> None:
    rows = random_rows(48, 80, seed=8, framed=True)
    wanted = numpy_masked(5, rows, 0.2, unit=unit, limit=24)
    for count in counts:
        sharding = NamedSharding(Mesh(np.asarray(jax.devices()[:count]), ("data",)), PartitionSpec("data"))
        placed = tuple(jax.device_put(array, sharding) for array in rows)
        hidden, labels = numpy_masked(5, placed, 0.2, unit=unit, limit=24)
        np.testing.assert_array_equal(hidden, wanted[0])
        np.testing.assert_array_equal(labels, wanted[1])


@pytest.mark.parametrize(("accumulate", "counts"), [(1, (2,)), (2, (1, 4))])
def test_masks_of_a_step_are_a_function_of_its_number(accumulate: int, counts: tuple[int, ...]) -> None:
    """Micro-batch i of A has rows i, i + A, ... and the i-th part of the step's key, on any mesh."""
    rows = random_rows(16, 64, seed=9, framed=True)
    digits = np.arange(rows[0].size, dtype=np.int32).reshape(rows[0].shape) % 251

    def loss(params: Any, batch: Any, context: LossContext) -> Loss:
        hidden, labels = mask_tokens(
            context.key, batch["tokens"], batch["segment_ids"], VOCABULARY, Masking("token"), ratio=0.3, limit=32
        )
        total = ((labels >= 0) * batch["digits"] + (hidden == MASK) * 1.0).sum()
        return Loss(params["x"] * 0.0, jnp.float32(1.0), {"total": weighted(total)})

    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(loss, optimizer, total_steps=4, accumulate=accumulate))
    seen = []
    for count in counts:
        mesh = Mesh(np.asarray(jax.devices()[:count]), ("data",))
        batch = {"tokens": rows[0], "segment_ids": rows[1], "digits": digits}
        batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
        params = {"x": jnp.float32(1.0)}
        state = TrainState(
            step=jnp.int32(3),
            params=params,
            opt_state=optimizer.init(params),
            key=jax.random.key_data(jax.random.key(7)),
        )
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        zeros = {name: jnp.zeros(2) for name in ("total", "loss", "gradient_norm", "skipped")}
        _, sums = step(state, jax.device_put(zeros, NamedSharding(mesh, PartitionSpec())), batch)
        seen.append(float(sums["total"][0]))
    key = jax.random.fold_in(jax.random.key(7), 3)
    wanted = 0.0
    for part, part_key in enumerate(jax.random.split(key, accumulate) if accumulate > 1 else [key]):
        own = tuple(array[part::accumulate] for array in rows)
        hidden, labels = masked(part_key, *own, 0.3, unit="token", limit=32)
        wanted += ((np.asarray(labels) >= 0) * digits[part::accumulate] + (np.asarray(hidden) == MASK)).sum()
    assert seen == [wanted] * len(counts)


# Places.


def test_max_predictions_holds_the_wanted_tokens() -> None:
    for unit in UNITS:
        for length in (8, 48, 128, 1000, 8192):
            for ratio in (0.01, 0.15, 0.3, 0.9):
                limit = masking.max_predictions(unit, ratio, length)
                assert math.ceil(ratio * length) <= limit <= length
                assert limit == length or limit % 8 == 0
    assert masking.max_predictions("token", 0.15, 128) == 24


def test_target_places() -> None:
    labels = jnp.asarray([[-1, 5, -1, 0, 9, -1], [-1, -1, -1, -1, -1, 3], [1, 2, 3, 4, 5, 6]])
    places, targets = masking.target_places(labels, 3)
    np.testing.assert_array_equal(targets, [[5, 0, 9], [3, -1, -1], [1, 2, 3]])
    assert places[0].tolist() == [1, 3, 4] and int(places[1, 0]) == 5 and places[2].tolist() == [0, 1, 2]
    assert places.shape == (3, 3)
