"""Raw text to words with character offsets: the one rule of training, evaluation and prediction."""

import re
import unicodedata
from collections.abc import Iterator

# The rules aim at the tokens of CoNLL-2003 and of most other tagged corpora.
_ABBREVIATION = re.compile(r"(?:[^\W\d_]\.){2,}")  # U.N.  e.g.  p.m.
_ABBREVIATIONS = frozenset(
    "mr. mrs. ms. dr. prof. sen. rep. gov. gen. col. sgt. st. jr. sr. inc. corp. co. ltd. bros. no. vs.".split()
)
_POSSESSIVE = re.compile(r"['\u2019][sS]$")
# Written without spaces: BERT's tokenizers take ideographs one by one, tagged corpora the kana too.
_CJK = re.compile("[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


def words_of(text: str) -> list[tuple[int, int]]:
    """Returns the words of a raw text as (start, end) offsets in characters, in order.

    Splits at white space, peels punctuation off both ends, splits the English possessive, takes each CJK character
    alone; punctuation inside a word and abbreviations stay. Every character but white space is in exactly one word.
    """
    spans: list[tuple[int, int]] = []
    for chunk in re.finditer(r"\S+", text):
        start = chunk.start()
        for character in _CJK.finditer(text, chunk.start(), chunk.end()):
            spans.extend(_split_chunk(text, start, character.start()))
            spans.append(character.span())
            start = character.end()
        spans.extend(_split_chunk(text, start, chunk.end()))
    return spans


def _split_chunk(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields the words of `text[start:end]`, which holds neither white space nor CJK characters, in order."""
    if _POSSESSIVE.fullmatch(text, start, end):  # already split off by whoever wrote the text
        yield start, end
        return
    while start < end and _is_punctuation(text[start]) and not _is_sigil(text, start, end):
        after = start + 1
        while after < end and (text[after] == text[start] or _is_mark(text[after])):  # "..." is one word
            after += 1
        yield start, after
        start = after
    trailing: list[tuple[int, int]] = []
    while (before := _trailing_punctuation(text, start, end)) < end:
        trailing.append((before, end))
        end = before
    possessive = _POSSESSIVE.search(text, start, end)
    if possessive and possessive.start() > start:
        yield start, possessive.start()
        yield possessive.span()
    elif start < end:
        yield start, end
    yield from reversed(trailing)


def _trailing_punctuation(text: str, start: int, end: int) -> int:
    """Where the last word of `text[start:end]` begins if it is punctuation to split off, else `end`."""
    last = end - 1
    while last > start and _is_mark(text[last]):
        last -= 1
    if last < start or not _is_punctuation(text[last]) or (text[last] == "." and _is_abbreviation(text[start:end])):
        return end
    while last > start and text[last - 1] == text[last]:
        last -= 1
    return last


def _is_mark(character: str) -> bool:
    """Whether the character only modifies the one before it (accents, emoji selectors and joiners)."""
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def _is_sigil(text: str, start: int, end: int) -> bool:
    """Whether the mark belongs to what follows it: @name, #topic, -5, +1."""
    follows = text[start + 1] if start + 1 < end else ""
    return (text[start] in "@#" and (follows.isalnum() or follows == "_")) or (
        text[start] in "+-" and follows.isdigit()
    )


def _is_abbreviation(word: str) -> bool:
    return word.lower() in _ABBREVIATIONS or _ABBREVIATION.fullmatch(word) is not None
