"""Sources and the texts to be written for them: one URI, one shape of record. For translation, summaries, answers."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.dialogues import DIALOGUE_COLUMNS, DialogueOptions, dialogue_tables
from jaxfm.data.records.example_holdout import choose_held_out
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.line_pairs import FORM as LINES
from jaxfm.data.records.line_pairs import line_tables
from jaxfm.data.records.registry import are_numbers, open_tables, parse_source
from jaxfm.data.records.source_keys import check_source, divide_source
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import Table, Tables, choose_column, listed, memory_table, require_text
from jaxfm.errors import UserError

SOURCE_COLUMNS = ("source", "src", "input", "text", "document", "article", "dialogue", "context", "question", "en")
TARGET_COLUMNS = ("target", "tgt", "output", "summary", "highlights", "response", "answer", "translation", "label")
DIALOGUE = "dialogue:DIR"
_TURNS = DialogueOptions()
_SET = "Set data.text_column (source) and data.label_column (target)."


@dataclasses.dataclass(frozen=True, slots=True)
class TextPair:
    """One source and what is to be written for it.

    Attributes:
      source: not blank; of a list of sentences, these with spaces between them.
      targets: references, none blank: the first is learned, the best counts in scores.
      controls: column -> value, of the columns asked for that the record has.
      origin: where it was read: "dir/train.tsv:12".
    """

    source: str
    targets: tuple[str, ...]
    controls: Mapping[str, str]
    origin: str


@dataclasses.dataclass(frozen=True)
class TextPairSplit:
    """One split: its pairs in the order of the source, and one line for the log."""

    pairs: tuple[TextPair, ...]
    note: str


@dataclasses.dataclass(frozen=True)
class PairColumns:
    """Which columns hold what; empty finds the usual ones.

    Attributes:
      source: of the source (`data.text_column`); "translation.en" is a field of a column of objects.
      target: of the target (`data.label_column`), a text or a list of references.
      controls: columns of short texts that say how to write (`task.controls`).
    """

    source: str = ""
    target: str = ""
    controls: tuple[str, ...] = ()


def read_text_pairs(
    source: str,
    splits: Sequence[str] | None,
    *,
    columns: PairColumns = PairColumns(),
    holdout: float | None = 0.0,
    dialogue: DialogueOptions = _TURNS,
    by: SplitKeys = NO_KEYS,
) -> dict[str, TextPairSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source.

    Sources: quickstart (made), `lines:` (files of lines that go together), `dialogue:` (what was said, and the next
    turn), and all of `jaxfm/data/records/formats/`.

    Args:
      source: the URI.
      splits: what to read; None: all that the source has.
      columns: which columns to read.
      holdout: this share of train becomes valid where the source has no valid, None: a share by size. A hash of the
        source text chooses, so that equal ones are on one side; of dialogues, all turns of one.
      dialogue: how a dialogue becomes pairs.
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`.

    Raises:
      UserError: unknown source, split or column, an empty split, a damaged record, a blank source or target.
    """
    check_source(source, by, splits)
    tables = by.hide(_open(source, columns, dialogue), (columns.source, columns.target, *columns.controls))
    opened = {split: tables.splits[split]() for split in SPLIT_NAMES if split in tables.splits}
    if not opened:
        raise UserError(f"{source}: none of its splits is train, valid or test ({tables.found}).")
    if source.startswith(DIALOGUE.removesuffix("DIR")):
        if named := [name for name in (columns.source, columns.target, *columns.controls) if name]:
            raise UserError(f"{source}: has no columns to choose from, but {named[0]!r} is asked for.")
        chosen = PairColumns(*DIALOGUE_COLUMNS[:2])
    else:
        chosen = _choose(next(iter(opened.values())), columns)
    wanted = None if splits is None else list(map(require_split, splits))
    held_out = holdout != 0 and "valid" not in opened and "train" in opened
    present = [name for name in SPLIT_NAMES if name in opened or (name == "valid" and held_out)]
    for name in wanted or ():
        if name not in present:
            raise UserError(f"{source} has no split {name!r}; it has: {', '.join(present)}.")
    wanted = present if wanted is None else wanted
    read: dict[str, list[TextPair]] = {}
    units: dict[str, list[str]] = {}  # what a holdout keeps on one side
    notes: dict[str, str] = {}
    for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted):
        read[name], units[name], notes[name] = _read(opened[name], chosen)
    if by:
        divided = divide_source(source, read, by, given=opened, holdout=holdout, origin=lambda pair: pair.origin)
        read = divided.read
        notes = {name: notes.get(name, notes.get("train", "")) + said for name, said in divided.notes.items()}
    elif held_out and "train" in read:
        read["train"], read["valid"], share = _held_out(source, read["train"], units["train"], holdout)
        notes["valid"] = f"; {share:.1%} of train, chosen by a hash"
        notes["train"] += f"; without the {len(read['valid']):,} that are valid"
    return {name: TextPairSplit(tuple(read[name]), _note(name, read[name]) + notes[name]) for name in wanted}


def _open(source: str, columns: PairColumns, dialogue: DialogueOptions) -> Tables:
    scheme, rest = parse_source(source, own=(LINES, DIALOGUE))
    if scheme == "quickstart":
        from jaxfm.data.records.quickstart_dates import COLUMNS, build

        return Tables(
            {
                split: lambda split=split: memory_table(f"quickstart/{split} (synthetic)", COLUMNS, build(split))
                for split in SPLIT_NAMES
            }
        )
    if scheme == LINES.partition(":")[0]:
        return line_tables(rest)
    if scheme == DIALOGUE.partition(":")[0]:
        return dialogue_tables(rest, dialogue)
    by_number = are_numbers((columns.source, columns.target, *columns.controls))
    return open_tables(scheme, rest, by_number=by_number, own=(LINES, DIALOGUE))


def _choose(table: Table, asked: PairColumns) -> PairColumns:
    names = table.columns

    def choose(own: str, usual: Sequence[str], what: str, key: str) -> str:
        if own and own not in names and own.partition(".")[0] in names:
            return own
        found = [own] if own else [name for name in usual if name in names][:1]
        return choose_column(names, "".join(found), usual, what, table.source, f"data.{key}_column")

    if not asked.source and not asked.target and table.declared is not None and len(names) == 2:
        guessed = [name for name in names if name in SOURCE_COLUMNS or name in TARGET_COLUMNS]
        if len(guessed) < 2:
            raise UserError(f"{table.source}: which of {listed(names)} is the source, and which the target? {_SET}")
    source = choose(asked.source, SOURCE_COLUMNS, "source", "text")
    target = choose(asked.target, TARGET_COLUMNS, "target", "label")
    if source == target:
        raise UserError(f"{table.source}: the source and the target are both {source!r}. {_SET}")
    for name in asked.controls:
        if name not in names:
            raise UserError(f"{table.source}: config.task.controls={name!r} is absent. Columns: {listed(names)}.")
    return PairColumns(source, target, asked.controls)


def _read(table: Table, columns: PairColumns) -> tuple[list[TextPair], list[str], str]:
    """Reads a split; also the unit of each pair, and what the note says of records left out."""
    names = (columns.source, columns.target)
    read = [name if name in table.columns else name.partition(".")[0] for name in names]
    pairs: list[TextPair] = []
    units: list[str] = []
    left_out = 0
    whole = [DIALOGUE_COLUMNS[2]] if table.columns == DIALOGUE_COLUMNS else []
    for origin, values in table.values([*read, *columns.controls, *whole]):
        texts = [_field(value, name, column) for value, name, column in zip(values, names, read, strict=False)]
        source, targets = _source(texts[0], names[0], origin), _targets(texts[1], names[1], origin)
        if not source.strip() or not targets:
            if not table.published:
                what = repr(names[0]) if not source.strip() else repr(names[1])
                kind = "source" if not source.strip() else "target"
                raise UserError(f"{origin}: the {kind} in {what} is empty. Leave the record out, or correct it.")
            left_out += 1
            continue
        controls = {
            name: _control(value, name, origin)
            for name, value in zip(columns.controls, values[2:], strict=False)
            if value is not None and value != ""
        }
        pairs.append(TextPair(source, targets, controls, origin))
        units.append(str(values[-1]) if whole else source)
    if not pairs:
        raise UserError(f"{table.source}: the split is empty: it has no pair of texts.")
    note = f"; {left_out:,} without a source or a target left out" if left_out else ""
    return pairs, units, f" from {table.source}{note}"


def _field(value: Any, name: str, column: str) -> Any:
    """Returns a value, or the field of it that "column.field" names."""
    if name == column or not isinstance(value, Mapping):
        return value
    return value.get(name.removeprefix(f"{column}."))


def _texts(value: Any, column: str, origin: str) -> Iterator[str]:
    """Yields the texts of a value that is a text or a list of them."""
    if value is None:
        return
    for each in value if isinstance(value, list | tuple) or hasattr(value, "tolist") else (value,):
        text = require_text(each, column, origin)
        if "\0" in text:
            raise UserError(f"{origin}: a NUL byte in {column!r}: this is a binary file, or text in UTF-16.")
        yield text


def _source(value: Any, column: str, origin: str) -> str:
    return " ".join(text.strip() for text in _texts(value, column, origin))


def _targets(value: Any, column: str, origin: str) -> tuple[str, ...]:
    """Returns the references; () for none, and where one of them is blank."""
    found = tuple(text.strip() for text in _texts(value, column, origin))
    return found if all(found) else ()


def _control(value: Any, column: str, origin: str) -> str:
    """Returns a control as text: a word or a number, or a list of them with commas between."""
    parts = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(part, str | int | float) for part in parts):
        raise UserError(f"{origin}: the control in {column!r} is {value!r:.40}, but must be a text or a number.")
    return ", ".join(require_text(str(part), column, origin).strip() for part in parts)


def _held_out(
    source: str, pairs: list[TextPair], units: list[str], holdout: float | None
) -> tuple[list[TextPair], list[TextPair], float]:
    """Returns train, valid and the share of it."""
    share = holdout_share(holdout, len(pairs))
    chosen = choose_held_out(units, [float(len(pair.targets[0])) for pair in pairs], share)
    kept = [pair for pair, out in zip(pairs, chosen, strict=True) if not out]
    held = [pair for pair, out in zip(pairs, chosen, strict=True) if out]
    if not held or not kept:
        raise UserError(
            f"{source}: it has no split 'valid', and too few different sources to hold some out. Give more, or "
            "config.data.holdout=0 for no validation."
        )
    return kept, held, share


def _note(name: str, pairs: Sequence[TextPair]) -> str:
    several = sum(len(pair.targets) > 1 for pair in pairs)
    more = f", {several:,} with several references" if several else ""
    return f"{name}: {len(pairs):,} pairs of texts{more}"
