"""Texts of a split of any source, whatever labels it has: what a model is asked about that it was not trained for."""

from typing import NamedTuple

from jaxfm.data.records.examples import PAIR_COLUMNS, TEXT_COLUMNS
from jaxfm.data.records.glue import glue_set
from jaxfm.data.records.registry import open_tables, parse_source
from jaxfm.data.records.sources import read_tagged
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import choose_column, text_or_empty
from jaxfm.data.records.tagged_builder import TAGS_COLUMNS, WORDS_COLUMNS
from jaxfm.errors import UserError

TAGGED = ("conll", "brat")


class AnyText(NamedTuple):
    """A text of any source.

    Attributes:
      text: as it is; of words these with a space between.
      pair: the second text of a pair; "" where there is none.
      words: where the source has words; else ().
      origin: where it was read.
    """

    text: str
    pair: str
    words: tuple[str, ...]
    origin: str


def read_any_texts(source: str, split: str) -> list[AnyText]:
    """Reads the texts of a split of a source of tagged sentences or of a table with a column of texts; blank ones not.

    Raises:
      UserError: an unknown source, a split that it lacks, no column of texts, no text at all.
    """
    split = require_split(split)
    own = tuple(f"{scheme}:DIR" for scheme in TAGGED)
    scheme, rest = parse_source(source, own)
    found = _sentences(source, split) if scheme in (*TAGGED, "quickstart") else _table(source, scheme, rest, split)
    if not found:
        raise UserError(f"{source}: its split {split!r} has no text.")
    return found


def _sentences(source: str, split: str) -> list[AnyText]:
    sentences = read_tagged(source, (split,))[split].sentences
    return [
        AnyText(each.marked.text if each.marked else " ".join(each.words), "", each.words, each.origin)
        for each in sentences
    ]


def _table(source: str, scheme: str, rest: str, split: str) -> list[AnyText]:
    glue = glue_set(source)
    tables = open_tables(scheme, rest, names=glue.splits if glue else None)
    if split not in tables.splits:
        listed = ", ".join(name for name in SPLIT_NAMES if name in tables.splits) or "none of the usual ones"
        raise UserError(f"{source} has no split {split!r}; it has: {listed}.")
    table = tables.splits[split]()
    if set(WORDS_COLUMNS) & set(table.columns) and set(TAGS_COLUMNS) & set(table.columns):
        return _sentences(source, split)
    pairs = [both for both in PAIR_COLUMNS if set(both) <= set(table.columns)]
    columns = pairs[0] if pairs else (choose_column(table.columns, "", TEXT_COLUMNS, "text", table.source),)
    read = []
    for origin, values in table.values(columns):
        texts = [text_or_empty(value, column, origin) for value, column in zip(values, columns, strict=True)]
        if all(text.strip() for text in texts):
            read.append(AnyText(texts[0], texts[1] if len(texts) > 1 else "", (), origin))
    return read
