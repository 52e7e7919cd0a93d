"""Texts that are the same or nearly so: which records are known already."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from jaxfm.data.corpora.deduplication import normalised

SIMILARITY = 0.8
"""Share of the character n-grams of two texts that both have (Jaccard), from which on they are near-identical."""
_GRAM = 5  # characters
_WORD = re.compile(r"\w+")


def record_text(record: Mapping[str, Any]) -> str:
    """Returns the text of a record, of words with a space between, and its second text after a line end."""
    text = record["text"] if record.get("text") is not None else " ".join(record["tokens"])
    return f"{text}\n{record['pair']}" if record.get("pair") else str(text)


def text_key(text: str) -> str:
    """Returns what is equal of texts that differ in case, punctuation and white space alone."""
    plain = normalised(text)
    words = _WORD.findall(plain)
    return " ".join(words) if words else plain


class NearTexts:
    """Texts chosen so far, of which each other one can be asked whether it is nearly one of them."""

    def __init__(self, similarity: float = SIMILARITY):
        """Takes the Jaccard similarity from which on texts are near-identical."""
        self._similarity = similarity
        self._grams: list[frozenset[str]] = []

    def add(self, text: str) -> bool:
        """Adds a text unless it is near one that was added before; returns whether it was added."""
        grams = _grams(text_key(text))
        for other in self._grams:
            small, large = sorted((len(grams), len(other)))
            if small < self._similarity * large:  # the similarity is at most small / large
                continue
            shared = len(grams & other)
            if shared >= self._similarity * (small + large - shared):
                return False
        self._grams.append(grams)
        return True


def keys_of(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Returns the keys of records' texts."""
    return {text_key(record_text(record)) for record in records}


def _grams(key: str) -> frozenset[str]:
    return frozenset(key[start : start + _GRAM] for start in range(max(len(key) - _GRAM + 1, 1)))
