"""Scores an assistant on dialogues as they were: every turn of a user that an answer followed."""

# R requests

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from jaxfm import files
from jaxfm.data.records.conversations import Request, read_conversations, read_requests
from jaxfm.data.records.corpus_texts import FIELDS
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation import hand_over
from jaxfm.evaluation.bootstrap import Interval
from jaxfm.evaluation.hand_over import Outcomes
from jaxfm.observe import plots
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Cell, Table, to_html, to_markdown, to_rich
from jaxfm.observe.writers import to_json
from jaxfm.programs.assistant import ANSWER, FOR_A_PERSON, REASONS, UNSURE, Assistant

PORTION = 1024  # requests at a time
EXAMPLES = 10
REPORT, VALUES, PICTURE = "report.md", "report.json", "assist.png"
_OF_INTENT = "intent"  # of a user's turn
_WIDTH = 160  # characters of an example
_VERSION = 1


@dataclasses.dataclass(frozen=True, repr=False)
class AssistReport:
    """How well an assistant answers; a notebook shows its tables.

    Attributes:
      shares: name -> value with its interval.
      tables: all that was found, for people.
      values: the same as JSON values.
      curves: name -> (share answered, share of the answers that are wrong).
      scores: float [R], of the best answer to each request; -inf where an intent's rule hands over or none is found.
    """

    shares: Mapping[str, Interval]
    tables: Sequence[Table]
    values: Mapping[str, Any]
    curves: Mapping[str, Sequence[tuple[float, float]]]
    scores: np.ndarray

    def __repr__(self) -> str:
        return f"AssistReport({', '.join(f'{name}={each.value:.4f}' for name, each in self.shares.items())})"

    def __rich__(self) -> RenderableType:
        return Group(*map(to_rich, self.tables))

    def _repr_html_(self) -> str:
        return "".join(map(to_html, self.tables))

    def write(self, folder: str | pathlib.Path) -> None:
        """Writes report.md, report.json and assist.png into a directory that is absent or empty, all or nothing.

        Raises UserError for any other directory.
        """
        path = files.output_directory(folder, "--output")
        curves = {name: points for name, points in self.curves.items() if points}
        with files.atomic_directory(path) as made:
            parts = ["# Answers and hand-overs"]
            if curves:
                parts.append(f"![share of wrong answers by the share answered]({PICTURE})")
                plots.plot_lines(
                    {name: [(100 * x, 100 * y) for x, y in points] for name, points in curves.items()},
                    made / PICTURE,
                    title="Wrong answers by the share answered",
                    x_label="requests answered (%)",
                    y_label="of these answered wrongly (%)",
                )
            for table in self.tables:
                parts += [f"## {table.title}", to_markdown(table).strip("\n")]
            files.write_text(made / REPORT, "\n\n".join(parts) + "\n")
            files.write_json(made / VALUES, to_json({"version": _VERSION, **self.values}))


def evaluate_assistant(
    assistant: Assistant, source: str, *, split: str = "test", progress: Progress | None = None
) -> AssistReport:
    """Answers every user's turn of dialogues that a turn of the responder follows; beside it, retrieval alone.

    A stored answer is right where it equals the turn that followed, but for case and spaces; or where its column
    `match` (of `open_assistant`) equals that of the turn. Many other answers would do in a real dialogue: shares are
    lower bounds, for comparisons.

    Args:
      assistant: what is scored.
      source: `dialogue:DIR` or a .jsonl file; a user's turn may have an "intent", the right one.
      split: of `dialogue:DIR`.
      progress: where to show how far it is.

    Raises UserError: no such dialogues, no turn to answer, no turn with the column that is compared.
    """
    progress = progress or Progress(None, quiet=True)
    conversations = read_conversations(source, split, "--evaluate")
    requests = read_requests(conversations, assistant.responder, f"--evaluate={source}")
    if assistant.match and not any(assistant.match in each.response.values for each in requests):
        names = dict.fromkeys(name for each in requests for name in each.response.values)
        raise UserError(
            f"--evaluate={source}: no answer in it has {assistant.match!r}, which --match compares. "
            f"{did_you_mean(assistant.match, names)}"
        )
    replies, alone = list[dict[str, Any]](), list[dict[str, Any] | None]()
    with progress.task("answering", len(requests)) as advance:
        for first in range(0, len(requests), PORTION):
            texts = [each.texts for each in requests[first : first + PORTION]]
            replies += assistant.answer_requests(texts)
            alone += assistant.retrieve(texts)
            advance(len(texts))
    outcomes = outcomes_of(requests, replies, alone, assistant.match)
    return _report(assistant, source, requests, replies, outcomes)


def outcomes_of(
    requests: Sequence[Request],
    replies: Sequence[Mapping[str, Any]],
    alone: Sequence[Mapping[str, Any] | None],
    match: str = "",
) -> Outcomes:
    """Returns what became of each request, by the replies to it and the first text that retrieval finds alone."""
    first = [each["candidates"][0] if each["candidates"] else None for each in replies]
    by_rule = [each["reason"] in (UNSURE, FOR_A_PERSON) for each in replies]
    intents = [each.user.values.get(_OF_INTENT) for each in requests]
    known = [reply["intent"] is not None and intent is not None for reply, intent in zip(replies, intents, strict=True)]
    return Outcomes(
        dialogues=np.asarray([each.dialogue for each in requests]),
        scores=np.where(by_rule, -np.inf, _scores(first)),
        right=np.asarray([is_right(*each, match) for each in zip(first, requests, strict=True)], bool),
        answered=np.asarray([each["action"] == ANSWER for each in replies], bool),
        alone_scores=_scores(alone),
        alone_right=np.asarray([is_right(*each, match) for each in zip(alone, requests, strict=True)], bool),
        intent_right=np.asarray([str(a["intent"]) == str(b) for a, b in zip(replies, intents, strict=True)], bool),
        intent_known=np.asarray(known, bool),
    )


def is_right(found: Mapping[str, Any] | None, request: Request, match: str = "") -> bool:
    """Whether a stored answer is the one that followed: its text but for case and spaces, or its column `match`."""
    if found is None:
        return False
    if not match:
        return _same_text(found["answer"]) == _same_text(request.response.text)
    own = found.get(FIELDS, {}).get(match)
    return own is not None and own == request.response.values.get(match)


def _same_text(text: str) -> str:
    return " ".join(text.split()).casefold()


def _scores(found: Iterable[Mapping[str, Any] | None]) -> np.ndarray:
    return np.asarray([-math.inf if each is None else float(each["score"]) for each in found], np.float64)


_ROWS = (
    ("answered", hand_over.ANSWERED),
    ("right, of the answered", hand_over.RIGHT_ANSWERS),
    ("right, of all", hand_over.RIGHT),
    ("retrieval alone, all answered: right", hand_over.ALONE_RIGHT),
    ("retrieval alone, as many answered: right, of the answered", hand_over.ALONE_RIGHT_ANSWERS),
    ("retrieval alone, as many answered: right, of all", hand_over.ALONE_RIGHT_OF_ALL),
    ("right of the answered, less that of retrieval with as many", hand_over.GAIN),
    ("intents that are right", hand_over.INTENTS),
)


def _report(
    assistant: Assistant,
    source: str,
    requests: Sequence[Request],
    replies: Sequence[Mapping[str, Any]],
    outcomes: Outcomes,
) -> AssistReport:
    shares = hand_over.shares(outcomes)
    dialogues = len({each.dialogue for each in requests})
    rows = [
        (
            title,
            *(None if math.isnan(end) else end for end in (shares[name].value, shares[name].low, shares[name].high)),
        )
        for title, name in _ROWS
        if name in shares
    ]
    title = f"{len(requests):,} requests of {dialogues:,} dialogues of {source}"
    tables = [Table(title, ("share", "value", "95% from", "to"), rows)]
    reasons = {reason: sum(each["reason"] == reason for each in replies) for reason in REASONS}
    if not assistant.knows_intents:
        reasons = {reason: count for reason, count in reasons.items() if count}
    shown: list[tuple[Cell, ...]] = [(reason, count, count / len(requests)) for reason, count in reasons.items()]
    tables.append(Table("Handed over", ("why", "requests", "share"), shown))
    if assistant.knows_intents:
        tables.append(_by_intent(replies, outcomes))
    wrong = _worst(requests, replies, outcomes)
    if wrong:
        tables.append(Table("The surest wrong answers", tuple(wrong[0]), [tuple(each.values()) for each in wrong]))
    curves = {
        "with hand-over": hand_over.risk_coverage(outcomes.scores, outcomes.right),
        "retrieval alone": hand_over.risk_coverage(outcomes.alone_scores, outcomes.alone_right),
    }
    values = {
        "source": source,
        "requests": len(requests),
        "dialogues": dialogues,
        "rules": {
            "threshold": assistant.rules.threshold,
            "intent_threshold": assistant.rules.intent_threshold if assistant.knows_intents else None,
            "hand_over": sorted(assistant.rules.hand_over),
            "match": assistant.match or None,
        },
        "shares": {name: {"value": each.value, "interval": [each.low, each.high]} for name, each in shares.items()},
        "handed_over": reasons,
        "truncated": sum(bool(each.get("truncated")) for each in replies),
        "risk_coverage": curves,
        "wrong": wrong,
    }
    return AssistReport(shares, tables, values, curves, outcomes.scores)


def _by_intent(replies: Sequence[Mapping[str, Any]], outcomes: Outcomes) -> Table:
    """Returns a table of the intents that were predicted, the most frequent first."""
    intents = np.asarray([str(each["intent"]) for each in replies])
    names, counts = np.unique(intents, return_counts=True)
    rows: list[tuple[Cell, ...]] = []
    for place in np.lexsort((names, -counts)).tolist():
        of = intents == names[place]
        answered, right = int((of & outcomes.answered).sum()), int((of & outcomes.answered & outcomes.right).sum())
        share = right / answered if answered else None
        rows.append((str(names[place]), int(counts[place]), answered, answered / int(counts[place]), share))
    return Table(
        "By the intent that was predicted",
        ("intent", "requests", "answered", "share answered", "right, of the answered"),
        rows,
    )


def _worst(
    requests: Sequence[Request], replies: Sequence[Mapping[str, Any]], outcomes: Outcomes
) -> list[dict[str, str | float]]:
    wrong = np.flatnonzero(outcomes.answered & ~outcomes.right)
    surest = wrong[np.argsort(-outcomes.scores[wrong], kind="stable")][:EXAMPLES].tolist()
    return [
        {
            "where": requests[place].origin,
            "the user said": _short(requests[place].user.text),
            "it answered": _short(replies[place]["answer"]),
            "followed": _short(requests[place].response.text),
            "score": float(outcomes.scores[place]),
        }
        for place in surest
    ]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
