"""The questions that a reader has most wrong: the part of the context with the gold answer and what was answered."""

# E questions

from collections.abc import Sequence

import numpy as np

from jaxfm.data.records.questions import Question
from jaxfm.observe.examples import SHOWN, Mark, View, WrongExample, without_overlaps
from jaxfm.tasks.qa.decoding import Span

_AROUND = 200  # characters of the context that are shown before and after what is marked


def worst_questions(
    questions: Sequence[Question],
    found: Sequence[Span | None],
    probabilities: Sequence[float],
    f1_E: np.ndarray,
    loss_E: np.ndarray,
) -> tuple[WrongExample, ...]:
    """Returns the questions whose F1 is not 1, that of the largest loss first, at most `SHOWN`.

    Args:
      questions: with their gold answers.
      found: what was answered; None: nothing.
      probabilities: of what was answered.
      f1_E: of each question.
      loss_E: of each question, in nats.
    """
    wrong = [index for index in np.argsort(-loss_E, kind="stable").tolist() if f1_E[index] < 1]
    return tuple(
        _example(questions[index], found[index], probabilities[index], float(f1_E[index]), float(loss_E[index]))
        for index in wrong[:SHOWN]
    )


def _example(question: Question, found: Span | None, probability: float, f1: float, loss: float) -> WrongExample:
    gold = [Mark(answer.start, answer.end, "gold", "missed") for answer in question.answers[:1]]
    said = [Mark(found.start, found.end, "answered", "wrong")] if found else []
    facts = (
        ("gold", " | ".join(answer.text for answer in question.answers) or "(no answer)"),
        ("answered", question.context[found.start : found.end] if found else "(no answer)"),
        ("probability", probability),
        ("F1", f1),
        ("loss", loss),
    )
    return WrongExample(
        question.origin,
        (
            View("question", question.question),
            _part("gold", question.context, gold),
            _part("answered", question.context, said),
        ),
        facts,
    )


def _part(heading: str, context: str, marks: list[Mark]) -> View:
    """Returns the part of a context around its marks, or its beginning where it has none."""
    first = min((mark.start for mark in marks), default=0)
    last = max((mark.end for mark in marks), default=0)
    start, end = max(first - _AROUND, 0), min(last + _AROUND, len(context))
    before, after = "... " if start else "", " ..." if end < len(context) else ""
    moved = len(before) - start
    shown = [Mark(mark.start + moved, mark.end + moved, mark.label, mark.status) for mark in marks]
    return View(heading, f"{before}{context[start:end]}{after}", without_overlaps(shown))
