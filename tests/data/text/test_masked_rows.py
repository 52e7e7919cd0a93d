"""Held-out rows and their masks: a function of row and unit alone, whatever the batch, the cap and the run."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest

from jaxfm.data.arrays import ArrayDataset
from jaxfm.data.text import masked_rows, masking
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.masked_rows import MaskedRows, make_masker, mask_eval_rows
from jaxfm.data.text.masking import UNITS, Masking
from tests import tiny

PAD, CLS, SEP, MASK, V = 0, 2, 3, 4, 100
MARKS = MaskVocabulary(mask_id=MASK, maskable=np.arange(V) > 4, continues=np.arange(V) > 60)


def rows_of(count: int, length: int = 40, top: int = V) -> ArrayDataset:
    """Rows of two segments, the second one shorter from row to row, then padding."""
    draw = np.random.default_rng(1)
    tokens = draw.integers(5, top, (count, length))
    filled = length - 4 - np.arange(count) % 10
    place = np.arange(length)
    segments = np.where(place < 12, 1, 2) * (place < filled[:, None])
    tokens[:, [0, 12]], tokens[:, 11] = CLS, SEP
    tokens[np.arange(count), filled - 1] = SEP
    tokens = np.where(segments > 0, tokens, PAD)
    return tiny.text_dataset({"tokens": tokens, "segment_ids": segments}, PAD)


@pytest.fixture(scope="module")
def masked() -> Callable[..., MaskedRows]:
    masker = make_masker(MARKS, Masking("token"), 0.3, 40)
    return lambda rows, most=0, units=UNITS: mask_eval_rows(masker, rows, units, most)


@pytest.mark.slow
def test_a_row_is_masked_as_by_itself(masked: Callable[..., MaskedRows]) -> None:
    rows = rows_of(30)
    found = masked(rows)
    assert len(found) == 90 and found.row_length == 40 and found.spec["tokens"].fill == PAD
    batch = found.take(np.arange(90))
    for number, unit in enumerate(UNITS):
        key = jax.random.fold_in(jax.random.key(20181011), UNITS.index(unit))
        for row in (0, 7, 29):
            tokens, labels = masking.mask_tokens(
                jax.random.fold_in(key, row),
                rows.arrays["tokens"][[row]],
                rows.arrays["segment_ids"][[row]],
                MARKS,
                Masking(unit),
                ratio=0.3,
                limit=40,
            )
            np.testing.assert_array_equal(batch["tokens"][number * 30 + row], tokens[0])
            np.testing.assert_array_equal(batch["labels"][number * 30 + row], labels[0])
    np.testing.assert_array_equal(batch["segment_ids"], np.tile(rows.arrays["segment_ids"], (3, 1)))
    assert {values.dtype for values in batch.values()} == {np.dtype(np.int32)}
    some = np.array([31, 2, 89, 2])
    for name, values in found.take(some).items():
        np.testing.assert_array_equal(values, batch[name][some])


@pytest.mark.slow
def test_batches_of_any_size_give_the_same_masks(
    masked: Callable[..., MaskedRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(30)
    whole = masked(rows)
    for tokens in (40, 7 * 40):
        monkeypatch.setattr(masked_rows, "_TOKENS_AT_ONCE", tokens)
        parts = masked(rows)
        np.testing.assert_array_equal(parts.tokens, whole.tokens)
        np.testing.assert_array_equal(parts.chosen, whole.chosen)
        assert parts.fingerprint() == whole.fingerprint() and parts.shares("span") == whole.shares("span")


def test_a_cap_takes_rows_evenly_and_leaves_their_masks(masked: Callable[..., MaskedRows]) -> None:
    rows = rows_of(30)
    whole, some = masked(rows), masked(rows, 7)
    assert some.index.tolist() == [0, 4, 8, 12, 17, 21, 25] and len(some) == 21
    for unit in range(3):
        for name, values in some.take(unit * 7 + np.arange(7)).items():
            np.testing.assert_array_equal(values, whole.take(unit * 30 + some.index)[name])
    assert some.fingerprint() != whole.fingerprint()
    for most in (30, 31, 10**9, 0):
        assert masked(rows, most).fingerprint() == whole.fingerprint()
    assert masked(rows, 1).index.tolist() == [0]


def test_rows_are_numbered_alike_whatever_the_cap_and_the_units(masked: Callable[..., MaskedRows]) -> None:
    rows = rows_of(30)
    whole, span = (dataclasses.replace(masked(rows, *more), numbered=True) for more in ((), (5, ("span", "token"))))
    assert "row" not in masked(rows).take(np.arange(2))
    numbers = whole.take(np.arange(90))["row"]
    assert numbers.shape == (90, 1) and len(set(numbers.ravel().tolist())) == 90
    wanted = numbers.reshape(3, 30)[[UNITS.index("span"), UNITS.index("token")]][:, span.index]
    np.testing.assert_array_equal(span.take(np.arange(10))["row"].reshape(2, 5), wanted)


def test_shares_by_hand(masked: Callable[..., MaskedRows]) -> None:
    rows = rows_of(30)
    found = masked(rows)
    labels = found.take(np.arange(90))["labels"].reshape(3, 30, 40)
    for number, unit in enumerate(UNITS):
        shares = found.shares(unit)
        assert shares.targets == (labels[number] >= 0).sum() > 150
        assert shares.text == (rows.arrays["tokens"] > 4).sum() and shares.rows == 30
        assert shares.rows_without == (labels[number] < 0).all(1).sum()
        assert shares.share == shares.targets / shares.text and abs(shares.share - 0.3) < 0.05


def test_nothing_to_mask(masked: Callable[..., MaskedRows]) -> None:
    tokens = np.full((3, 40), CLS, np.int32)
    rows = tiny.text_dataset({"tokens": tokens, "segment_ids": np.ones_like(tokens)}, PAD)
    shares = masked(rows).shares("token")
    assert (shares.targets, shares.rows_without, shares.share) == (0, 3, 0.0)
    none = masked(tiny.text_dataset({name: values[:0] for name, values in rows.arrays.items()}, PAD))
    assert len(none) == 0 and len(none.take(np.arange(0))["tokens"]) == 0 and none.shares("span").share == 0.0


def test_large_vocabularies_keep_their_numbers() -> None:
    many = MaskVocabulary(MASK, np.arange(70_000) > 4, np.zeros(70_000, bool))
    rows = rows_of(4, top=70_000)
    found = mask_eval_rows(make_masker(many, Masking("token", 0.0, 0.0), 0.3, 40), rows, ("token",), 0)
    batch = found.take(np.arange(4))
    assert rows.arrays["tokens"].max() > 2**16 and found.tokens.dtype == np.int32
    np.testing.assert_array_equal(batch["tokens"], rows.arrays["tokens"])
    small = mask_eval_rows(make_masker(MARKS, Masking("token"), 0.3, 40), rows_of(4), ("token",), 0)
    assert small.tokens.dtype == np.uint16
