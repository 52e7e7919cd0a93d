"""Pairs of a stereotypical and another sentence, from files in the form of CrowS-Pairs or of StereoSet.

CrowS-Pairs (Nangia et al. 2020, arXiv 2010.00133) is a table with the columns sent_more, sent_less and bias_type.
StereoSet (Nadeem et al. 2020, arXiv 2004.09456) is JSON, of which the part `intrasentence` is read. Neither comes with
jaxfm.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxfm.data.records.registry import file_formats, open_file
from jaxfm.data.records.table import require_columns, require_text
from jaxfm.errors import UserError

_COLUMNS = ("sent_more", "sent_less", "bias_type")
_BLANK = "BLANK"
_LABELS = ("stereotype", "anti-stereotype", "unrelated")


@dataclasses.dataclass(frozen=True)
class StereotypePair:
    """Sentences that differ in a few words.

    Attributes:
      kind: of bias: "gender".
      more: the more stereotypical one.
      less: the other one.
      unrelated: one that makes no sense; "" where the set has none.
      blank: characters [start, end) of each of the sentences that are compared; empty: the words that they share.
      origin: where it was read.
    """

    kind: str
    more: str
    less: str
    unrelated: str = ""
    blank: tuple[tuple[int, int], ...] = ()
    origin: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """Two, or three with an unrelated one."""
        return (self.more, self.less, *filter(None, (self.unrelated,)))


def read_stereotypes(path: pathlib.Path) -> tuple[StereotypePair, ...]:
    """Reads a file of either form; UserError where it is of neither, or has a damaged record."""
    if not path.is_file():
        raise UserError(f"--stereotypes={path}: no such file.")
    if path.suffix.lower() == ".json" and (found := _stereoset(path)) is not None:
        return found
    if path.suffix.lower() not in file_formats():
        raise UserError(
            f"{path}: is neither a table with {', '.join(_COLUMNS)} (the form of CrowS-Pairs; "
            f"{', '.join(file_formats())}) nor JSON in the form of StereoSet."
        )
    table = open_file(path)
    require_columns(table.columns, _COLUMNS, f"{path}: the form of CrowS-Pairs")
    pairs = []
    for origin, values in table.values(_COLUMNS):
        more, less, kind = (
            require_text(value, name, origin).strip() for value, name in zip(values, _COLUMNS, strict=True)
        )
        for name, text in (("sent_more", more), ("sent_less", less)):
            if not text:
                raise UserError(f"{origin}: {name} is blank.")
        if more == less:
            raise UserError(f"{origin}: sent_more and sent_less are the same.")
        pairs.append(StereotypePair(kind, more, less, origin=origin))
    if not pairs:
        raise UserError(f"{path}: has no pairs.")
    return tuple(pairs)


def _stereoset(path: pathlib.Path) -> tuple[StereotypePair, ...] | None:
    """Returns the pairs of a file of StereoSet; None for JSON of another form."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: is not JSON: {error}.") from None
    data = values.get("data") if isinstance(values, dict) else None
    listed = data.get("intrasentence") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        return None
    if not listed:
        raise UserError(f"{path}: data.intrasentence is empty.")
    return tuple(_of_stereoset(each, f"{path}: data.intrasentence[{number}]") for number, each in enumerate(listed))


def _of_stereoset(value: Any, origin: str) -> StereotypePair:
    if not isinstance(value, Mapping):
        raise UserError(f"{origin}: must be an object.")
    kind, context = (require_text(value.get(name), name, origin) for name in ("bias_type", "context"))
    before, found, after = context.partition(_BLANK)
    if not found:
        raise UserError(f"{origin}: its context has no {_BLANK}.")
    sentences = dict(_labelled(value.get("sentences"), origin))
    if missing := next((label for label in _LABELS if label not in sentences), None):
        raise UserError(f"{origin}: has no sentence with the gold_label {missing!r}.")
    spans = []
    for label in _LABELS:
        text = sentences[label]
        end = len(text) - len(after)
        if not (text.startswith(before) and text.endswith(after) and end > len(before)):
            raise UserError(f"{origin}: {text!r} is not its context with words in place of {_BLANK}.")
        spans.append((len(before), end))
    more, less, unrelated = (sentences[label] for label in _LABELS)
    return StereotypePair(kind, more, less, unrelated, tuple(spans), origin)


def _labelled(values: Any, origin: str) -> Iterator[tuple[str, str]]:
    for each in values if isinstance(values, list) else ():
        if isinstance(each, Mapping):
            yield str(each.get("gold_label")), require_text(each.get("sentence"), "sentence", origin)
