"""A document of plain text, and how one that is too long is cut."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

DOCUMENT_CHARACTERS = 1_000_000
"""The length of the longest document: what is longer in its source becomes several."""

_WHITE_SPACE = " \t\u3000"  # the ideographic space too


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One document: text that is not blank, without white space around it, and where it was read.

    Attributes:
        text: at most DOCUMENT_CHARACTERS long.
        origin: "dir/train.txt:12" (its first line) or "tfds:lm1b/train[17]".
    """

    text: str
    origin: str


class Texts:
    """The texts of a split: goes through it anew each time it is iterated over."""

    def __init__(self, read: Callable[[], Iterator[Document]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[str]:
        return (document.text for document in self._read())


class Streams(NamedTuple):
    """What a source of documents has: what reads each split, anew at every call, and lines for the log."""

    splits: Mapping[str, Callable[[], Iterator[Document]]]
    notes: tuple[str, ...]


def uniform_hash(text: str) -> float:
    """Returns a number in [0, 1), a fixed function of the text: what draws a share of documents in no order."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def cut_text(text: str) -> Iterator[str]:
    """Yields a text in pieces of at most DOCUMENT_CHARACTERS, nothing left out, the last one shorter.

    A piece ends after a line if one ends in its second half, else after white space in it, else where it is full.
    """
    start = 0
    while len(text) - start > DOCUMENT_CHARACTERS:
        half, full = start + DOCUMENT_CHARACTERS // 2, start + DOCUMENT_CHARACTERS
        at = text.rfind("\n", half, full)
        if at < 0:
            at = max(text.rfind(space, half, full) for space in _WHITE_SPACE)
        end = full if at < 0 else at + 1
        yield text[start:end]
        start = end
    yield text[start:]


def whole_documents(text: str, origin: str) -> Iterator[Document]:
    """Yields a text as one document, as several where it is too long, and as none where it is blank."""
    for piece in cut_text(text):
        if stripped := piece.strip():
            yield Document(stripped, origin)


def joined_documents(fragments: Iterable[tuple[int, str, bool]], path: str) -> Iterator[Document]:
    """Yields the documents of fragments (line number, text, whether a document ends with it), read one at a time.

    The last fragment must end a document. Holds at most a document and a fragment.
    """
    parts: list[str] = []
    size = first = 0
    for number, fragment, last in fragments:
        if not parts:
            first = number
        if fragment:
            parts.append(fragment)
            size += len(fragment)
        if not last and size <= DOCUMENT_CHARACTERS:
            continue
        *full, rest = cut_text("".join(parts))
        if last:
            full, rest = [*full, rest], ""
        for piece in full:
            if stripped := piece.strip():
                yield Document(stripped, f"{path}:{first}")
            first += piece.count("\n")
        parts, size = [rest] if rest else [], len(rest)
