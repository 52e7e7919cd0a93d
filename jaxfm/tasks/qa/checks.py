"""Checks of questions before training: sizes, repeats, answers out of reach, length, unknown tokens."""

# E questions

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.data.records.questions import Question
from jaxfm.data.text.question_windows import QuestionWindows, span_owner
from jaxfm.observe.tables import Table
from jaxfm.tasks import text_checks
from jaxfm.tasks.qa.spec import QaSpec, token_span
from jaxfm.tasks.text_checks import LENGTH_COLUMNS, CheckedText, length_row, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Questions = Mapping[str, Sequence[Question]]
_MANY_LONG = 0.02  # share of the answers out of reach that is worth a warning


def check_questions(
    spec: QaSpec, questions: Questions, windows: Mapping[str, QuestionWindows], tokenizer: "PreTrainedTokenizerFast"
) -> DataCheck:
    """Runs all checks; `windows` are those of each split, "train" first."""
    lengths = {split: whole_lengths(found) for split, found in windows.items()}
    texts = {
        split: [CheckedText(f"{each.question} | {each.context}", _gold(each), each.origin) for each in found]
        for split, found in questions.items()
    }
    sizes = [
        (split, len(found), len({each.context for each in found}), *length_row(lengths[split]))
        for split, found in questions.items()
    ]
    pieces = {split: [context.ids for context in found.contexts] for split, found in windows.items()}
    findings = (
        *text_checks.check_texts(texts, "questions"),
        _shared_contexts(questions),
        *_answers(spec, questions, windows),
        _unanswered(questions),
        text_checks.check_unknown(pieces, tokenizer),
    )
    return DataCheck((Table("Splits", ("split", "questions", "contexts", *LENGTH_COLUMNS), sizes),), findings)


def whole_lengths(windows: QuestionWindows) -> np.ndarray:
    """Returns the tokens [E] of each question with its whole context, special ones included."""
    lengths = np.zeros(len(windows.contexts), np.int64)
    last = windows.start + windows.size
    beside = np.asarray([len(tokens) for tokens in windows.tokens]) - windows.size
    np.maximum.at(lengths, windows.question, last + beside)
    return lengths


def out_of_reach(spec: QaSpec, questions: Sequence[Question], windows: QuestionWindows) -> list[int]:
    """Returns the questions whose first answer is never given: it is too long, or lies whole in no window."""
    found = []
    ends = np.searchsorted(windows.question, np.arange(len(questions) + 1))
    for number, (question, context) in enumerate(zip(questions, windows.contexts, strict=True)):
        if not question.answers:
            continue
        span = token_span(context.offsets, question.answers[0].start, question.answers[0].end)
        own = slice(ends[number], ends[number + 1])
        if (
            span is None
            or span[1] - span[0] >= spec.max_answer
            or span_owner(windows.start[own].tolist(), windows.size[own].tolist(), *span) < 0
        ):
            found.append(number)
    return found


def _gold(question: Question) -> str:
    return question.answers[0].text if question.answers else "(no answer)"


def _shared_contexts(questions: Questions) -> Finding:
    """Checks for contexts that are in train and in another split."""
    trained = {each.context for each in questions["train"]}
    places = [
        f"{each.origin}: {shown(each.context)}"
        for split, found in questions.items()
        if split != "train"
        for each in found
        if each.context in trained
    ]
    if not places:
        return Finding("ok", "shared contexts", "no context of another split is in train")
    message = f"questions whose context is in train too: {len(places):,}"
    fix = "keep all questions of a context in one split: scores are too good otherwise"
    return Finding("warning", "shared contexts", message, fix, tuple(places))


def _answers(spec: QaSpec, questions: Questions, windows: Mapping[str, QuestionWindows]) -> list[Finding]:
    """Checks for answers that are never given, or end inside a token."""
    count, far, inside = 0, [], []
    for split, found in questions.items():
        unreachable = set(out_of_reach(spec, found, windows[split]))
        for number, (question, context) in enumerate(zip(found, windows[split].contexts, strict=True)):
            if not question.answers:
                continue
            answer, count = question.answers[0], count + 1
            place = f"{question.origin}: {shown(answer.text)}"
            span = token_span(context.offsets, answer.start, answer.end)
            if number in unreachable or span is None:
                far.append(place)
            elif question.context[context.offsets[span[0], 0] : context.offsets[span[1], 1]] != answer.text.strip():
                inside.append(place)
    return [
        _finding(
            "long answers",
            f"answers of more than {spec.max_answer} tokens, or whole in no window, which are never given",
            far,
            count,
            "raise config.task.max_answer, and config.task.overlap above it",
        ),
        _finding(
            "answers inside tokens",
            "answers that start or end inside a token, so that they are never given exactly",
            inside,
            count,
            "a tokenizer with smaller pieces, or answers of whole words",
        ),
    ]


def _finding(check: str, what: str, places: Sequence[str], count: int, fix: str) -> Finding:
    level = "warning" if len(places) > _MANY_LONG * count else "ok"
    return Finding(level, check, f"{what}: {len(places):,} of {count:,}", fix if places else "", tuple(places))


def _unanswered(questions: Questions) -> Finding:
    """Checks that questions without an answer are in training where they are in other splits."""
    shares = {split: sum(not each.answers for each in found) / len(found) for split, found in questions.items()}
    said = ", ".join(f"{split} {share:.0%}" for split, share in shares.items())
    if not shares["train"] and any(shares.values()):
        message = f"questions without an answer are in other splits, but not in train ({said})"
        return Finding("warning", "no answer", message, "add such questions to train: the model would always answer")
    return Finding("ok", "no answer", f"share of questions without an answer: {said}")
