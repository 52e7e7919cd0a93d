"""Related entities of a source: one URI, one shape of example, whatever the source is."""

import collections
import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jaxfm.data.records.example_holdout import choose_held_out
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.registry import open_tables, parse_source
from jaxfm.data.records.relation_forms import USUAL_FIELDS, Entity, Related, RelationFields, read_related
from jaxfm.data.records.semeval import SCHEME, open_semeval
from jaxfm.data.records.source_keys import check_source, divide_source
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import Table, Tables, memory_table
from jaxfm.errors import UserError

_OWN_FORMS = (f"{SCHEME}:DIR",)
# The class of pairs that are not related, by the names that data sets give it; compared without case, - and _.
_NEGATIVES = ("other", "norelation", "none", "na", "norel", "unrelated", "nil")


@dataclasses.dataclass(frozen=True, slots=True)
class RelationExample:
    """A pair of entities of a text.

    Attributes:
        text: without markers.
        head: the first entity of the relation (SemEval's e1, TACRED's subject).
        tail: the second one.
        relation: the class; None where it is unknown (to be predicted).
        origin: where it was read.
    """

    text: str
    head: Entity
    tail: Entity
    relation: str | None
    origin: str


@dataclasses.dataclass(frozen=True)
class RelationSplit:
    """One split: its examples in the order of the source, and one line for the log."""

    examples: tuple[RelationExample, ...]
    note: str


def read_relations(
    source: str,
    splits: Sequence[str] | None,
    *,
    fields: RelationFields = USUAL_FIELDS,
    unrelated: str = "",
    related_types: Collection[tuple[str, str]] | None = None,
    holdout: float | None = 0.0,
    by: SplitKeys = NO_KEYS,
) -> dict[str, RelationSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source.

    Sources: `quickstart`, `semeval:`, and all of `jaxfm/data/records/formats/`; forms of a record: `relation_forms`.

    Args:
      source: the URI.
      splits: what to read; None: all that the source has, of which "train" must be one.
      fields: which fields hold text and relation.
      unrelated: class of the pairs of entities that a record with entities and relations does not name; "": such pairs
        are left out and counted.
      related_types: types of head and tail that pairs of the class `unrelated` may have; None: those that some pair of
        train is related by. Without types there all pairs are taken.
      holdout: this share of train becomes valid where the source has no split of that name, None: a share by size
        (`holdout_share`). All pairs of one text are on one side.
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`.

    Raises:
      UserError: unknown source or split, a split that is empty, a damaged record, a pair without a relation.
    """
    check_source(source, by, splits)
    tables = by.hide(_open(source), fields)
    present = [name for name in SPLIT_NAMES if name in tables.splits]
    held_out = holdout != 0 and "train" in present and "valid" not in present
    names = [name for name in SPLIT_NAMES if name in present or (held_out and name == "valid")]
    wanted = [*(names if "train" in names else ["train"])] if splits is None else list(map(require_split, splits))
    for name in wanted:
        if name not in names:
            more = f" ({tables.found})" if tables.found else ""
            raise UserError(f"{source} has no split {name!r}; it has: {', '.join(names) or 'none'}{more}.")
    read: dict[str, RelationSplit] = {}
    for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted):
        records = _records(tables.splits[name](), fields)
        if related_types is None and unrelated:
            related_types = {
                (pair.head.type, pair.tail.type) for _, related in records for pair in related.pairs if pair.relation
            }
        read[name] = _examples(tables.splits[name](), name, records, unrelated, related_types or ())
    if by:
        read = _divided(source, read, by, present, holdout)
    elif held_out and "train" in read:
        read |= _hold_out(source, read["train"], holdout)
    return {name: read[name] for name in wanted}


def usual_negative(relations: Iterable[str]) -> str:
    """Returns the relation whose name says that there is none (Other, no_relation ...); "" where none does."""
    plain = {name.lower().replace("-", "").replace("_", "").replace("/", ""): name for name in sorted(relations)}
    return next((plain[name] for name in _NEGATIVES if name in plain), "")


def _open(source: str) -> Tables:
    scheme, rest = parse_source(source, _OWN_FORMS)
    if scheme == SCHEME:
        return open_semeval(rest)
    if scheme == "quickstart":
        return Tables({split: functools.partial(_open_quickstart, split) for split in SPLIT_NAMES})
    return open_tables(scheme, rest, own=_OWN_FORMS)


@functools.cache
def _quickstart_corpus() -> dict[str, list[dict[str, Any]]]:
    from jaxfm.data.records import quickstart_relations

    return quickstart_relations.build(seed=0)


def _open_quickstart(split: str) -> Table:
    columns = ("tokens", "entities", "relations")
    rows = [
        (f"quickstart/{split}[{number}]", [record[column] for column in columns])
        for number, record in enumerate(_quickstart_corpus()[split])
    ]
    return memory_table(f"quickstart/{split} (synthetic)", columns, rows)


def _records(table: Table, fields: RelationFields) -> list[tuple[str, Related]]:
    """Reads what every record of a table says, with its origin."""
    return [(origin, read_related(_named(values, table), origin, fields)) for origin, values in table.read(None)]


def _examples(
    table: Table,
    split: str,
    records: Sequence[tuple[str, Related]],
    unrelated: str,
    related_types: Collection[tuple[str, str]],
) -> RelationSplit:
    examples: list[RelationExample] = []
    counts: collections.Counter[str] = collections.Counter()
    for origin, related in records:
        for pair in related.pairs:
            if pair.relation is None:
                if not table.published:
                    raise UserError(f"{origin}: the pair has no relation. Leave the record out, or give its relation.")
                counts["without a relation left out"] += 1
                continue
            examples.append(RelationExample(related.text, pair.head, pair.tail, pair.relation, origin))
        examples += _unrelated(related, unrelated, related_types, origin, counts)
    if not examples:
        raise UserError(f"{table.source}: the split {split!r} is empty: it has no pair of related entities.")
    note = f"{split}: {len(examples):,} pairs of {len(records):,} records from {table.source}"
    return RelationSplit(tuple(examples), note + "".join(f"; {number:,} {what}" for what, number in counts.items()))


def _named(values: Mapping[str, object], table: Table) -> Mapping[str, object]:
    """Returns a row with the names of its class numbers."""
    if not table.class_names:
        return values
    named = dict(values)
    for column, names in table.class_names.items():
        number = named.get(column)
        if type(number) is int and 0 <= number < len(names):
            named[column] = names[number]
    return named


def _unrelated(
    related: Related,
    name: str,
    types: Collection[tuple[str, str]],
    origin: str,
    counts: collections.Counter[str],
) -> Iterable[RelationExample]:
    """Yields the pairs that are not related as examples of the class `name`; "" counts them alone."""
    if not related.whole:
        return
    typed = bool(types) and all(all(pair) for pair in types)
    for head, tail in related.unrelated():
        if not name:
            counts["pairs of no relation left out (config.task.unrelated=True makes them examples)"] += 1
        elif typed and head.type and tail.type and (head.type, tail.type) not in types:
            counts["pairs of types that are never related left out"] += 1
        else:
            counts[f"of them of no relation ({name})"] += 1
            yield RelationExample(related.text, head, tail, name, origin)


def _divided(
    source: str, read: Mapping[str, RelationSplit], by: SplitKeys, given: Collection[str], holdout: float | None
) -> dict[str, RelationSplit]:
    """Returns the splits divided by groups and times."""
    divided = divide_source(
        source,
        {name: split.examples for name, split in read.items()},
        by,
        given=given,
        holdout=holdout,
        origin=lambda each: each.origin,
        targets=lambda examples: [each.relation for each in examples],
    )
    notes = {name: split.note for name, split in read.items()}
    return {
        name: RelationSplit(tuple(own), notes.get(name, f"{name}: {len(own):,} pairs") + divided.notes[name])
        for name, own in divided.read.items()
    }


def _hold_out(source: str, train: RelationSplit, holdout: float | None) -> dict[str, RelationSplit]:
    """Returns train without what is held out, and that as valid."""
    examples = train.examples
    share = holdout_share(holdout, len(examples))
    chosen = choose_held_out([each.text for each in examples], [each.relation for each in examples], share)
    if not any(chosen):
        raise UserError(
            f"{source}: it has no split 'valid', and none of the {len(examples):,} training pairs can be held out: "
            "each is the only one of its relation, or all have one text. Give more, a file of validation pairs, or "
            "config.data.holdout=0 for no validation."
        )
    sides = [tuple(each for each, held in zip(examples, chosen, strict=True) if held is side) for side in (False, True)]
    said = f"{share:.1%} of the pairs of train, of every relation, chosen by a hash of their text"
    return {
        "train": RelationSplit(sides[0], f"{train.note}; without the {len(sides[1]):,} that are valid"),
        "valid": RelationSplit(sides[1], f"valid: {len(sides[1]):,} pairs; {said}"),
    }
