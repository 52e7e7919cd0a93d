"""The words of a record to predict on: those that it has, or those of its text by a rule."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.data.text.words import words_of
from jaxfm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Words:
    """A text and its words.

    Attributes:
      text: the text; of words that were given without one, these with a space between.
      offsets: each word in characters of the text, end exclusive.
      given: the words where a record has them, else None.
    """

    text: str
    offsets: Sequence[tuple[int, int]]
    given: Sequence[str] | None = None

    @classmethod
    def of_record(cls, record: Mapping[str, Any], splitter: str) -> "Words":
        """Reads {"text": ...}, {"tokens": [...]} or both; UserError where the words are not those of the text."""
        if "tokens" not in record:
            text = str(record["text"])
            return cls(text, words_of(text, splitter))
        tokens = list(record["tokens"])
        if "text" not in record:
            ends = np.cumsum([len(token) + 1 for token in tokens], dtype=np.int64).tolist()
            offsets = [(end - 1 - len(token), end - 1) for token, end in zip(tokens, ends, strict=True)]
            return cls(" ".join(tokens), offsets, tokens)
        text, offsets, before = str(record["text"]), [], 0
        for number, token in enumerate(tokens):
            start = text.find(token, before)
            if start < 0 or text[before:start].strip():
                raise UserError(
                    f"{record.get('origin', 'a record')}: tokens[{number}] = {token!r} does not follow in the text, "
                    f"where {text[before : before + 20]!r} "
                    'does. Leave out "text", or give the tokens of this text, in order.'
                )
            before = start + len(token)
            offsets.append((start, before))
        return cls(text, offsets, tokens)
