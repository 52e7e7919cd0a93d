"""What explanations of several tasks share: the token that means nothing, tokens as characters of the input."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.explained import PROBABILITIES, SCORES, TokenPlace
from jaxfm.data.text.words import words_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def baseline_token(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Returns the token that stands for "nothing is said here": the mask, which pretraining gave that meaning."""
    for token in (tokenizer.mask_token_id, tokenizer.pad_token_id):
        if isinstance(token, int):
            return token
    raise AssertionError("see check_tokenizer")


# What makes probabilities of numbers whose last axis are the classes.
_JUDGED = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "": lambda scores: scores}


def explained_arrays(scores: jax.Array, kind: str) -> dict[str, jax.Array]:
    """Returns scores [..., C] and the model's own probabilities, by "softmax", "sigmoid", or "": scores as they are."""
    return {SCORES: scores, PROBABILITIES: _JUDGED[kind](scores)}


def token_places(encoding: Any, fields: Sequence[str], row: int, start: int) -> tuple[TokenPlace, ...]:
    """Returns the tokens of a text, or a pair of texts, that are no special ones.

    Args:
      encoding: of the tokenizers library.
      fields: of the record: names of the first text and of the second.
      row: in which the tokens lie.
      start: place of the first one.
    """
    words: dict[Any, tuple[int, int]] = {}
    keys: list[Any] = list(zip(encoding.sequence_ids, encoding.word_ids, strict=True))
    for key, (first, end) in zip(keys, encoding.offsets, strict=True):
        if None not in key:
            known = words.get(key, (first, end))
            words[key] = (min(first, known[0]), max(end, known[1]))
    return tuple(
        TokenPlace(row, start + place, fields[int(key[0])], *words[key])
        for place, key in enumerate(keys)
        if key in words
    )


def piece_places(text: str, offsets: np.ndarray, field: str, row: int, start: int) -> list[TokenPlace]:
    """Returns the pieces of a text with the words that they are parts of, by the fine rule of `data.text.words`.

    Pieces that stand for no character are left out.

    Args:
      text: whole.
      offsets: of some of its pieces that follow each other, in characters, [n, 2].
      field: of the record.
      row: in which the tokens lie.
      start: place of the first one.
    """
    words = words_of(text)
    starts = np.asarray([first for first, _ in words], np.int64)
    found = []
    for place, (first, end) in enumerate(offsets.tolist()):
        if first == end:
            continue
        number = int(np.searchsorted(starts, first, side="right")) - 1
        inside = number >= 0 and first < words[number][1]
        found.append(TokenPlace(row, start + place, field, *(words[number] if inside else (first, end))))
    return found
