"""Labels as texts: what is read of a type, which types of several sources are one label, and the rows of labels."""

# C labels, S sources, L tokens of a label

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxfm import files
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.data.text.tokenization import encode_words
from jaxfm.errors import UserError
from jaxfm.tasks.asked_labels import Label

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Codes of types as corpora have them: CoNLL 2003, OntoNotes 5, ACE 2005.
USUAL_TEXTS: Mapping[str, str] = {
    "PER": "person",
    "LOC": "location",
    "ORG": "organization",
    "MISC": "miscellaneous",
    "NORP": "nationality, religious or political group",
    "FAC": "facility",
    "GPE": "country, city or state",
    "VEH": "vehicle",
    "WEA": "weapon",
}
_ROUNDED = 8  # rows of labels have a multiple of so many tokens
_SHOWN = 60  # characters of a text in a message


class LabelTable(NamedTuple):
    """The labels of several sources.

    Attributes:
      labels: each with the name that its first source has.
      classes: type of a source -> number of its label.
      annotated_SC: bool, which labels each source annotates: where it does not, an unmarked span says nothing.
    """

    labels: tuple[Label, ...]
    classes: dict[str, int]
    annotated_SC: np.ndarray


def label_text(name: str, known: Mapping[str, str]) -> str:
    """Returns the text of a type: the known one, that of a usual code, or the words of its name in lower case."""
    return (
        known.get(name) or USUAL_TEXTS.get(name) or " ".join(name.replace("_", " ").replace("-", " ").lower().split())
    )


def label_table(types: Sequence[tuple[str, Iterable[str]]], known: Mapping[str, str]) -> LabelTable:
    """Returns the labels of sources, each (name of the source, its types); types of one text are one label.

    Raises:
      UserError: a source without types, or with two types of one text.
    """
    labels: dict[str, str] = {}
    classes: dict[str, int] = {}
    annotated: list[set[int]] = []
    for source, found in types:
        own: dict[str, str] = {}
        for name in sorted(found):
            text = label_text(name, known)
            if text in own:
                raise UserError(
                    f"{source}: its types {own[text]!r} and {name!r} would be one label, {text!r}. Give each a text of "
                    "its own (config.task.label_texts)."
                )
            own[text] = name
            labels.setdefault(text, name)
            classes[name] = [*labels].index(text)
        if not own:
            raise UserError(f"{source}: has no entity at all, so there is no type to learn or to look for.")
        annotated.append({classes[name] for name in own.values()})
    table = np.asarray([[number in found for number in range(len(labels))] for found in annotated])
    return LabelTable(tuple(Label(name, text) for text, name in labels.items()), classes, table)


def read_label_texts(path: str) -> dict[str, str]:
    """Returns type -> text of a JSON file, {} where there is no path; UserError for a file of anything else."""
    if not path:
        return {}
    file = files.user_path(path, "config.task.label_texts")
    if not file.is_file():
        raise UserError(f"config.task.label_texts: there is no file {file}.")
    values = files.read_object(file)
    for name, text in values.items():
        if not isinstance(text, str) or not text.strip():
            raise UserError(f'{file}: {name}: is {text!r}, but must be a text: {{"{name}": "what the type is"}}.')
    return {name: " ".join(text.split()) for name, text in values.items()}


def label_rows(
    tokenizer: "PreTrainedTokenizerFast", labels: Sequence[Label], most: int, where: str = "config.task.label_length"
) -> PackedRows:
    """Returns rows [C, L] of one label each, in order.

    Args:
      tokenizer: of the run.
      labels: what is read.
      most: tokens that a label may have, special ones included.
      where: what a message begins with.

    Raises:
      UserError: a label of more tokens.
    """
    cls_id, sep_id, pad_id = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    assert isinstance(cls_id, int) and isinstance(sep_id, int) and isinstance(pad_id, int), "see check_tokenizer"
    tokens = []
    for label, words in zip(labels, encode_words(tokenizer, [label.text.split() for label in labels]), strict=True):
        ids = np.asarray([cls_id, *(piece for word in words for piece in word), sep_id], np.int32)
        if len(ids) > most:
            raise UserError(
                f"{where}: the text of the label {label.name!r} has {len(ids)} tokens, but at most {most} are read: "
                f"{label.text[:_SHOWN]!r}. Shorten it, or train with a greater config.task.label_length."
            )
        tokens.append(ids)
    longest = max(len(ids) for ids in tokens)
    return rows_of(tokens, -(-longest // _ROUNDED) * _ROUNDED, pad_id)


def rows_of(tokens: Sequence[np.ndarray], length: int, pad_id: int) -> PackedRows:
    """Returns rows [C, L] of one text each, in order: packed rows may hold one segment only (config.data.packed)."""
    unknown = [np.full(len(ids), -1, np.int32) for ids in tokens]
    rows = build_rows(tokens, unknown, length, pad_id, None, 1)
    order = rows.example_locations[:, 0]  # the longest lie first
    return PackedRows(
        rows.tokens[order], rows.segment_ids[order], rows.positions[order], None, rows.labels[order], True,
        np.stack([np.arange(len(order)), 0 * order, 0 * order], axis=1), pad_id,
    )  # fmt: skip
