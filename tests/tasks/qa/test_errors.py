"""The worst questions: what is shown of a long context."""

import numpy as np

from jaxfm.data.records.question_answers import Answer
from jaxfm.data.records.questions import Question
from jaxfm.tasks.qa.decoding import Span
from jaxfm.tasks.qa.errors import worst_questions

CONTEXT = "x" * 500 + " Ada met Eve. " + "y" * 500
QUESTION = Question("Who?", CONTEXT, (Answer("Ada", 501),), "1", "", "a.json:1")


def test_the_part_around_the_answer_is_shown() -> None:
    right = Question("Who?", CONTEXT, (Answer("Ada", 501),), "2", "", "a.json:2")
    none = Question("Where?", CONTEXT, (), "3", "", "a.json:3")
    span = Span(509, 512, 1.0)
    found = worst_questions(
        [QUESTION, right, none],
        [span, Span(501, 504, 2.0), None],
        [0.5, 0.9, 0.4],
        np.asarray([0.0, 1.0, 0.5]),
        np.asarray([3.0, 9.0, 4.0]),
    )
    assert [each.origin for each in found] == ["a.json:3", "a.json:1"]
    question, gold, answered = found[1].views
    assert question.text == "Who?"
    for view, text, status in ((gold, "Ada", "missed"), (answered, "Eve", "wrong")):
        (mark,) = view.marks
        assert view.text[mark.start : mark.end] == text and mark.status == status
        assert view.text.startswith("... ") and view.text.endswith(" ...") and len(view.text) < 450
    assert dict(found[1].facts)["answered"] == "Eve" and dict(found[0].facts)["gold"] == "(no answer)"
    assert found[0].views[1].text.startswith("xxx") and not found[0].views[1].marks
