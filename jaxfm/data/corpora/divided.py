"""Documents divided into splits by the groups and times of their records."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping

from jaxfm.data.corpora.documents import Document, Streams
from jaxfm.data.records.key_division import divide_by_keys
from jaxfm.data.records.registry import open_corpus_tables
from jaxfm.data.records.split_keys import SplitKeys, read_keys
from jaxfm.data.records.splits import SPLIT_NAMES


def divided_streams(source: str, scheme: str, rest: str, found: Streams, holdout: float, by: SplitKeys) -> Streams:
    """Returns streams of which no two share a group, and whose training documents are before all others.

    The keys of all records are read now, and held in memory: which record is in which split. Text is streamed.

    Args:
      source: the URI, of a format of records.
      scheme: of it.
      rest: what follows its colon.
      found: the splits as the source has them.
      holdout: this share of the records of train becomes valid where the source has none.
      by: columns of groups and times.

    Raises:
      UserError: as `divide_by_keys`.
    """
    parts = open_corpus_tables(scheme, rest)
    keys = read_keys({split: (opener() for opener in part.openers) for split, part in parts.items()}, by)
    divided = divide_by_keys(
        source,
        {split: list(own) for split, own in keys.items()},
        by,
        lambda: keys,
        given=keys,
        holdout=holdout,
        origin=lambda place: place,
    )
    streams: dict[str, Callable[[], Iterator[Document]]] = {}
    for split in SPLIT_NAMES:
        if split in divided.read:
            # A valid that is held out is read from the records of train.
            whole = found.splits[split if split in found.splits else "train"]
            streams[split] = functools.partial(_of, whole, frozenset(divided.read[split]))
    notes = (*found.notes, *(f"{split}{said}" for split, said in _said(divided.notes).items()))
    return Streams(streams, notes)


def _said(notes: Mapping[str, str]) -> dict[str, str]:
    return {split: ": " + note.removeprefix("; ") for split, note in notes.items() if note}


def _of(read: Callable[[], Iterator[Document]], origins: Collection[str]) -> Iterator[Document]:
    return (document for document in read() if document.origin in origins)
