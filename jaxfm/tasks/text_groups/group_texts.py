"""Groups of texts as numbers and rows: those of training packed together, those of evaluation each text once."""

# M groups, K texts a group, Q queries, C documents, E embedding

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.data.records.text_groups import TextGroup
from jaxfm.data.text.packing import PackedRows
from jaxfm.tasks.text_groups.encoding import DOCUMENT, QUERY, EncodedTexts, TextReading, TextsSpec, pack_texts, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class TokenizedGroups:
    """The texts of groups as tokens.

    Attributes:
      tokens: of each text of each group, special ones included.
      cut: bool [M], which groups have a text that is cut.
    """

    tokens: tuple[tuple[np.ndarray, ...], ...]
    cut: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each group [M]."""
        return np.asarray([sum(map(len, group)) for group in self.tokens], np.int64)


def tokenize_groups(
    tokenizer: "PreTrainedTokenizerFast",
    groups: Sequence[TextGroup],
    readings: tuple[TextReading, TextReading],
) -> TokenizedGroups:
    """Tokenizes anchors by the first reading and all other texts by the second; each once."""
    anchors = _number(group.anchor for group in groups)
    others = _number(text for group in groups for text in group.others)
    (of_anchors, cut_anchors), (of_others, cut_others) = (
        tokenize(tokenizer, list(texts), reading) for texts, reading in zip((anchors, others), readings, strict=True)
    )
    tokens, cut = [], []
    for group in groups:
        numbers = [others[text] for text in group.others]
        tokens.append((of_anchors[anchors[group.anchor]], *(of_others[number] for number in numbers)))
        cut.append(bool(cut_anchors[anchors[group.anchor]] or any(cut_others[number] for number in numbers)))
    return TokenizedGroups(tuple(tokens), np.asarray(cut, bool))


def shortened(group: Sequence[np.ndarray], room: int) -> tuple[np.ndarray, ...]:
    """Returns the texts of a group cut to `room` tokens together, the longest first; the last token of each stays.

    The last token is what a tokenizer puts at the end of a text. The result is that of cutting the longest text by a
    token again and again.
    """
    lengths = np.asarray([len(text) for text in group], np.int64)
    if lengths.sum() <= room:
        return tuple(group)
    ordered = np.sort(lengths)
    before = np.concatenate([[0], np.cumsum(ordered)])
    # The largest cap under which all fit: the texts below it keep their length, the others share what is left.
    cap = next(
        (room - int(before[index])) // (len(ordered) - index)
        for index in range(len(ordered))
        if (room - int(before[index])) // (len(ordered) - index) < ordered[index]
    )
    return tuple(text if len(text) <= cap else np.concatenate([text[: cap - 1], text[-1:]]) for text in group)


def text_numbers(groups: Sequence[TextGroup]) -> list[list[int]]:
    """Returns a number for each text of each group, the same for equal texts."""
    numbers = _number(text for group in groups for text in (group.anchor, *group.others))
    return [[numbers[text] for text in (group.anchor, *group.others)] for group in groups]


@dataclasses.dataclass(frozen=True)
class EvaluatedGroups:
    """The texts of a split, each once in each role, as rows.

    Attributes:
      queries: the anchors.
      documents: all other texts.
      encoded: queries, then documents.
      members: of each group the number of its query, then those of its documents.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    encoded: EncodedTexts
    members: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.encoded.rows

    def vectors(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the vectors of queries [Q, E] and documents [C, E]."""
        found = self.encoded.per_text(outputs["vectors"])
        return found[: len(self.queries)], found[len(self.queries) :]


def evaluated_groups(
    spec: TextsSpec, tokenizer: "PreTrainedTokenizerFast", groups: Sequence[TextGroup]
) -> EvaluatedGroups:
    """Returns the texts of a split as rows to compute."""
    queries = _number(group.anchor for group in groups)
    documents = _number(text for group in groups for text in group.others)
    parts = [
        tokenize(tokenizer, list(texts), spec.reading(role))
        for texts, role in ((queries, QUERY), (documents, DOCUMENT))
    ]
    tokens = [text for found, _ in parts for text in found]
    encoded = EncodedTexts(pack_texts(spec, tokenizer, tokens), np.concatenate([cut for _, cut in parts]))
    members = tuple((queries[group.anchor], *(documents[text] for text in group.others)) for group in groups)
    return EvaluatedGroups(tuple(queries), tuple(documents), encoded, members)


def _number(texts: Iterable[str]) -> dict[str, int]:
    """Returns a number for each different text, in the order in which they occur."""
    numbers: dict[str, int] = {}
    for text in texts:
        numbers.setdefault(text, len(numbers))
    return numbers
