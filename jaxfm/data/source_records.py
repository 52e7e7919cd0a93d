"""What every reader of tagged words gives back, and the names that sources, splits and columns go by."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from jaxfm.data import tagging
from jaxfm.data.spans import MarkedText
from jaxfm.errors import UserError, did_you_mean

# testa and testb are the CoNLL-2003 names of the development and the test part.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "devel", "development", "testa"),
    "test": ("test", "testb"),
}
_CANONICAL = {name: split for split, names in SPLIT_NAMES.items() for name in names}

WORDS_FIELDS = ("tokens", "words")
TAGS_FIELDS = ("ner_tags", "ner", "tags", "labels")
DOCUMENT_FIELDS = ("document", "document_id", "doc_id")

Documents = Literal["marked", "stream", "none"]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold what (the `data.*_column` keys of a configuration); empty finds the usual ones.

    Attributes:
        words_column: name of the field (usual: tokens, words); for `conll:` a number, empty is 0; -1 is the last.
        tags_column: name of the field (usual: ner_tags, ner, tags, labels); for `conll:` a number, empty is -1.
        document_column: name of the field (usual: document, document_id, doc_id) that is equal in neighbouring
            sentences of one document; `conll:` has no such column but `-DOCSTART-` lines.
    """

    words_column: str = ""
    tags_column: str = ""
    document_column: str = ""


USUAL_COLUMNS = Columns()


class RawSentence(NamedTuple):
    """One sentence as read: tags are well-formed, but in the scheme of the source.

    `marked` is the text that the words were split from, where the source has entities in characters.
    """

    words: list[str]
    tags: list[str]
    document: int
    origin: str
    marked: MarkedText | None = None


@dataclasses.dataclass(frozen=True)
class RawSplit:
    """One split as read.

    Attributes:
        place: where it was read, for the log.
        documents: "marked": the source says where documents start; "stream": order kept, marks lost, so all of the
            split counts as one; "none": each sentence stands alone.
        dropped: sentences without a word, left out.
    """

    sentences: list[RawSentence]
    place: str
    documents: Documents
    dropped: int = 0


@dataclasses.dataclass(frozen=True)
class Splits:
    """The splits that a source has, each with what reads it; `others` names what else is there, for error messages."""

    readers: dict[str, Callable[[], RawSplit]]
    others: str = ""


def parse_source(source: str, forms: Sequence[str]) -> tuple[str, str]:
    """Returns the kind of a source and what follows its colon; `forms` are all there are, such as "jsonl:DIR".

    Raises UserError for a kind that is not among them.
    """
    kinds = [form.partition(":")[0] for form in forms]
    kind, colon, rest = source.partition(":")
    if kind == "quickstart" and colon:
        raise UserError(f"{source}: quickstart takes nothing after it.")
    if kind in kinds and (colon or kind == "quickstart"):
        return kind, rest
    hint = did_you_mean(kind, kinds)
    if pathlib.Path(source).expanduser().exists():
        hint = f"For files write {' or '.join(form[:-3] + source for form in forms if form.endswith(':DIR'))}."
    listed = f"{', '.join(forms[:-1])} or {forms[-1]}"
    raise UserError(f"unknown data source {source!r}: a source is {listed}. {hint}")


def canonical_split(name: str) -> str | None:
    """Returns train, valid or test for any usual name of it (dev, validation, testa ...), else None."""
    return _CANONICAL.get(name.lower())


def require_split(name: str) -> str:
    """Returns train, valid or test for a name that a user gave. Raises UserError for any other."""
    split = canonical_split(name)
    if split is None:
        raise UserError(f"unknown split {name!r}: splits are train, valid and test. {did_you_mean(name, _CANONICAL)}")
    return split


def named_splits(names: Iterable[str], source: str) -> dict[str, str]:
    """Maps train/valid/test to the names a data set has for them; other splits are left out. Two for one raise."""
    found: dict[str, str] = {}
    for name in names:
        split = canonical_split(name)
        if split is None:
            continue
        if split in found:
            raise UserError(f"{source}: both {found[split]!r} and {name!r} could be the split {split!r}.")
        found[split] = name
    return found


def choose_field(
    there: Sequence[str], asked: str, usual: Sequence[str], what: str, place: str, option: str = ""
) -> str:
    """Returns the field to read for `what` ("words", "tags"); `asked` wins, else the one usual name that is there.

    Raises UserError, with the fields that are there and the `option` to set (a config's key unless given), when it is
    absent or when several fit.
    """
    option = option or f"data.{what}_column"
    listed = ", ".join(repr(name) for name in there) or "none"
    if asked:
        if asked not in there:
            raise UserError(
                f"{place}: {option}={asked!r} is not there. {did_you_mean(asked, there)} Fields there: {listed}."
            )
        return asked
    fitting = [name for name in usual if name in there]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = " and ".join(repr(name) for name in fitting)
        raise UserError(f"{place}: {several} could both be the {what}: set {option} (fields there: {listed}).")
    raise UserError(f"{place}: no field for the {what} (looked for {', '.join(usual)}; there: {listed}): set {option}.")


def choose_document_field(there: Sequence[str], asked: str, place: str) -> str:
    """Returns the field with the document's name, or "" when none was asked for and there is none."""
    if not asked and not set(DOCUMENT_FIELDS) & set(there):
        return ""
    return choose_field(there, asked, DOCUMENT_FIELDS, "document", place)


def name_tags(values: Sequence[Any], names: Sequence[str] | None, origin: str) -> list[str]:
    """Returns tags as text: strings as they are, numbers by `names`. Raises UserError naming `origin` for any other."""
    tags = []
    for value in values:
        if not isinstance(value, str):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise UserError(f"{origin}: tag {value!r} is neither text nor a number.")
            if names is None:
                raise UserError(
                    f"{origin}: tag {value!r} is a number without a name: write tags as text, such as B-PER."
                )
            if not 0 <= int(value) < len(names):
                raise UserError(f"{origin}: tag number {value} is outside 0..{len(names) - 1}, the named tags.")
            value = names[int(value)]
        if not tagging.TAG.fullmatch(value):
            raise UserError(f"{origin}: {value!r} is not a tag: {tagging.TAG_RULE}.")
        tags.append(value)
    return tags


class SplitBuilder:
    """Collects the sentences of one split, numbers their documents and leaves out sentences without words."""

    def __init__(self, place: str):
        self._place = place
        self._sentences: list[RawSentence] = []
        self._dropped = 0
        self._document: Any = None
        self._number = -1

    def add(self, words: list[str], tags: list[str], origin: str, document: Any = None) -> None:
        """Adds one sentence; `document` is any value that neighbours of one document share.

        Raises UserError naming `origin` unless each word has one tag.
        """
        if len(words) != len(tags):
            raise UserError(f"{origin}: {len(words)} words but {len(tags)} tags: each word needs one tag.")
        if not words:
            self._dropped += 1
            return
        if self._number < 0 or document != self._document:
            self._number += 1
            self._document = document
        self._sentences.append(RawSentence(words, tags, self._number, origin))

    def finish(self, documents: Documents) -> RawSplit:
        """Returns the split. Raises UserError when it has no sentence."""
        if not self._sentences:
            raise UserError(f"{self._place}: the split is empty: it has no sentence with a word.")
        if documents == "none":
            sentences = [sentence._replace(document=i) for i, sentence in enumerate(self._sentences)]
            return RawSplit(sentences, self._place, documents, self._dropped)
        return RawSplit(self._sentences, self._place, documents, self._dropped)
