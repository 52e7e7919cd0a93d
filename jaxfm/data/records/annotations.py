"""One JSON object of tagged words or of a text with its entities, in the forms that labelling tools and data sets have.

    {"tokens": [...], "ner_tags": ["B-PER", ...]}                                   words and tags
    {"tokenized_text": [...], "ner": [[0, 1, "PER"]]}                               GLiNER: words, both ends inclusive
    {"text": "...", "entities": [{"start": 0, "end": 12, "label": "PER"}]}          and as [0, 12, "PER"]
    {"text": "...", "label": [[0, 12, "PER"]]}, {"entities": [{"start_offset"...}]} doccano
    {"text": "...", "spans": [...], "answer": "accept"}                             Prodigy
    {"data": {"text": "..."}, "annotations": [{"result": [...]}]}                   Label Studio
    {"text": "...", "label": [{"start", "end", "text", "labels": ["PER"]}]}         Label Studio, JSON-MIN
    {"text": "...", "label": {"PER": {"Ada": [[0, 2]]}}}                            CLUENER: both ends inclusive
    ["...", {"entities": [[0, 12, "PER"]]}]                                         spaCy 2

Offsets count characters, the end exclusive but where said. They are never guessed: where an entity has its text too,
this must be the text at its offsets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxfm.data.records.spans import CharSpan
from jaxfm.data.records.table import choose_column, listed, require_text, shown
from jaxfm.data.records.tagged_builder import TAGS_COLUMNS, WORDS_COLUMNS, Columns, SplitBuilder, name_tags
from jaxfm.errors import UserError

TEXT_COLUMNS = ("text", "sentence", "content", "data")
SPAN_COLUMNS = ("entities", "spans", "labels", "label", "annotations", "ner")
_MOST_DIGITS = 18  # of an offset
_STARTS = ("start", "start_offset", "start_char", "begin")
_ENDS = ("end", "end_offset", "end_char", "stop")
_LABELS = ("label", "labels", "type", "entity_group", "entity", "tag", "category")
_SURFACES = ("text", "surface", "value", "mention")
_FORMS = (
    "words with their tags (tokens and ner_tags) or a text with its entities (text and entities, spans, label or "
    "labels: [[start, end, type], ...])"
)


class Fields(NamedTuple):
    """What a source says of its fields: the user's columns, and names of class numbers by field."""

    columns: Columns
    class_names: Mapping[str, Sequence[str]]


def add_record(
    split: SplitBuilder, record: Mapping[str, Any], fields: Fields, origin: str, document: Any = None
) -> None:
    """Adds one object to a split; one that its annotator rejected or never saw is left out and counted.

    Raises UserError naming `origin` for an object of no form, and for values of the wrong kind.
    """
    if record.get("answer", "accept") != "accept":
        split.count("rejected or ignored records (Prodigy's answer) left out", origin)
        return
    if _is_task(record):
        text, values = _label_studio(split, record, origin)
        if values is not None:
            split.add_text(text, [_span(value, text, origin) for value in values], origin, document)
        return
    columns = list(record)
    if {"tokenized_text", "ner"} <= record.keys():
        words = _words(record["tokenized_text"], "tokenized_text", origin)
        spans = [(*_token_span(value, origin, inclusive=True),) for value in _list(record["ner"], "ner", origin)]
        _add_token_spans(split, words, spans, origin, document)
        return
    text_field, span_field = _span_fields(record, fields.columns)
    if text_field:
        text = require_text(record[text_field], text_field, origin)
        spans = _spans(record.get(span_field), span_field, text, origin)
        split.add_text(text, spans, origin, document)
        return
    in_words = next((field for field in ("entities", "spans") if _is_objects(record.get(field))), "")
    if "tokens" in record and in_words and not fields.columns.tags_column:
        words = _words(record["tokens"], "tokens", origin)
        spans = [_token_span(value, origin, inclusive=False) for value in record[in_words]]
        _add_token_spans(split, words, spans, origin, document)
        return
    if not fields.columns.words_column and not set(WORDS_COLUMNS) & set(columns):
        raise UserError(
            f"{origin}: fields of no known form: {listed(columns)}. A record holds {_FORMS}; data.words_column and "
            "data.tags_column name fields with other names, of lists of words and tags."
        )
    words_field = choose_column(columns, fields.columns.words_column, WORDS_COLUMNS, "words", origin)
    tags_field = choose_column(columns, fields.columns.tags_column, TAGS_COLUMNS, "tags", origin)
    words = _words(record[words_field], words_field, origin)
    tags = name_tags(_list(record[tags_field], tags_field, origin), fields.class_names.get(tags_field), origin)
    split.add(words, tags, origin, document)


def _list(values: Any, field: str, origin: str) -> list[Any]:
    if not isinstance(values, list):
        raise UserError(f"{origin}: {field!r} is of type {type(values).__name__}, but must be a list.")
    return values


def _words(values: Any, field: str, origin: str) -> list[str]:
    return [require_text(word, field, origin) for word in _list(values, field, origin)]


# --- words with entities in words ---


def _token_span(value: Any, origin: str, *, inclusive: bool) -> tuple[int, int, str]:
    start, end, label = _parts(value, origin)
    return start, end + inclusive, label


def _add_token_spans(
    split: SplitBuilder, words: list[str], spans: Sequence[tuple[int, int, str]], origin: str, document: Any
) -> None:
    for start, end, label in spans:
        if not 0 <= start < end <= len(words):
            raise UserError(f"{origin}: the entity {start}..{end} ({label}) is not inside the {len(words)} words.")
    split.add_spans(words, spans, origin, document)


# --- a text with entities in characters ---


def _span_fields(record: Mapping[str, Any], columns: Columns) -> tuple[str, str]:
    """The field of the text and that of its entities, "" and "" for a record of another form."""
    if columns.words_column or columns.tags_column:
        text, spans = columns.words_column, columns.tags_column
        if not (isinstance(record.get(text), str) and _is_spans(record.get(spans))):
            return "", ""
        return text, spans
    text = next((field for field in TEXT_COLUMNS if isinstance(record.get(field), str)), "")
    if not text or (_has_plain_list(record, WORDS_COLUMNS) and _has_plain_list(record, TAGS_COLUMNS)):
        return "", ""
    fitting = [field for field in SPAN_COLUMNS if field in record and _is_spans(record[field])]
    filled = [field for field in fitting if record[field]] or fitting
    if filled:
        return text, filled[0]
    if {"answer", "_input_hash", "annotation_id"} & record.keys():  # a tool's record with no entity in it
        return text, "spans"
    return "", ""


def _is_spans(values: Any) -> bool:
    """Whether a value is a list of entities by offsets, or CLUENER's object; an empty list may be."""
    if isinstance(values, dict):
        return all(isinstance(value, dict) for value in values.values())
    return isinstance(values, list) and all(
        isinstance(value, dict) or (isinstance(value, list) and len(value) >= 3) for value in values
    )


def _has_plain_list(record: Mapping[str, Any], fields: Sequence[str]) -> bool:
    values = [record[field] for field in fields if isinstance(record.get(field), list)]
    return any(value and not isinstance(value[0], dict | list) for value in values)


def _is_objects(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def _spans(values: Any, field: str, text: str, origin: str) -> list[CharSpan]:
    if values is None:
        return []
    if not isinstance(values, dict):
        return [_span(value, text, origin) for value in _list(values, field, origin)]
    spans = []
    for label, mentions in values.items():
        if not isinstance(mentions, dict):
            raise UserError(f"{origin}: {shown(mentions)} in {field!r} is not an object of mentions and their offsets.")
        for surface, offsets in mentions.items():
            for pair in _list(offsets, field, origin):
                if not (isinstance(pair, list) and len(pair) == 2 and all(type(at) is int for at in pair)):
                    raise UserError(f"{origin}: {shown(pair)} in {field!r} is not [first character, last character].")
                _same_text(text, pair[0], pair[1] + 1, label, surface, origin)
                spans.append((pair[0], pair[1] + 1, label))
    return spans


def _span(value: Any, text: str, origin: str) -> CharSpan:
    start, end, label = _parts(value, origin)
    if isinstance(value, dict):
        surface = next((value[field] for field in _SURFACES if isinstance(value.get(field), str)), None)
        if surface is not None:
            _same_text(text, start, end, label, surface, origin)
    return start, end, label


def _offset(value: Any) -> Any:
    """Returns a number for the text of one, as tables have them; anything else as it is."""
    is_number = isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS
    return int(value) if is_number else value


def _parts(value: Any, origin: str) -> tuple[int, int, str]:
    """Start, end and label of one entity, however they are named."""
    if isinstance(value, dict):
        found = [_first(value, fields) for fields in (_STARTS, _ENDS, _LABELS)]
    else:
        found = list(value[:3]) if isinstance(value, list) and len(value) >= 3 else [None] * 3
    start, end, label = found
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    elif isinstance(label, list) and label:
        raise UserError(f"{origin}: the entity {shown(value)} has {len(label)} labels; a word has one tag: choose one.")
    start, end = _offset(start), _offset(end)
    if type(start) is not int or type(end) is not int or not isinstance(label, str):
        raise UserError(
            f'{origin}: {shown(value)} is not an entity: {{"start": 0, "end": 5, "label": "PER"}} or [0, 5, "PER"], in '
            "characters, end exclusive."
        )
    return start, end, label


def _first(value: Mapping[str, Any], fields: Sequence[str]) -> Any:
    return next((value[field] for field in fields if value.get(field) is not None), None)


def _same_text(text: str, start: int, end: int, label: str, surface: str, origin: str) -> None:
    """Raises UserError unless the offsets of an entity give the text that it names, but for white space."""
    found = text[start:end] if 0 <= start < end <= len(text) else ""
    if found.split() != surface.split():
        raise UserError(
            f"{origin}: the entity {start}..{end} ({label}) says {shown(surface)}, but these characters are "
            f"{shown(found)}. Offsets count characters, end exclusive: not bytes, nor UTF-16 units."
        )


# --- Label Studio's JSON ---


def _is_task(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("data"), dict) and bool({"annotations", "completions", "predictions"} & record.keys())


def _label_studio(split: SplitBuilder, record: Mapping[str, Any], origin: str) -> tuple[str, list[Any] | None]:
    """The text of a task and its entities; None for a task that nobody has annotated."""
    data = record["data"]
    texts = {field: value for field, value in data.items() if isinstance(value, str)}
    annotations = _list(record.get("annotations", record.get("completions")) or [], "annotations", origin)
    done = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if not done:
        split.count("tasks without an annotation left out", origin)
        return "", None
    split.count("tasks with several annotations, of which the first is read", origin, int(len(done) > 1))
    values = []
    for result in _list(done[0].get("result"), "result", origin):
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict) or "start" not in value or "end" not in value:
            continue
        if labels := value.get("labels", value.get("hypertextlabels")):
            whole = value.get("globalOffsets")  # of the text; the others may be of a paragraph of it
            values.append({**value, **(whole if isinstance(whole, dict) else {}), "label": labels})
    named = next((field for field in TEXT_COLUMNS if field in texts), None)
    if named is None and len(texts) != 1:
        raise UserError(f"{origin}: which field of 'data' is the text? Fields: {listed(data)}.")
    text = texts[named] if named else next(iter(texts.values()))
    return require_text(text, "data", origin), values
