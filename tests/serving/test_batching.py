"""The queue before a model: what is computed together, what is refused, and that nothing is lost."""

import time
from collections.abc import Iterator

import pytest

from jaxfm.serving.batching import Batcher, BusyError, ExpiredError, InputError, StoppingError
from jaxfm.serving.measures import Measures
from jaxfm.serving.served import Limits
from tests.serving.fakes import FakeModel


def records(*texts: str) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


@pytest.fixture
def model() -> Iterator[FakeModel]:
    model = FakeModel()
    yield model
    model.held.set()


def batcher(model: FakeModel, **limits: float) -> tuple[Batcher, Measures]:
    measures = Measures()
    return Batcher("m", model, Limits(**{"wait": 0.0, **limits}), measures), measures  # type: ignore[arg-type]


def hold(queue: Batcher, model: FakeModel) -> None:
    """Lets the model begin with a request, and holds it there."""
    model.held.clear()
    model.begun.clear()
    queue.submit(records("first"))
    assert model.begun.wait(20)


def test_a_lonely_request_is_answered_by_itself(model: FakeModel) -> None:
    queue, _ = batcher(model)
    assert queue.submit(records("a", "b")).result(20) == [{"text": "a"}, {"text": "b"}]
    assert model.portions == [[2]]
    queue.close()


def test_what_waits_is_computed_together_in_order_and_up_to_the_limit(model: FakeModel) -> None:
    queue, measures = batcher(model, batch_inputs=4)
    hold(queue, model)
    answers = [queue.submit(records(*texts)) for texts in (["a"], ["b", "c"], ["d", "e"], ["f"] * 9, ["g"])]
    assert queue.waiting == 15
    model.held.set()
    assert [len(answer.result(20)) for answer in answers] == [1, 2, 2, 9, 1]
    # A request of more inputs than the limit is computed alone; no request is computed in two parts.
    assert model.portions == [[1], [1, 2], [2], [9], [1]] and queue.waiting == 0
    queue.close()
    text = measures.text().decode()
    assert 'jaxfm_inputs_total{model="m"} 16.0' in text and 'jaxfm_queue_inputs{model="m"} 0.0' in text
    assert 'jaxfm_computed_tokens_total{model="m"} 160.0' in text


def test_after_several_requests_more_are_waited_for_but_a_lonely_one_waits_for_none(model: FakeModel) -> None:
    queue, _ = batcher(model, wait=0.5, batch_inputs=3)
    begun = time.monotonic()
    for _ in range(3):
        queue.submit(records("lonely")).result(20)
    assert time.monotonic() - begun < 0.5
    hold(queue, model)
    together = [queue.submit(records(text)) for text in "ab"]
    model.held.set()
    assert [answer.result(20) for answer in together] == [records(text) for text in "ab"]
    begun = time.monotonic()
    first = queue.submit(records("c"))
    time.sleep(0.05)
    others = [queue.submit(records(text)) for text in "de"]
    assert [answer.result(20) for answer in (first, *others)] == [records(text) for text in "cde"]
    assert time.monotonic() - begun < 0.5  # full before the time was over
    assert model.portions == [[1], [1], [1], [1], [1, 1], [1, 1, 1]]
    queue.close()


def test_a_full_queue_refuses_and_says_when_to_come_back(model: FakeModel) -> None:
    queue, _ = batcher(model, queue=3)
    hold(queue, model)
    queue.submit(records("a", "b"))
    with pytest.raises(BusyError) as error:
        queue.submit(records("c", "d"))
    assert error.value.seconds >= 1
    queue.submit(records("c"))  # there is room for one
    model.held.set()
    queue.close()


def test_a_request_above_the_whole_queue_is_taken_where_nothing_waits(model: FakeModel) -> None:
    queue, _ = batcher(model, queue=2)
    assert len(queue.submit(records(*"abcde")).result(20)) == 5
    queue.close()


def test_what_waited_too_long_is_not_computed(model: FakeModel) -> None:
    queue, _ = batcher(model, deadline=0.05)
    hold(queue, model)
    late = queue.submit(records("late"))
    time.sleep(0.1)
    model.held.set()
    with pytest.raises(ExpiredError):
        late.result(20)
    assert queue.submit(records("next")).result(20) == records("next")
    assert model.portions == [[1], [1]]
    queue.close()


def test_a_request_that_was_given_up_is_not_computed(model: FakeModel) -> None:
    queue, _ = batcher(model)
    hold(queue, model)
    gone, kept = queue.submit(records("gone")), queue.submit(records("kept"))
    assert gone.cancel()
    model.held.set()
    assert kept.result(20) == records("kept") and model.portions == [[1], [1]]
    queue.close()


def test_one_wrong_request_does_not_spoil_those_beside_it(model: FakeModel) -> None:
    queue, _ = batcher(model)
    hold(queue, model)
    answers = [queue.submit(records(text)) for text in ("a", "wrong", "fault", "b")]
    model.held.set()
    assert answers[0].result(20) == records("a") and answers[3].result(20) == records("b")
    with pytest.raises(InputError, match=r"this model cannot read it\."):
        answers[1].result(20)
    with pytest.raises(ZeroDivisionError):
        answers[2].result(20)
    queue.close()


def test_closing_answers_what_waits_and_refuses_the_rest(model: FakeModel) -> None:
    queue, _ = batcher(model, batch_inputs=1)
    hold(queue, model)
    answers = [queue.submit(records(text)) for text in "abc"]
    model.held.set()
    queue.close()
    assert [answer.result(0) for answer in answers] == [records(text) for text in "abc"]
    with pytest.raises(StoppingError):
        queue.submit(records("d"))
