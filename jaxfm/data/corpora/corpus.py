"""Plain text of a source: one URI, streams of documents, whatever the source is. For pretraining."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping

from jaxfm.data.corpora import docstrings, source_text
from jaxfm.data.corpora.divided import divided_streams
from jaxfm.data.corpora.documents import Document, Streams, uniform_hash
from jaxfm.data.records.registry import parse_source
from jaxfm.data.records.source_keys import check_source
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A source of documents.

    Attributes:
        source: the URI.
        splits: train, valid, test (those that the source has) -> a function whose every call reads the split anew, one
            document at a time in the order of the source; its iterator raises UserError for a split without text, and
            for all that the source's reader finds.
        notes: lines for the log: what was found and how it is read.
    """

    source: str
    splits: Mapping[str, Callable[[], Iterator[Document]]]
    notes: tuple[str, ...]


def open_corpus(source: str, *, text_column: str = "", holdout: float = 0.0, by: SplitKeys = NO_KEYS) -> Corpus:
    """Opens `quickstart` (docstrings of the installed packages), `text:`, or any format of `data/records/formats/`.

    Args:
      source: the URI.
      text_column: the column with the text, where records have columns; empty takes text, content or document.
      holdout: this share of the documents of "train" becomes "valid" where the source has none, but at least one of
        them, and never all. Which ones, a hash of their text says: it depends on no order, and equal texts are on one
        side.
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`. Records that are so large that they are several documents stay together.

    Raises:
      UserError: unknown source, no such files, no such column.
    """
    if not 0 <= holdout < 1:
        raise UserError(f"holdout={holdout}: must be a share of the documents, at least 0 and below 1.")
    found = _find(source, text_column, holdout, by)
    splits, notes = dict(found.splits), found.notes
    if not by and holdout and "train" in splits and "valid" not in splits:
        whole = splits["train"]
        border = functools.cache(functools.partial(_border, source, whole, holdout))
        splits["train"] = functools.partial(_side, whole, border, False)
        splits["valid"] = functools.partial(_side, whole, border, True)
        notes += (f"valid: {holdout:.3%} of the documents of train, at least one, chosen by a hash of their text",)
    if not splits:
        raise UserError(f"{source}: none of its splits is train, valid or test.")
    readers = {name: functools.partial(_not_empty, source, name, read) for name, read in splits.items()}
    return Corpus(source, readers, notes)


def _side(read: Callable[[], Iterator[Document]], border: Callable[[], float], held_out: bool) -> Iterator[Document]:
    for document in read():
        if (uniform_hash(document.text) < border()) == held_out:
            yield document


def _border(source: str, read: Callable[[], Iterator[Document]], holdout: float) -> float:
    """Returns the hash below which documents are held out: `holdout`, or what leaves one on each side of few documents.

    Goes through the documents until it has seen both sides. Raises UserError where all of them are equal.
    """
    count, least, most = 0, 1.0, 0.0
    for count, document in enumerate(read(), start=1):  # noqa: B007  (their number is for the message)
        number = uniform_hash(document.text)
        least, most = min(least, number), max(most, number)
        if least < holdout <= most:
            return holdout
    if count and least == most:
        documents = "it has one document" if count == 1 else f"all of the {count:,} documents are equal"
        raise UserError(
            f"{source}: {documents}, so none can be held out for validation. Set --config.data.holdout=0 to go "
            "without, or name a separate file as valid. (Documents are divided by empty lines, or else by lines.)"
        )
    return most if most < holdout else math.nextafter(least, 1.0)


def _not_empty(source: str, split: str, read: Callable[[], Iterator[Document]]) -> Iterator[Document]:
    document = None
    for document in read():
        yield document
    if document is None:
        raise UserError(f"{source}: the split {split!r} is empty: no document with text in it.")


def _find(source: str, text_column: str, holdout: float, by: SplitKeys) -> Streams:
    scheme, rest = parse_source(source, ("text:DIR",))
    check_source(source, by, None)
    if scheme == "text":
        return source_text.find_text(rest, text_column)
    if scheme != "quickstart":
        found = source_text.find_records(scheme, rest, text_column, by)
        return divided_streams(source, scheme, rest, found, holdout, by) if by else found
    if text_column:
        raise UserError(f"text_column={text_column!r}: quickstart has no columns; leave it empty.")
    return docstrings.find_docstrings()
