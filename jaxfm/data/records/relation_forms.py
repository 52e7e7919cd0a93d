"""One record of a text with related entities, in the forms that data sets and labelling tools have.

    {"sentence": "The <e1>audits</e1> were about <e2>waste</e2>.", "relation": ...}      marked (SemEval-2010 task 8)
    {"token": [...], "subj_start": 0, "subj_end": 1, "subj_type": "PER", "obj_...": ...}  TACRED: words, ends inclusive
    {"text": "...", "head": {"start": 0, "end": 3, "type": "PER"}, "tail": ..., "relation": ...}   and as [0, 3, "PER"]
    {"text": "...", "head_start": 0, "head_end": 3, "head_type": "PER", "tail_start": ...}         columns of a table
    {"text": "...", "entities": [{"id", "start", "end", "type"}], "relations": [{"head", "tail", "label"}]}

The last two also with "tokens" in place of "text"; positions then count words, ends exclusive. Offsets count characters
from 0, ends exclusive. They are never guessed: where an entity has its text too, this must be the text at its offsets,
and where a record has both text and tokens, an entity must start and end with a word.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxfm.data.records.table import listed, require_text, shown
from jaxfm.errors import UserError

TEXT_FIELDS = ("text", "sentence", "content")
RELATION_FIELDS = ("relation", "label", "predicate", "class")
_WORDS = ("tokens", "token", "words")
_HEADS = ("head", "subject", "subj", "e1", "h")
_TAILS = ("tail", "object", "obj", "e2", "t")
_STARTS = ("start", "start_offset", "start_char", "begin")
_ENDS = ("end", "end_offset", "end_char", "stop")
_TYPES = ("type", "label", "entity_group")
_FROM = ("head", "from_id", "from", "subject", "source")
_TO = ("tail", "to_id", "to", "object", "target")
_PAIR_LABELS = ("label", "type", "relation", "predicate")
_TAG = re.compile(r"<(/?)e([12])>")
_TACRED = ("subj_start", "subj_end", "obj_start", "obj_end")
# Fields of a record beside its text that say which entities are meant: what a program hands on as they are.
ENTITY_FIELDS = (
    *("head", "tail", "entities", "relations"),
    *(f"{side}_{part}" for side in ("head", "tail") for part in ("start", "end", "type")),
)
FORMS = (
    "a text with <e1>head</e1> and <e2>tail</e2> marked, or a text with head and tail by their characters "
    '("head": {"start": 0, "end": 5}, or columns head_start, head_end, tail_start, tail_end), or a text with entities '
    "and relations"
)


class Entity(NamedTuple):
    """An entity in characters of its text.

    Attributes:
        start: first character.
        end: one past the last character.
        type: "" where the source gives none.
    """

    start: int
    end: int
    type: str = ""


class Pair(NamedTuple):
    """A pair of entities and what relates them; None: not known (to be predicted)."""

    head: Entity
    tail: Entity
    relation: str | None


class RelationFields(NamedTuple):
    """Which fields hold what (`data.text_column`, `data.label_column`); empty finds the usual ones."""

    text: str = ""
    relation: str = ""


USUAL_FIELDS = RelationFields()


class Related(NamedTuple):
    """A record: its text, its entities, the pairs of them that it names, and whether these are all that are related.

    `whole` is true of the form with entities and relations alone: a pair that it does not name is unrelated there.
    """

    text: str
    entities: tuple[Entity, ...]
    pairs: tuple[Pair, ...]
    whole: bool = False

    def unrelated(self) -> Iterator[tuple[Entity, Entity]]:
        """Yields the ordered pairs of different entities that no relation is given for."""
        named = {(pair.head, pair.tail) for pair in self.pairs}
        for head, tail in itertools.permutations(dict.fromkeys(self.entities), 2):
            if (head, tail) not in named and head[:2] != tail[:2]:
                yield head, tail


def read_related(record: Mapping[str, Any], origin: str, fields: RelationFields = USUAL_FIELDS) -> Related:
    """Returns what a record says, in any of the forms.

    Raises:
      UserError: naming `origin`: a record of no form, a pair without markers, offsets outside the text or inside a
        word, an entity whose text is another one, a pair with two relations, a head that is its own tail.
    """
    if all(name in record for name in _TACRED):
        return _tacred(record, origin, fields)
    text, words = _text_of(record, origin, fields)
    if isinstance(record.get("entities"), list):
        return _with_relations(record, text, words, origin)
    head, tail = (_one_entity(record, names, text, words, origin) for names in (_HEADS, _TAILS))
    if head is None and tail is None:
        text, head, tail = parse_marked(text, origin)
    if head is None or tail is None:
        side = "head" if head is None else "tail"
        raise UserError(f"{origin}: has no {side} of the pair. A record is {FORMS}.")
    return Related(text, (head, tail), (_pair(head, tail, _relation(record, origin, fields), origin),))


def parse_marked(text: str, origin: str) -> tuple[str, Entity, Entity]:
    """Returns a text without its <e1> and <e2> markers, and the entities that they enclose, white space left out.

    Raises UserError naming `origin` where a marker is missing, repeated, out of order, or encloses nothing.
    """
    places: dict[str, int] = {}
    plain, last = "", 0
    for tag in _TAG.finditer(text):
        plain, last = plain + text[last : tag.start()], tag.end()
        if tag[0] in places:
            raise UserError(f"{origin}: {tag[0]} occurs twice: each text has one head, <e1>...</e1>, and one tail.")
        places[tag[0]] = len(plain)
    plain += text[last:]
    if not places:
        raise UserError(f"{origin}: a pair without markers: no <e1> and <e2> in {shown(text)}. A record is {FORMS}.")
    found = []
    for number in "12":
        first, stop = places.get(f"<e{number}>"), places.get(f"</e{number}>")
        if first is None or stop is None:
            missing = f"<e{number}>" if first is None else f"</e{number}>"
            raise UserError(f"{origin}: {missing} is missing: mark the head <e1>...</e1> and the tail <e2>...</e2>.")
        if stop < first or not (inner := plain[first:stop]).strip():
            raise UserError(f"{origin}: <e{number}> and </e{number}> enclose nothing: put them around the entity.")
        found.append(Entity(first + len(inner) - len(inner.lstrip()), stop - len(inner) + len(inner.rstrip())))
    return plain, found[0], found[1]


def mark(text: str, head: Entity, tail: Entity) -> str:
    """Returns a text with its pair marked: what `parse_marked` undoes."""
    # At one place what ends comes first; of two that start the longer one, of two that end the shorter one.
    inserts = []
    for number, one, other in (("1", head, tail), ("2", tail, head)):
        longer = one.end - one.start > other.end - other.start
        inserts.append((one.start, 1, not longer, f"<e{number}>"))
        inserts.append((one.end, 0, longer, f"</e{number}>"))
    parts, last = [], 0
    for place, _, _, tag in sorted(inserts):
        parts += [text[last:place], tag]
        last = place
    return "".join([*parts, text[last:]])


# --- the forms ---


def _tacred(record: Mapping[str, Any], origin: str, fields: RelationFields) -> Related:
    words = _words(record, origin)
    if words is None:
        raise UserError(f'{origin}: has "subj_start", but no list of words ("token"). Fields: {listed(record)}.')
    text, offsets = _joined(words)
    sides = []
    for side in ("subj", "obj"):
        start, end = (_integer(record[f"{side}_{part}"]) for part in ("start", "end"))
        if start is None or end is None or not 0 <= start <= end < len(words):
            given = f"{record[f'{side}_start']!r}..{record[f'{side}_end']!r}"
            raise UserError(
                f"{origin}: {side}_start..{side}_end = {given} is not inside the {len(words)} words. They count words "
                "from 0, both ends inclusive."
            )
        kind = _type(record.get(f"{side}_type"), origin)
        sides.append(Entity(offsets[start][0], offsets[end][1], kind))
    head, tail = sides
    return Related(text, (head, tail), (_pair(head, tail, _relation(record, origin, fields), origin),))


def _with_relations(record: Mapping[str, Any], text: str, words: "_Words | None", origin: str) -> Related:
    entities: list[Entity] = []
    by_name: dict[Any, Entity] = {}
    for number, value in enumerate(record["entities"]):
        entity = _entity(value, text, words, origin)
        name = value.get("id", number) if isinstance(value, Mapping) else number
        if not isinstance(name, str | int) or name in by_name:
            raise UserError(f"{origin}: the id {name!r} of an entity is given twice, or is neither text nor a number.")
        entities.append(entity)
        by_name[name] = entity
    relations = record.get("relations")
    if relations is not None and not isinstance(relations, list):
        raise UserError(f"{origin}: 'relations' is of type {type(relations).__name__}, but must be a list.")
    labels: dict[tuple[Entity, Entity], Pair] = {}
    for value in relations or ():
        pair = _named_pair(value, by_name, origin)
        before = labels.setdefault((pair.head, pair.tail), pair)
        if before.relation != pair.relation:
            raise UserError(
                f"{origin}: the pair {text[pair.head.start : pair.head.end]!r}, "
                f"{text[pair.tail.start : pair.tail.end]!r} has two relations, {before.relation!r} and "
                f"{pair.relation!r}; a pair has one class: keep one of them."
            )
    return Related(text, tuple(entities), tuple(labels.values()), whole=True)


def _named_pair(value: Any, by_name: Mapping[Any, Entity], origin: str) -> Pair:
    if not isinstance(value, Mapping):
        raise UserError(f'{origin}: {shown(value)} is not a relation: {{"head": id, "tail": id, "label": name}}.')
    ends = []
    for names in (_FROM, _TO):
        name = next((value[field] for field in names if value.get(field) is not None), None)
        if not isinstance(name, str | int) or name not in by_name:
            raise UserError(
                f"{origin}: the relation {shown(value)} names {name!r} as {names[0]}, which is no entity of the "
                f"record: entities have the ids {listed(map(str, list(by_name)[:10]))}."
            )
        ends.append(by_name[name])
    label = next((value[field] for field in _PAIR_LABELS if value.get(field) is not None), None)
    if label is not None and not isinstance(label, str):
        raise UserError(f"{origin}: the label {label!r} of a relation must be text.")
    return _pair(ends[0], ends[1], None if label is None else label.strip(), origin)


def _pair(head: Entity, tail: Entity, relation: str | None, origin: str) -> Pair:
    if head[:2] == tail[:2]:
        raise UserError(
            f"{origin}: head and tail are the same characters, {head.start}..{head.end}: name two entities."
        )
    return Pair(head, tail, relation)


# --- parts of a record ---


class _Words(NamedTuple):
    """The words of a record as characters of its text; `counted`: positions count words, as there is no other text."""

    offsets: list[tuple[int, int]]
    counted: bool


def _text_of(record: Mapping[str, Any], origin: str, fields: RelationFields) -> tuple[str, "_Words | None"]:
    """The text of a record, and its words where it has them."""
    if fields.text and fields.text not in record:
        raise UserError(f"{origin}: data.text_column={fields.text!r} is absent. Fields: {listed(record)}.")
    name = fields.text or next((field for field in TEXT_FIELDS if isinstance(record.get(field), str)), "")
    words = _words(record, origin)
    if not name:
        if words is None:
            raise UserError(f"{origin}: fields of no known form: {listed(record)}. A record is {FORMS}.")
        text, offsets = _joined(words)
        return text, _Words(offsets, counted=True)
    text = require_text(record[name], name, origin)
    if "\0" in text:
        raise UserError(f"{origin}: a NUL character at {text.index(chr(0))} of the text: remove it.")
    return text, None if words is None else _Words(_found_in(text, words, origin), counted=False)


def _words(record: Mapping[str, Any], origin: str) -> list[str] | None:
    name = next((field for field in _WORDS if isinstance(record.get(field), list)), "")
    return [require_text(word, name, origin) for word in record[name]] if name else None


def _joined(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    ends = list(itertools.accumulate(len(word) + 1 for word in words))
    return " ".join(words), [(end - 1 - len(word), end - 1) for end, word in zip(ends, words, strict=True)]


def _found_in(text: str, words: Sequence[str], origin: str) -> list[tuple[int, int]]:
    """Returns words as characters of their text; UserError where one does not follow."""
    offsets, before = [], 0
    for number, word in enumerate(words):
        start = text.find(word, before)
        if start < 0 or text[before:start].strip():
            raise UserError(
                f"{origin}: tokens[{number}] = {word!r} does not follow in the text, where "
                f"{text[before : before + 20]!r} does. Leave out the text or the tokens."
            )
        before = start + len(word)
        offsets.append((start, before))
    return offsets


def _one_entity(
    record: Mapping[str, Any], names: Sequence[str], text: str, words: _Words | None, origin: str
) -> Entity | None:
    """Returns the head or the tail; None where the record has no field of it."""
    for name in names:
        if isinstance(record.get(name), Mapping | list):
            return _entity(record[name], text, words, origin)
        if record.get(f"{name}_start") is not None:
            value = {part: record.get(f"{name}_{part}") for part in ("start", "end", "type")}
            return _entity(value, text, words, origin)
    return None


def _entity(value: Any, text: str, words: _Words | None, origin: str) -> Entity:
    if isinstance(value, Mapping):
        start, end, kind = (_first(value, names) for names in (_STARTS, _ENDS, _TYPES))
        if start is None and isinstance(value.get("pos"), list) and len(value["pos"]) == 2:  # OpenNRE
            start, end = value["pos"]
    else:
        start, end, kind = [*(value if isinstance(value, list) else ()), None, None, None][:3]
    first, stop = _integer(start), _integer(end)
    if first is None or stop is None:
        raise UserError(
            f'{origin}: {shown(value)} is not an entity: {{"start": 0, "end": 5, "type": "PER"}} or [0, 5, "PER"].'
        )
    if words is not None and words.counted:
        if not 0 <= first < stop <= len(words.offsets):
            raise UserError(
                f"{origin}: the entity {first}..{stop} is not inside the {len(words.offsets)} words. Positions of a "
                "record with tokens and without text count words from 0, end exclusive."
            )
        return Entity(words.offsets[first][0], words.offsets[stop - 1][1], _type(kind, origin))
    if not 0 <= first < stop <= len(text):
        raise UserError(
            f"{origin}: the entity {first}..{stop} is not inside the text of {len(text)} characters. Offsets count "
            "characters from 0, end exclusive."
        )
    inner = text[first:stop]
    if not inner.strip():
        raise UserError(f"{origin}: the entity {first}..{stop} covers nothing but white space.")
    surface = value.get("text", value.get("name")) if isinstance(value, Mapping) else None
    if isinstance(surface, str) and inner.split() != surface.split():
        raise UserError(
            f"{origin}: the entity {first}..{stop} says {shown(surface)}, but these characters are {shown(inner)}. "
            "Offsets count characters, end exclusive: not bytes, nor UTF-16 units."
        )
    first, stop = first + len(inner) - len(inner.lstrip()), stop - len(inner) + len(inner.rstrip())
    if words is not None:
        _check_edges(first, stop, words.offsets, text, origin)
    return Entity(first, stop, _type(kind, origin))


def _check_edges(start: int, end: int, offsets: Sequence[tuple[int, int]], text: str, origin: str) -> None:
    """Raises UserError for an entity that starts or ends inside one of the words that its record gives."""
    for first, last in offsets:
        if first < start < last or first < end < last:
            raise UserError(
                f"{origin}: the entity {start}..{end}, {text[start:end]!r}, starts or ends inside the word "
                f"{text[first:last]!r} at {first}..{last}. Move it to the edges of the word, or leave out the tokens."
            )


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _integer(value: Any) -> int | None:
    """A whole number, also as a table of text has it; None for anything else."""
    if isinstance(value, str) and re.fullmatch("-?[0-9]+", value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer():  # a column of a parquet file that also has nulls
        return int(value)
    return value if type(value) is int else None


def _type(value: Any, origin: str) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{origin}: the type {value!r} of an entity must be a name.")
    return value.strip()


def _relation(record: Mapping[str, Any], origin: str, fields: RelationFields) -> str | None:
    """The relation of a record with one pair; None where it has none."""
    name = fields.relation or next((field for field in RELATION_FIELDS if record.get(field) is not None), "")
    value = record.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise UserError(f"{origin}: the relation {value!r} in {name!r} is of type {type(value).__name__}, not text.")
    return value.strip() or None
