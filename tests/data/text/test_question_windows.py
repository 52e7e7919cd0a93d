"""Windows of questions: each as transformers would make it, and every span read by the one that owns it."""

# n tokens of a context, K longest span

import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxfm.data.text.question_windows import make_question_windows, pair_template, span_owner, span_scores
from jaxfm.data.text.tokenization import encode_with_offsets, load_tokenizer
from jaxfm.errors import UserError
from tests import tiny

QUESTIONS = ("met ada", "the old town", "went to")
CONTEXTS = ("ada saw the old town near hull .", "boole left . " * 12, "the old town")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    folder: pathlib.Path = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return load_tokenizer(folder)


def test_a_context_that_fits_is_what_the_tokenizer_makes_of_the_pair(tokenizer) -> None:
    windows = make_question_windows(tokenizer, QUESTIONS, CONTEXTS, max_length=200, overlap=8, max_question=64)
    assert windows.question.tolist() == [0, 1, 2] and not windows.cut.any()
    for number, pair in enumerate(zip(QUESTIONS, CONTEXTS, strict=True)):
        expected = tokenizer(*pair)
        assert windows.tokens[number].tolist() == expected["input_ids"]
        assert windows.types[number].tolist() == expected["token_type_ids"]
        first, size = windows.first[number], windows.size[number]
        assert [place for place, of in enumerate(expected.encodings[0].sequence_ids) if of == 1] == list(
            range(first, first + size)
        )


def test_a_long_context_is_cut_as_transformers_cuts_it(tokenizer) -> None:
    windows = make_question_windows(tokenizer, QUESTIONS[:2], CONTEXTS[:2], max_length=36, overlap=6, max_question=64)
    expected = tokenizer(
        list(QUESTIONS[:2]),
        list(CONTEXTS[:2]),
        truncation="only_second",
        max_length=36,
        stride=6,
        return_overflowing_tokens=True,
    )
    assert [each.tolist() for each in windows.tokens] == expected["input_ids"]
    assert windows.question.tolist() == expected["overflow_to_sample_mapping"]
    assert np.bincount(windows.question).tolist() == [1, 4]
    for tokens, question, start, first, size in zip(
        windows.tokens, windows.question, windows.start, windows.first, windows.size, strict=True
    ):
        own = windows.contexts[question].ids[start : start + size]
        assert tokens[first : first + size].tolist() == own


def test_a_long_question_is_cut_and_said(tokenizer) -> None:
    windows = make_question_windows(
        tokenizer, ["the old town " * 30, "met"], ["ada left .", "ada"], max_length=60, overlap=8, max_question=5
    )
    assert windows.cut.tolist() == [True, False]
    assert windows.first.tolist() == [1 + 5 + 1, 1 + 1 + 1]
    with pytest.raises(UserError, match="config.data.window: 20 tokens leave no room"):
        make_question_windows(tokenizer, ["a"], ["b"], max_length=20, overlap=2, max_question=5)


def test_the_template_of_a_pair(tokenizer) -> None:
    template = pair_template(tokenizer)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert template[:3] == ((cls,), (sep,), (sep,)) and template.types == ((0,), 0, (0,), 1, (1,))
    assert template.special == 3


def test_offsets_are_without_space(tokenizer) -> None:
    (found,) = encode_with_offsets(tokenizer, ["  ada  left"])
    assert ["  ada  left"[a:b] for a, b in found.offsets] == ["a", "d", "a", "left"]


@st.composite
def contexts(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """A context's length, and starts and sizes of windows that cover it."""
    length, budget = draw(st.integers(1, 24)), draw(st.integers(2, 10))
    stride = draw(st.integers(1, budget))
    starts = list(range(0, max(length - (budget - stride), 1), stride))
    return length, starts, [min(budget, length - start) for start in starts]


@hypothesis.given(contexts(), st.integers(1, 6), st.integers(0, 2**16))
@hypothesis.settings(deadline=None, max_examples=150)
def test_every_span_has_the_score_of_its_owner(
    windows: tuple[int, list[int], list[int]], longest: int, seed: int
) -> None:
    length, starts, sizes = windows
    draw = np.random.default_rng(seed)
    logits = [draw.normal(size=(size, 2)).astype(np.float32) for size in sizes]
    scores = span_scores(starts, sizes, logits, length, longest)
    assert scores.shape == (length, longest)
    for first in range(length):
        for k in range(longest):
            last = first + k
            owner = span_owner(starts, sizes, first, last) if last < length else -1
            if owner < 0:
                assert scores[first, k] == -np.inf
                continue
            start = starts[owner]
            # No window has more context on the poorer side.
            poorer = [
                min(first - s, s + n - 1 - last)
                for s, n in zip(starts, sizes, strict=True)
                if s <= first and last < s + n
            ]
            assert min(first - start, start + sizes[owner] - 1 - last) == max(poorer)
            expected = float(logits[owner][first - start, 0]) + float(logits[owner][last - start, 1])
            assert scores[first, k] == pytest.approx(expected, abs=1e-6)


@hypothesis.given(contexts())
@hypothesis.settings(deadline=None, max_examples=100)
def test_every_token_is_read(windows: tuple[int, list[int], list[int]]) -> None:
    length, starts, sizes = windows
    assert all(span_owner(starts, sizes, token, token) >= 0 for token in range(length))
