"""Sentences whose source gives entities in characters: words by the run's rule, scores by characters."""

import dataclasses
from collections.abc import Iterable, Sequence

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.records.spans import CharSpan, MarkedText, mark_words
from jaxfm.data.text.tagging import Span, entity_spans
from jaxfm.data.text.words import FINE, nearest_splitter, words_of

AUTO = "auto"


def choose_splitter(asked: str, sentences: Sequence[TaggedSentence]) -> tuple[str, str]:
    """Returns the rule that a new run splits raw text by, and one line for the log.

    Args:
      asked: a rule, or "auto": "fine" where entities are given in characters, else what comes nearest to the words.
      sentences: those of training.
    """
    if asked != AUTO:
        return asked, f'words of raw text: "{asked}", as task.splitter says'
    if any(sentence.marked for sentence in sentences):
        return FINE, f'words of raw text: "{FINE}" (task.splitter), each mark a word: entities are given in characters'
    nearest = nearest_splitter(sentence.words for sentence in sentences)
    return nearest, f'words of raw text: "{nearest}" (task.splitter), which comes nearest to the words of train'


def split_again(sentences: Iterable[TaggedSentence], splitter: str) -> tuple[TaggedSentence, ...]:
    """Returns the sentences with the words that the rule splits their texts into; given words stay as they are."""
    return tuple(sentence if sentence.marked is None else _split(sentence, splitter) for sentence in sentences)


def _split(sentence: TaggedSentence, splitter: str) -> TaggedSentence:
    assert sentence.marked is not None
    text, spans, offsets = sentence.marked
    found = tuple(words_of(text, splitter))
    if found == tuple(offsets):
        return sentence
    return dataclasses.replace(
        sentence,
        words=tuple(text[start:end] for start, end in found),
        tags=tuple(mark_words(found, spans).tags),
        marked=MarkedText(text, spans, found),
    )


def found_entities(sentence: TaggedSentence, tags: Sequence[str]) -> list[Span]:
    """Returns the entities that tags of its words say, as `gold_entities` has them."""
    spans = entity_spans(tags)
    if sentence.marked is None:
        return spans
    offsets = sentence.marked.offsets
    return [(offsets[first][0], offsets[end - 1][1], kind) for first, end, kind in spans]


def gold_entities(sentence: TaggedSentence) -> list[Span]:
    """Returns the entities of a sentence in words or, where they are given in characters, in these.

    An entity that starts or ends inside a word stays as it is given: no tags of words can say it, so it counts as
    missed. What no word has (a zero-width space, say) does not belong to it.
    """
    if sentence.marked is None:
        return entity_spans(sentence.tags)
    return [inner or span for span, inner in _inner(sentence.marked)]


def count_cut(sentences: Iterable[TaggedSentence]) -> int:
    """Returns the number of entities that start or end inside a word."""
    marked = (sentence.marked for sentence in sentences if sentence.marked is not None)
    return sum(inner is None for text in marked for _, inner in _inner(text))


def _inner(marked: MarkedText) -> list[tuple[CharSpan, CharSpan | None]]:
    """Returns each entity, and the same from its first word to its last; None where it is not of whole words."""
    result: list[tuple[CharSpan, CharSpan | None]] = []
    word, offsets = 0, marked.offsets
    for start, end, kind in marked.spans:
        while word < len(offsets) and offsets[word][1] <= start:
            word += 1
        last = word
        while last < len(offsets) and offsets[last][0] < end:
            last += 1
        whole = word < last and offsets[word][0] >= start and offsets[last - 1][1] <= end
        result.append(((start, end, kind), (offsets[word][0], offsets[last - 1][1], kind) if whole else None))
    return result
