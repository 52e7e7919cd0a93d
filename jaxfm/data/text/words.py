"""Raw text to words with character offsets: the one rule of training, evaluation and prediction.

Two rules, of which a run has one (task.json keeps it):

- "fine": every punctuation mark and symbol is a word, as it is for BERT's tokenizers, so that an entity can start or
  end at each of them. Entities that are given in characters are learned from these words.
- "coarse": the words of news corpora such as CoNLL-2003 ("New York-based", "U.N.", "3.5" stay whole), for models that
  learned from such words.

No rule ever sees an entity.
"""

import collections
import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from jaxfm.errors import UserError, did_you_mean

FINE, COARSE = SPLITTERS = ("fine", "coarse")


def words_of(text: str, splitter: str = FINE) -> list[tuple[int, int]]:
    """Returns the words of a raw text as (start, end) offsets in characters, in order, none overlapping.

    Fine: white space, control characters and invisible marks (zero-width space, byte order mark, writing direction) are
    between words; letters and digits with their combining marks, joiners and soft hyphens form a word; each other
    character is a word, an emoji with all that it is joined to. A character of a script without spaces (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese) is a word, and so is a unit after its number (10km, 5mg).

    Coarse: splits at white space, peels punctuation off both ends, splits the English possessive, takes each Chinese or
    Japanese character alone; punctuation inside a word and abbreviations stay. Every character but white space is in a
    word.

    Raises UserError for an unknown splitter.
    """
    if splitter == FINE:
        return list(_fine(text))
    if splitter == COARSE:
        return list(_coarse(text))
    raise UserError(f"no rule {splitter!r} splits text into words. {did_you_mean(splitter, SPLITTERS)}")


def nearest_splitter(sentences: Iterable[Sequence[str]]) -> str:
    """Returns the splitter that keeps more of these words, given by a corpus, as they are.

    A word that "fine" would cut ("York-based", "3.5") speaks for "coarse", a mark of the inside of words that is a word
    by itself between two others ("York", "-", "based") for "fine". A tie is "coarse".
    """
    votes: collections.Counter[str] = collections.Counter()
    for words in sentences:
        for index, word in enumerate(words):
            if word in _INNER_MARKS:
                votes[FINE] += 0 < index < len(words) - 1 and words[index - 1].isalnum() and words[index + 1].isalnum()
            elif not word.isalnum() and len(words_of(word)) > 1:
                votes[COARSE] += len(words_of(word, COARSE)) == 1
    return FINE if votes[FINE] > votes[COARSE] else COARSE


# Fine.

_UNITS = (
    "mm cm dm km nm mi ft yd kg mg µg μg ng mcg lb lbs oz ml dl cl mmol mol mph kmh kph Hz hz kHz khz MHz mhz GHz ghz "
    "kB KB MB GB TB kb mb gb tb kW MW GW kWh mV kV IU kcal kJ kPa bn mn EUR USD GBP CHF"
).split()
_NUMBER_AND_UNIT = re.compile(rf"([0-9]+)(?:{'|'.join(_UNITS)})")

# Scripts without spaces: Thai and Lao, Burmese, Khmer, kana, Chinese characters and what repeats them.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\uaa60-\uaa7f\ua9e0-\ua9ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003347f"
)
# Invisible, and not a part of a word: spaces of no width, writing directions, byte order marks, annotations.
_INVISIBLE = "\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"


@functools.cache
def _fine_pattern() -> re.Pattern[str]:
    """Built from the Unicode tables, as `re` has no class of combining marks and counts them to no word."""
    invisible = re.compile(f"[{_INVISIBLE}]")
    # Marks and format characters lie in the first two planes and in plane 14. 1F3FB to 1F3FF colour the skin of emoji.
    extends: list[list[int]] = []
    for code in (*range(0x80, 0x20000), *range(0xE0000, 0xE0200)):
        character = chr(code)
        category = unicodedata.category(character)
        if not (category[0] == "M" or category == "Cf" or 0x1F3FB <= code <= 0x1F3FF) or invisible.match(character):
            continue
        if extends and code == extends[-1][1] + 1:
            extends[-1][1] = code
        else:
            extends.append([code, code])
    extend = "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in extends)
    between = rf"\s\x00-\x1f\x7f-\x9f{_INVISIBLE}"
    letter = rf"(?![{_ALONE}])[^\W_]"
    flag = "[\U0001f1e6-\U0001f1ff]{2}"
    return re.compile(
        rf"[{_ALONE}][{extend}]*"
        rf"|{letter}(?:{letter}|[{extend}])*"
        rf"|{flag}"
        rf"|[^{between}](?:[{extend}]|(?<=\u200d)[^\w{between}])*"
    )


def _fine(text: str) -> Iterator[tuple[int, int]]:
    for match in _fine_pattern().finditer(text):
        start, end = match.span()
        unit = _NUMBER_AND_UNIT.fullmatch(text, start, end)
        if unit:
            yield start, unit.end(1)
            start = unit.end(1)
        yield start, end


# Coarse. The rules aim at the tokens of CoNLL-2003 and of most other tagged corpora.

_INNER_MARKS = frozenset("-/&@.'_+*:\u2019\u2013\u00b4")
_ABBREVIATION = re.compile(r"(?:[^\W\d_]\.){2,}")  # U.N.  e.g.  p.m.
_ABBREVIATIONS = frozenset(
    "mr. mrs. ms. dr. prof. sen. rep. gov. gen. col. sgt. st. jr. sr. inc. corp. co. ltd. bros. no. vs.".split()
)
_POSSESSIVE = re.compile(r"['\u2019][sS]$")
# Written without spaces: BERT's tokenizers take ideographs one by one, tagged corpora the kana too.
_CJK = re.compile("[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


def _coarse(text: str) -> list[tuple[int, int]]:
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
