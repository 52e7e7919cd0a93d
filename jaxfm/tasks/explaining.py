"""What explanations of several tasks share: the token that means nothing, tokens as characters of the input."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax

from jaxfm.core.explained import PROBABILITIES, SCORES, TokenPlace

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
