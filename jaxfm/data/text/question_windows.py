"""Questions with their contexts to windows: a question and a part of its context each, every span read once.

A context that does not fit beside its question becomes several windows that share tokens. A span of the context lies in
several of them at times; it belongs to the one in which its poorer side has most context, as a word does elsewhere
(`jaxfm.data.text.windows`), and is scored there alone.
"""

# E questions, W windows, L tokens of a window's context, n tokens of a context, K longest span in tokens

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxfm.data.text.tokenization import TextPieces, encode_with_offsets
from jaxfm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LEAST_CONTEXT = 16  # tokens of a context that a window must have room for


class PairTemplate(NamedTuple):
    """The special tokens of a pair of texts, and the token types of both texts.

    Attributes:
      before: ids before the first text.
      between: between the texts.
      after: after the second one.
      types: of `before`, the first text, `between` (a type each), the second text, `after`.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]]

    @property
    def special(self) -> int:
        """Number of special tokens."""
        return len(self.before) + len(self.between) + len(self.after)


def pair_template(tokenizer: "PreTrainedTokenizerFast") -> PairTemplate:
    """Returns what a tokenizer adds to a pair of texts."""
    encoding = tokenizer(["a"], ["a"], return_attention_mask=False, verbose=False).encodings[0]  # type: ignore[index]
    of = list(encoding.sequence_ids)
    first, second = of.index(0), of.index(1)
    end_first, end_second = len(of) - of[::-1].index(0), len(of) - of[::-1].index(1)
    ids, types = list(encoding.ids), list(encoding.type_ids)
    assert ids[:first] and None not in of[first:end_first] + of[second:end_second], "a pair is two runs of pieces"
    return PairTemplate(
        tuple(ids[:first]),
        tuple(ids[end_first:second]),
        tuple(ids[end_second:]),
        (
            tuple(types[:first]),
            types[first],
            tuple(types[end_first:second]),
            types[second],
            tuple(types[end_second:]),
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionWindows:
    """Windows of questions, in the order of the questions and then of the context; all lists run over windows.

    Attributes:
      tokens: int32 piece ids, special tokens included.
      types: int32 token types.
      question: int [W], index of the question.
      first: int [W], place of the first context token in the window.
      start: int [W], index of that token in the whole context.
      size: int [W], context tokens of the window, L.
      contexts: pieces of each question's context, with the offset of each in characters [E].
      cut: bool [E], whether the question was longer than allowed, so that its end is not read.
    """

    tokens: list[np.ndarray]
    types: list[np.ndarray]
    question: np.ndarray
    first: np.ndarray
    start: np.ndarray
    size: np.ndarray
    contexts: tuple[TextPieces, ...]
    cut: np.ndarray


def make_question_windows(
    tokenizer: "PreTrainedTokenizerFast",
    questions: Sequence[str],
    contexts: Sequence[str],
    *,
    max_length: int,
    overlap: int,
    max_question: int,
) -> QuestionWindows:
    """Tokenizes questions and contexts and cuts the contexts.

    Args:
      tokenizer: of the weights; each context is tokenized once, however many questions are asked of it.
      questions: one for each context.
      contexts: whole.
      max_length: of a window, special tokens included.
      overlap: tokens that neighbouring windows of a context share, at most half of the room that the question leaves.
      max_question: tokens of a question that are read; the rest is cut.

    Raises:
      UserError: windows too short for a question and some context.
    """
    template = pair_template(tokenizer)
    asked = encode_with_offsets(tokenizer, questions)
    unique = {context: number for number, context in enumerate(dict.fromkeys(contexts))}
    pieces = encode_with_offsets(tokenizer, list(unique))
    room = max_length - template.special
    if room < 2 * _LEAST_CONTEXT:
        raise UserError(
            f"config.data.window: {max_length} tokens leave no room for a question and its context: at least "
            f"{2 * _LEAST_CONTEXT + template.special}."
        )
    longest = min(max_question, room // 2)
    columns: list[tuple[int, int, int, int]] = []
    tokens, types = [], []
    before, of_question, between, of_context, after = template.types
    for number, (question, context) in enumerate(zip(asked, contexts, strict=True)):
        whole = pieces[unique[context]].ids
        own = question.ids[:longest]
        budget = room - len(own)
        stride = budget - min(overlap, budget // 2)
        head = (*template.before, *own, *template.between)
        head_types = (*before, *[of_question] * len(own), *between)
        for start in range(0, max(len(whole) - (budget - stride), 1), stride):
            part = whole[start : start + budget]
            tokens.append(np.asarray([*head, *part, *template.after], np.int32))
            types.append(np.asarray([*head_types, *[of_context] * len(part), *after], np.int32))
            columns.append((number, len(head), start, len(part)))
    table = np.asarray(columns, np.int64).reshape(-1, 4)
    return QuestionWindows(
        tokens=tokens,
        types=types,
        question=table[:, 0],
        first=table[:, 1],
        start=table[:, 2],
        size=table[:, 3],
        contexts=tuple(pieces[unique[context]] for context in contexts),
        cut=np.asarray([len(question.ids) > longest for question in asked], bool),
    )


def span_owner(starts: Sequence[int], sizes: Sequence[int], first: int, last: int) -> int:
    """Returns which of a context's windows owns the span from token `first` to `last`; -1: none has it whole.

    That is the window in which the poorer side of the span has most context; of equals the first.
    """
    best, owner = -1, -1
    for number, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        poorer = min(first - start, start + size - 1 - last)
        if poorer > best:
            best, owner = poorer, number
    return owner


def span_scores(
    starts: Sequence[int], sizes: Sequence[int], logits: Sequence[np.ndarray], length: int, longest: int
) -> np.ndarray:
    """Returns the score of every span of a context, [n, K]: of the tokens i to i + k, by the window that owns it.

    The score is the start logit of its first token and the end logit of its last; -inf where a span ends after the
    context, or lies whole in no window.

    Args:
      starts: of each window in the context.
      sizes: context tokens of each window.
      logits: of each window's context tokens [L, 2], starts and ends.
      length: of the context in tokens, n.
      longest: K.
    """
    scores = np.full((length, longest), -np.inf, np.float64)
    contexts = np.full((length, longest), -1, np.int64)
    k = np.arange(longest)
    for start, size, logits_L2 in zip(starts, sizes, logits, strict=True):
        i = np.arange(size)[:, None]
        last = i + k
        poorer = np.minimum(i, size - 1 - last)
        own = poorer > contexts[start : start + size]
        found = logits_L2[:, 0, None].astype(np.float64) + logits_L2[np.minimum(last, size - 1), 1]
        scores[start : start + size][own] = found[own]
        contexts[start : start + size][own] = poorer[own]
    return scores
