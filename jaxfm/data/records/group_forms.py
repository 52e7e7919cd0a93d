"""How a row says what a group is: texts and lists of texts, scores and margins, labels of pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.data.records import targets
from jaxfm.data.records.printed_labels import printed_value
from jaxfm.data.records.table import shown, text_or_empty
from jaxfm.errors import UserError, did_you_mean

POSITIVE, NEGATIVE, NEITHER = "positive", "negative", "neither"
# What the label of a pair says of it, by the rule that reads it.
RULES: Mapping[str, Mapping[str, str]] = {
    "nli": {
        "entailment": POSITIVE,
        "contradiction": NEGATIVE,
        "neutral": NEITHER,
        "not_entailment": NEITHER,  # neutral or contradiction
        "-": NEITHER,  # SNLI: the annotators did not agree
    },
    "binary": {
        "1": POSITIVE,
        "true": POSITIVE,
        "yes": POSITIVE,
        "duplicate": POSITIVE,
        "equivalent": POSITIVE,
        "0": NEGATIVE,
        "false": NEGATIVE,
        "no": NEGATIVE,
        "not_duplicate": NEGATIVE,
        "not_equivalent": NEGATIVE,
    },
}


def role_of(value: Any, rule: str, names: Sequence[str] | None, column: str, origin: str) -> str:
    """Returns what a label says of a pair: POSITIVE, NEGATIVE or NEITHER (also for no label at all).

    Raises UserError naming `origin` for a label that the rule does not know.
    """
    if targets.is_missing(value, "single", names, None):
        return NEITHER
    label = targets.class_of(value, names, column, origin).lower()
    if label not in RULES[rule]:
        hint = did_you_mean(label, RULES[rule])
        if rule == "nli" and label.isdigit():
            hint = "A number needs names (entailment, neutral, contradiction), which this source does not give."
        raise UserError(
            f"{origin}: {shown(value)} in {column!r} is not a label that task.label_rule={rule} knows. {hint}"
        )
    return RULES[rule][label]


def texts_of(value: Any, column: str, origin: str) -> tuple[list[str], bool]:
    """Returns the texts of a cell, and whether it held a list of them.

    A list may be printed into the cell of a csv file: `["a", "b"]`. Null is no text; a text may be blank.
    Raises UserError naming `origin` for anything but texts.
    """
    if isinstance(value, str) and value[:1] == "[":
        printed = printed_value(value)
        if isinstance(printed, list) and printed and all(isinstance(item, str) for item in printed):
            value = printed
    if value is None:
        return [], False
    if isinstance(value, list):
        return [text_or_empty(item, column, origin) for item in value], True
    return [text_or_empty(value, column, origin)], False


def scores_of(value: Any, column: str, origin: str) -> list[float]:
    """Returns the numbers of a cell: one, or those of a list (also one that is printed).

    Raises UserError naming `origin` for what is not a finite number.
    """
    if isinstance(value, str) and (printed := printed_value(value)) is not None:
        value = printed
    values = value if isinstance(value, list) else [value]
    return [targets.score_of(item, column, origin) for item in values]


def teacher_scores(found: Sequence[float], passages: int, listed: bool, column: str, origin: str) -> tuple[float, ...]:
    """Returns a score for each passage.

    Where a positive and n negatives have n numbers, these are margins, score of the positive less that of the
    negative; what is returned is then 0 for the positive and minus the margin for each negative, which has the same
    differences, and so the same MarginMSE and the same softmax.

    Args:
      found: the numbers of a row.
      passages: of the row.
      listed: whether all passages are in one list, so that the first is not known to be the positive.
      column: that holds the numbers, for messages.
      origin: of the row.

    Raises:
      UserError: fewer than two passages, or numbers that do not fit them.
    """
    if passages < 2:
        raise UserError(
            f"{origin}: {passages} passage, but a teacher compares two or more: give a negative, or a list of passages."
        )
    if len(found) == passages:
        return tuple(found)
    if len(found) == passages - 1 and not listed:
        return (0.0, *(-margin for margin in found))
    allowed = f"{passages}" if listed else f"{passages} (a score for each) or {passages - 1} (margins)"
    raise UserError(
        f"{origin}: {len(found)} numbers in {column} do not fit {passages} passages: there must be {allowed}."
    )
