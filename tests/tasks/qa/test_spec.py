"""Windows and their targets in packed rows."""

import numpy as np
import pytest

from jaxfm.tasks import registry
from jaxfm.tasks.qa.spec import CONTEXT, CONTEXT_END, END, START, token_span
from jaxfm.tasks.qa.task import QaTask
from jaxfm.training.initial import resolve
from tests import tiny


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> QaTask:
    config = tiny.qa_config(tmp_path_factory.mktemp("qa"), data__window=40)
    made, _ = registry.create(config, resolve(config.model))
    assert isinstance(made, QaTask)
    return made


def test_the_tokens_of_an_answer() -> None:
    offsets = np.asarray([[0, 3], [4, 4], [4, 6], [6, 8], [9, 10]])
    assert token_span(offsets, 4, 8) == (2, 3)
    assert token_span(offsets, 5, 7) == (2, 3)  # inside tokens: these are taken whole
    assert token_span(offsets, 3, 5) == (2, 2)
    assert token_span(offsets, 3, 4) is None and token_span(offsets, 10, 20) is None


def test_targets_point_at_the_answer_in_the_rows(task: QaTask) -> None:
    seen = {"answered": 0, "none": 0, "elsewhere": 0}
    for split, encoded in task.encoded.items():
        rows, windows = encoded.rows, encoded.windows
        assert rows.labels.shape[1:] == (task.objective.spec.segments, 4)
        for number, (row, segment, begin) in enumerate(rows.example_locations):
            question = task.questions[split][windows.question[number]]
            start, end, first, after = rows.labels[row, segment]
            places = np.flatnonzero(rows.segment_ids[row] == segment + 1)
            assert places[0] == begin and rows.tokens[row, begin] == task.tokenizer.cls_token_id
            own = rows.tokens[row, begin + first : begin + after].tolist()
            whole = windows.contexts[windows.question[number]].ids
            assert own == whole[windows.start[number] :][: len(own)] and after - first == windows.size[number]
            if start:
                text = task.tokenizer.decode(rows.tokens[row, begin + start : begin + end + 1])
                assert text.replace(" ", "") == question.answers[0].text.replace(" ", "")
                assert first <= start <= end < after
                seen["answered"] += 1
            else:
                assert end == 0
                seen["elsewhere" if question.answers else "none"] += 1
    assert min(seen.values()) > 0
    assert sum(len(encoded.windows.tokens) for encoded in task.encoded.values()) > 94  # some in several windows


def test_rows_carry_types_and_values_come_back_by_window(task: QaTask) -> None:
    encoded = task.encoded["test"]
    rows = encoded.rows
    assert rows.type_ids is not None and "type_ids" in task.objective.spec.batch_spec()
    numbers = np.arange(rows.tokens.size).reshape(rows.tokens.shape)
    for window, (row, _, start) in enumerate(rows.example_locations):
        values = encoded.per_window(numbers, window)
        first, size = int(encoded.windows.first[window]), int(encoded.windows.size[window])
        assert values[0] == numbers[row, start] and len(values) == size + 1
        np.testing.assert_array_equal(values[1:], numbers[row, start + first : start + first + size])
    assert encoded.windows_of[0] == 0 and encoded.windows_of[-1] == len(encoded.windows.tokens)
    assert {START, END, CONTEXT, CONTEXT_END} == {0, 1, 2, 3}
