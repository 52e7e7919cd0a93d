"""Checks of tagged sentences before training: sizes, repeats, labels, and tags that are wrong by plain rules."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding, Lengths
from jaxfm.data.records.sources import TaggedSentence, TaggedSplit
from jaxfm.data.text.resplit import gold_entities
from jaxfm.data.text.tagging import entity_spans
from jaxfm.observe.tables import Table
from jaxfm.tasks import text_checks
from jaxfm.tasks.text_checks import LENGTH_COLUMNS, CheckedText, LabelCounts, length_row, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Sentences = Mapping[str, Sequence[TaggedSentence]]
SHORT_SENTENCE = 4  # words; shorter ones ("Yes .", datelines) repeat by chance
LONG_ENTITY = 10  # words; longer ones mostly are two, or a tag O is missing
# Share of the mentions that are tagged otherwise than their form mostly is, from which it is a warning: some forms do
# mean two things ("Washington").
MANY_DISAGREE = 0.05
_FORM_WORDS = 5  # the longest form that is looked for where it is not tagged
# Not the full stop, with which abbreviations end, nor what encloses words, as titles are written.
_EDGE = frozenset(",;:!?")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def check_tagged(
    read: Mapping[str, TaggedSplit],
    sentences: Sentences,
    pieces: Mapping[str, Sequence[Sequence[Sequence[int]]]],
    tokenizer: "PreTrainedTokenizerFast",
    window: int,
    max_positions: int,
) -> DataCheck:
    """Runs all checks of tagged sentences.

    Args:
      read: the splits as read, "train" first.
      sentences: the same with the words that the model reads.
      pieces: the pieces of their words.
      tokenizer: that made them.
      window: tokens that are read at once.
      max_positions: of the encoder.
    """
    flat = {split: [[piece for word in words for piece in word] for words in found] for split, found in pieces.items()}
    lengths = {split: np.asarray([2 + len(row) for row in rows], np.int64) for split, rows in flat.items()}
    longest = {split: sentences[split][int(found.argmax())].origin for split, found in lengths.items()}
    types = {split: _types(found) for split, found in sentences.items()}
    long_enough = {
        split: [
            CheckedText(" ".join(one.words), " ".join(one.tags), one.origin)
            for one in found
            if len(one.words) >= SHORT_SENTENCE
        ]
        for split, found in sentences.items()
    }
    findings = (
        text_checks.check_repairs(
            {split: found.repairs for split, found in read.items()},
            {split: found.broken for split, found in read.items()},
        ),
        *text_checks.check_texts(long_enough, f"sentences (of at least {SHORT_SENTENCE} words)"),
        *text_checks.check_labels(types, "entity types"),
        check_forms(sentences),
        check_edges(sentences),
        check_long_entities(sentences),
        text_checks.check_lengths(lengths, window, max_positions, "cut into windows", longest),
        text_checks.check_unknown(flat, tokenizer),
    )
    sizes = [
        (split, len(found), sum(len(one.words) for one in found), sum(types[split].counts.values()))
        + length_row(lengths[split])
        for split, found in sentences.items()
    ]
    columns = ("split", "sentences", "words", "entities", *LENGTH_COLUMNS)
    tables = (Table("Splits", columns, sizes), text_checks.label_table(types, "Entities", "type"))
    return DataCheck(tables, findings, {split: Lengths(each, window, True) for split, each in lengths.items()})


def _types(sentences: Sequence[TaggedSentence]) -> LabelCounts:
    return LabelCounts.of([(kind, one.origin) for one in sentences for _, _, kind in entity_spans(one.tags)])


def check_forms(sentences: Sentences) -> Finding:
    """Checks for forms that are tagged in more than one way, not tagged being one of them; over all splits."""
    forms: dict[tuple[str, ...], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    places: dict[tuple[tuple[str, ...], str], str] = {}
    every = [one for found in sentences.values() for one in found]
    for one in every:
        for start, end, kind in entity_spans(one.tags):
            forms[one.words[start:end]][kind] += 1
            places.setdefault((one.words[start:end], kind), one.origin)
    by_length = collections.defaultdict(set)
    for form in forms:
        if len(form) <= _FORM_WORDS:
            by_length[len(form)].add(form)
    for one in every:
        for form in _untagged(one, by_length):
            forms[form]["O"] += 1
            places.setdefault((form, "O"), one.origin)
    mixed = {form: counts for form, counts in forms.items() if len(counts) > 1}
    against = {form: counts.total() - max(counts.values()) for form, counts in mixed.items()}
    mentions = sum(counts.total() for counts in forms.values())
    if not mixed:
        return Finding("ok", "tags of a form", "each form is tagged in one way")
    share = sum(against.values()) / mentions
    message = (
        f"{len(mixed):,} of {len(forms):,} forms are tagged in several ways: {sum(against.values()):,} of {mentions:,} "
        f"mentions ({share:.1%}) otherwise than their form mostly is"
    )
    if share <= MANY_DISAGREE:
        return Finding("ok", "tags of a form", message)
    examples = []
    for form in sorted(mixed, key=lambda form: -against[form]):
        counts = ", ".join(
            f"{'not tagged' if kind == 'O' else kind} {count:,} (first: {places[form, kind]})"
            for kind, count in mixed[form].most_common()
        )
        examples.append(f"{shown(' '.join(form))!r}: {counts}")
    fix = "decide what the guideline says of these, and tag every mention alike"
    return Finding("warning", "tags of a form", message, fix, tuple(examples))


def _untagged(sentence: TaggedSentence, by_length: Mapping[int, set[tuple[str, ...]]]) -> Iterator[tuple[str, ...]]:
    """Yields the known forms that a sentence has outside its entities, the longest of those that overlap."""
    words, tags, at = sentence.words, sentence.tags, 0
    lengths = sorted(by_length, reverse=True)
    while at < len(words):
        for length in lengths:
            form = words[at : at + length]
            if form in by_length[length] and all(tag == "O" for tag in tags[at : at + length]):
                yield form
                at += length
                break
        else:
            at += 1


def check_edges(sentences: Sentences) -> Finding:
    """Checks for entities that start or end with punctuation."""
    places = []
    for found in sentences.values():
        for one in found:
            for text in _entity_texts(one):
                if _has_loose_edge(text):
                    places.append(f"{one.origin}: {shown(text)!r}")
    if not places:
        return Finding("ok", "edges of entities", "none starts or ends with punctuation")
    message = f"entities that start or end with punctuation: {len(places):,}"
    return Finding("warning", "edges of entities", message, "leave it out of the entity", tuple(places))


def _entity_texts(sentence: TaggedSentence) -> list[str]:
    spans = gold_entities(sentence)
    if sentence.marked is not None:
        return [sentence.marked.text[start:end] for start, end, _ in spans]
    return [" ".join(sentence.words[start:end]) for start, end, _ in spans]


def _has_loose_edge(text: str) -> bool:
    if text[0] in _EDGE or text[-1] in _EDGE:
        return True
    return any(
        (text[0] == first and last not in text) or (text[-1] == last and first not in text)
        for first, last in _PAIRS.items()
    )


def check_long_entities(sentences: Sentences) -> Finding:
    """Checks for entities of more than `LONG_ENTITY` words."""
    places = [
        f"{one.origin}: {end - start} words: {shown(' '.join(one.words[start:end]))}"
        for found in sentences.values()
        for one in found
        for start, end, _ in entity_spans(one.tags)
        if end - start > LONG_ENTITY
    ]
    if not places:
        return Finding("ok", "long entities", f"none has more than {LONG_ENTITY} words")
    message = f"entities of more than {LONG_ENTITY} words: {len(places):,}"
    return Finding("warning", "long entities", message, "look whether a tag O is missing after them", tuple(places))
