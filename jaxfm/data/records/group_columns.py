"""Which columns of a table hold the texts and numbers of a group: an anchor, what goes with it, scores."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from jaxfm.data.records.glue import GlueSet
from jaxfm.data.records.table import Table, choose_column, listed, require_columns
from jaxfm.errors import UserError

KINDS = ("pairs", "scored", "teacher")
LABEL_RULES = ("", "nli", "binary", "all")

PAIR_COLUMNS = (
    ("anchor", "positive"),
    ("query", "positive"),
    ("question", "positive"),
    ("text", "positive"),
    ("sentence", "positive"),
    ("query", "pos"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "answer"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "context"),
    ("question", "passage"),
    ("question", "sentence"),
    ("context", "response"),
    ("docstring", "code"),
    ("title", "body"),
    ("title", "abstract"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "pair"),
    ("text", "text_pair"),
)
# Of teacher scores also all passages of a query in one list.
PASSAGE_LISTS = tuple(
    (anchor, passages) for anchor in ("query", "question", "anchor") for passages in ("passages", "documents", "texts")
)
SCORE_COLUMNS = ("score", "similarity", "similarity_score", "label", "rating", "target")
TEACHER_COLUMNS = ("scores", "teacher_scores", "score", "teacher_score", "margin", "label", "labels")
LABEL_COLUMNS = ("label", "labels", "gold_label", "is_duplicate")
_SURE = ("positive", "pos")  # columns whose name says that every row is a positive pair
_NEGATIVE = re.compile(r"(?:hard_?)?neg(?:ative)?s?(?:_(?:passage|document|text)s?)?_?([0-9]*)")
_POSITIVE_SCORE = re.compile(r"(?:pos(?:itive)?_scores?|scores?_pos(?:itive)?)")
_NEGATIVE_SCORE = re.compile(r"(?:neg(?:ative)?_scores?|scores?_neg(?:ative)?)_?([0-9]*)")
_SET = "Set data.text_column (anchor), data.pair_column (positive), task.negative_columns, data.label_column (scores)."


@dataclasses.dataclass(frozen=True)
class GroupColumns:
    """Which columns hold what; empty finds the usual ones.

    Attributes:
        anchor: the query, premise, question (`data.text_column`).
        positive: what goes with it, or the list of all passages (`data.pair_column`).
        negatives: what does not: a column of texts or of lists of them, or several, "A,B,C" (`task.negative_columns`).
        scores: a number, a list of numbers, or several columns of these, "A,B,C"; the label of a pair where a rule
            reads labels (`data.label_column`).
    """

    anchor: str = ""
    positive: str = ""
    negatives: str = ""
    scores: str = ""

    def named(self) -> list[str]:
        """Returns the names that a user gave."""
        return [name for name in (self.anchor, self.positive, *_names(self.negatives), *_names(self.scores)) if name]


@dataclasses.dataclass(frozen=True)
class ChosenColumns:
    """The columns of a table that are read: texts first. `label` is empty unless a rule reads it."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    label: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        """In the order in which rows are read."""
        return (self.anchor, self.positive, *self.negatives, *self.scores, *((self.label,) if self.label else ()))

    def present_in(self, table: Table) -> "ChosenColumns":
        """Without the columns of negatives that this table lacks: a split to evaluate may have none.

        Raises UserError for another column that it lacks.
        """
        kept = dataclasses.replace(self, negatives=tuple(name for name in self.negatives if name in table.columns))
        require_columns(table.columns, kept.all, table.source)
        return kept


def choose_columns(
    table: Table, columns: GroupColumns, kind: str, label_rule: str = "", glue: GlueSet | None = None
) -> ChosenColumns:
    """Returns the columns of a table that hold groups of a kind (KINDS).

    Args:
      table: of the first split.
      columns: those that a user named.
      kind: "pairs", "scored" or "teacher".
      label_rule: what the label of a pair means, one of LABEL_RULES.
      glue: the set of GLUE that this is, if any.

    Raises:
      UserError: an absent column, several that fit, labels of pairs without a rule.
    """
    if glue is not None and not columns.anchor:
        label = columns.scores or (glue.label if kind == "scored" or label_rule not in ("", "all") else "")
        columns = dataclasses.replace(
            columns, anchor=glue.text, positive=columns.positive or glue.pair, scores=label
        )  # fmt: skip
    negatives = _negatives(table, columns.negatives) if kind != "scored" else ()
    if kind == "scored" and columns.negatives:
        raise UserError(f"task.negative_columns={columns.negatives!r}: pairs with a score each have no negatives.")
    taken = {*negatives, *_names(columns.scores)}
    unused = [name for name in table.columns if name not in taken]
    anchor, positive = _texts(table, unused, columns, kind)
    chosen = ChosenColumns(anchor, positive, tuple(name for name in negatives if name not in (anchor, positive)))
    if kind == "pairs":
        chosen = _with_label(table, chosen, columns.scores, label_rule)
    elif label_rule:
        raise UserError(f"task.label_rule={label_rule!r} is for pairs; {kind} groups have scores, not labels.")
    else:
        chosen = dataclasses.replace(chosen, scores=_scores(table, columns.scores, kind))
    repeated = [name for name in dict.fromkeys(chosen.all) if chosen.all.count(name) > 1]
    if repeated:
        raise UserError(f"{table.source}: the column {repeated[0]!r} is to be read as two things. {_SET}")
    return chosen


def _names(asked: str) -> list[str]:
    return [name.strip() for name in asked.split(",") if name.strip()]


def _negatives(table: Table, asked: str) -> tuple[str, ...]:
    if asked:
        names = [asked] if asked in table.columns else _names(asked)
        for name in names:
            choose_column(table.columns, name, (), "negative", table.source, "task.negative_columns")
        return tuple(names)
    return _numbered(table.columns, _NEGATIVE)


def _numbered(columns: Iterable[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Those whose name fits, by the number at its end."""
    found = [(int(match[1] or 0), name) for name in columns if (match := pattern.fullmatch(name.lower()))]
    return tuple(name for _, name in sorted(found, key=lambda item: item[0]))


def _texts(table: Table, unused: Sequence[str], columns: GroupColumns, kind: str) -> tuple[str, str]:
    usual = (*PAIR_COLUMNS, *(PASSAGE_LISTS if kind == "teacher" else ()))
    anchor, positive = columns.anchor, columns.positive
    if anchor and anchor == positive:
        raise UserError(f"data.text_column and data.pair_column are both {anchor!r}. {_SET}")
    if anchor:
        choose_column(table.columns, anchor, (), "text", table.source)
    if positive:
        choose_column(table.columns, positive, (), "pair", table.source)
    fitting = [
        (first, second)
        for first, second in usual
        if first in (anchor, *(() if anchor else unused)) and second in (positive, *(() if positive else unused))
    ]
    if anchor and positive:
        return anchor, positive
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = " and ".join("+".join(both) for both in fitting)
        raise UserError(f"{table.source}: {several} could both be the anchor and its positive. {_SET}")
    others = [name for name in unused if name not in (anchor, positive)]
    if anchor:
        seconds = tuple(dict.fromkeys(second for _, second in usual))
        return anchor, choose_column(others, "", seconds, "pair", table.source)
    if positive:
        firsts = tuple(dict.fromkeys(first for first, _ in usual))
        return choose_column(others, "", firsts, "text", table.source), positive
    looked = ", ".join("+".join(both) for both in usual[:8])
    raise UserError(
        f"{table.source}: no two columns that usually hold an anchor and its positive (such as {looked}); columns: "
        f"{listed(table.columns)}. {_SET}"
    )


def _with_label(table: Table, chosen: ChosenColumns, asked: str, rule: str) -> ChosenColumns:
    """Adds the column of labels where a rule reads it; refuses labels that no rule reads."""
    if rule in ("nli", "binary"):
        label = choose_column(table.columns, asked, LABEL_COLUMNS, "label", table.source)
        if chosen.negatives:
            raise UserError(
                f"{table.source}: task.label_rule={rule!r} finds the negatives of an anchor by their label, but there "
                f"are columns of negatives too ({listed(chosen.negatives)}): write task.label_rule=all for these."
            )
        return dataclasses.replace(chosen, label=label)
    if rule == "all" or (chosen.positive.lower() in _SURE and not asked):
        return chosen
    labels = [asked] if asked else [name for name in (*LABEL_COLUMNS, *SCORE_COLUMNS) if name in table.columns]
    labels = [name for name in labels if name not in chosen.all]
    if labels:
        raise UserError(
            f"{table.source}: the pairs {chosen.anchor}+{chosen.positive} have {labels[0]!r} beside them, so not every "
            "pair may be a positive one. Set task.label_rule: nli (entailments are positives, contradictions of the "
            "same premise its negatives), binary (1 positive, 0 negative), or all (every pair is positive)."
        )
    return chosen


def _scores(table: Table, asked: str, kind: str) -> tuple[str, ...]:
    if asked:
        names = [asked] if asked in table.columns else _names(asked)
        if kind == "scored" and len(names) > 1:
            raise UserError(f"data.label_column={asked!r}: a pair has one score.")
        for name in names:
            choose_column(table.columns, name, (), "label", table.source)
        return tuple(names)
    if kind == "teacher":
        positive = [name for name in table.columns if _POSITIVE_SCORE.fullmatch(name.lower())]
        negative = _numbered(table.columns, _NEGATIVE_SCORE)
        if len(positive) == 1 and negative:
            return (positive[0], *negative)
        return (choose_column(table.columns, "", TEACHER_COLUMNS, "label", table.source),)
    return (choose_column(table.columns, "", SCORE_COLUMNS, "label", table.source),)
