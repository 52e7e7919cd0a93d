"""Tagged sentences of a source: one URI, one shape of sentence, strict BIO, whatever the source uses."""

import dataclasses
import functools
import operator
import sys
from collections.abc import Callable, Mapping, Sequence

from jaxfm.data.records.conll import find_conll
from jaxfm.data.records.registry import open_tables, parse_source
from jaxfm.data.records.source_brat import find_brat
from jaxfm.data.records.spans import MarkedText
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import Table, Tables, memory_table
from jaxfm.data.records.tag_forms import find_form
from jaxfm.data.records.tagged_builder import DOCUMENT_COLUMNS, USUAL_COLUMNS, Columns, RawSentence, RawSplit, Splits
from jaxfm.data.records.tagged_tables import tagged_splits
from jaxfm.data.text import tagging
from jaxfm.errors import UserError

_PLACES = 3  # of broken tags that are remembered


@dataclasses.dataclass(frozen=True, slots=True)
class TaggedSentence:
    """One sentence.

    Attributes:
        words: at least one.
        tags: strict BIO (IOB2), one a word.
        document: number from 0 of its document in the split; sentences of one document are neighbours.
        origin: where it was read, "dir/train.conll:12" (the line of its first word) or "tfds:conll2003/train[17]".
        marked: the text that the words were split from, where the source has entities in characters.
        overlapping: the entities that tags and `marked` leave out as they overlap a longer one: in characters if
            `marked` is there, else in words.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    document: int
    origin: str
    marked: MarkedText | None = None
    overlapping: tuple[tagging.Span, ...] = ()


@dataclasses.dataclass(frozen=True)
class TaggedSplit:
    """One split.

    Attributes:
        sentences: in the order of the source.
        scheme: what the source is tagged in: BIO, IOB1, IO, BIOES or BILOU; one for all splits read together.
        note: one line for the log: what was read, converted, repaired and left out.
        repairs: what the reader changed or left out, a sentence each with the number and the first place.
        broken: the first places of tags that break the scheme: "dir/train.conll:12: I-PER of 'Ada' follows O".
    """

    sentences: tuple[TaggedSentence, ...]
    scheme: str
    note: str
    repairs: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


def available_splits(source: str, columns: Columns = USUAL_COLUMNS) -> tuple[str, ...]:
    """Returns which of train, valid and test a source has. Raises UserError for a source that cannot be opened."""
    found = _find(source, columns)
    return tuple(split for split in SPLIT_NAMES if split in found.readers)


def read_tagged(
    source: str, splits: Sequence[str] | None, *, columns: Columns = USUAL_COLUMNS, by: SplitKeys = NO_KEYS
) -> dict[str, TaggedSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them; None: all) of a source.

    Sources: `quickstart`, `conll:`, `brat:`, and all of `jaxfm/data/records/formats/`. Entities of any tag scheme
    become strict BIO; the scheme is found on all these splits together, since a small one may not show it. An I- that
    starts an entity in BIO data becomes B-. The columns of `by` are not taken for words or tags.
    Raises UserError: unknown source or split, a split absent or empty, and all that the source's reader finds.
    """
    found = _find(source, columns, by)
    raw: dict[str, RawSplit] = {}
    for name in [name for name in SPLIT_NAMES if name in found.readers] if splits is None else splits:
        split = require_split(name)
        if split not in found.readers:
            listed = ", ".join(split for split in SPLIT_NAMES if split in found.readers) or "none of the usual ones"
            held = f" ({found.found})" if found.found else ""
            raise UserError(f"{source} has no split {split!r}; it has: {listed}{held}.")
        raw[split] = found.readers[split]()
    seen: dict[str, str] = {}
    for split in reversed(raw.values()):
        seen |= split.tags
    form = find_form(seen, next(iter(raw.values())).hint if raw else "")
    if not form.usual:
        raw = {name: _in_usual_form(split, form.names) for name, split in raw.items()}
    try:
        scheme = tagging.detect_scheme(sentence.tags for split in raw.values() for sentence in split.sentences)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return {name: _finish(name, split, scheme, form.note) for name, split in raw.items()}


def _in_usual_form(raw: RawSplit, names: Mapping[str, str]) -> RawSplit:
    sentences = [sentence._replace(tags=[names[tag] for tag in sentence.tags]) for sentence in raw.sentences]
    return dataclasses.replace(raw, sentences=sentences)


def _finish(name: str, raw: RawSplit, scheme: str, form_note: str) -> TaggedSplit:
    sentences = []
    entities = broken = 0
    places: list[str] = []
    for sentence in raw.sentences:
        tags = sentence.tags
        if any(tag != "O" for tag in tags):
            spans = tagging.entity_spans(tags)
            entities += len(spans)
            strict = tagging.write_tags(spans, len(tags), scheme)
            wrong = sum(map(operator.ne, tags, strict))
            broken += wrong
            if wrong and len(places) < _PLACES:
                places.append(_first_broken(sentence, strict))
            tags = map(sys.intern, tagging.write_tags(spans, len(tags)))
        sentences.append(
            TaggedSentence(
                tuple(sentence.words),
                tuple(tags),
                sentence.document,
                sentence.origin,
                marked=sentence.marked,
                overlapping=sentence.overlapping,
            )
        )
    note = f"{name}: {len(sentences)} sentences, {entities} entities from {raw.source}; tags {scheme}"
    note += "" if scheme == "BIO" else ", converted to BIO"
    note += "".join(f"; {text}" for text in (form_note, *raw.notes) if text)
    if broken:
        note += f"; {broken} tags that break {scheme} repaired"
    if raw.documents == "marked":
        note += f"; {sentences[-1].document + 1} documents"
    elif raw.documents == "stream":
        note += "; document marks are lost in this source, so the split counts as one document in the order of its file"
    else:
        note += "; no document marks, so each sentence is its own document"
    if raw.dropped:
        note += f"; {raw.dropped} without a word left out"
    repairs = raw.counts
    repairs += (f"{broken} tags that break {scheme} repaired (first: {places[0]})",) if broken else ()
    repairs += (f"{raw.dropped} sentences without a word left out",) if raw.dropped else ()
    return TaggedSplit(tuple(sentences), scheme, note, repairs, tuple(places))


def _first_broken(sentence: RawSentence, strict: Sequence[str]) -> str:
    """Says which tag of a sentence is the first that its scheme would write otherwise, and where."""
    at = next(at for at, (tag, right) in enumerate(zip(sentence.tags, strict, strict=True)) if tag != right)
    before = f"follows {sentence.tags[at - 1]}" if at else "starts the sentence"
    return f"{sentence.origin}: {sentence.tags[at]} of {sentence.words[at]!r} {before}"


def _find(source: str, columns: Columns, by: SplitKeys = NO_KEYS) -> Splits:
    scheme, rest = parse_source(source, _OWN_FORMS)
    if scheme in _OWN_FINDERS:
        return _OWN_FINDERS[scheme](rest, columns)
    tables = _quickstart_tables() if scheme == "quickstart" else open_tables(scheme, rest, own=_OWN_FORMS)
    return tagged_splits(by.hide(tables, (*dataclasses.astuple(columns), *DOCUMENT_COLUMNS)), columns)


def _quickstart_tables() -> Tables:
    return Tables({split: functools.partial(_open_quickstart, split) for split in SPLIT_NAMES})


@functools.cache
def _quickstart_corpus() -> dict[str, list[tuple[list[str], list[str]]]]:
    from jaxfm.data.records import quickstart

    return quickstart.build(seed=0)


def _open_quickstart(split: str) -> Table:
    sentences = _quickstart_corpus()[split]
    rows = [(f"quickstart/{split}[{index}]", sentence) for index, sentence in enumerate(sentences)]
    return memory_table(f"quickstart/{split} (synthetic)", ("tokens", "ner_tags"), rows)


# Formats of tagged text alone: their files hold sentences, not rows with columns.
_OWN_FORMS = ("conll:DIR", "brat:DIR")
_OWN_FINDERS: dict[str, Callable[[str, Columns], Splits]] = {"conll": find_conll, "brat": find_brat}
