"""Messages between server and clients, with Flower's own types and a network that is a function call."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation import flower
from jaxfm.federation.flower import FlowerClients
from jaxfm.federation.update import Scores, Update

flwr = pytest.importorskip("flwr", reason="needs the extra `federated`: flwr, which `test` cannot bring")
VALUES = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([1.5])}


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this process, as Flower sets it where it starts an app."""
    from flwr.supercore.task_identity import TaskIdentity  # pyright: ignore[reportMissingImports]

    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


@dataclasses.dataclass
class _Data:
    examples: int
    held_out_examples: int = 4


class _Client:
    """Adds its number, the round and the stride to what it is sent."""

    def __init__(self, number: int, stride: int) -> None:
        self.number, self.data, self.steps, self._stride = number, _Data(10 * number + 5), 3, stride

    def train(self, values: Mapping[str, np.ndarray], round: int, *, steps: int | None = None) -> Update:
        move = np.float32(self.number + 0.1 * round + 0.01 * self._stride)
        change = {path: np.full_like(value, move) for path, value in values.items()}
        return Update(self.number, change, self.data.examples, steps or self.steps, {"loss": 0.5 + self.number})

    def score(self, values: Mapping[str, np.ndarray]) -> Scores:
        return Scores(self.number, 4, {"accuracy": float(values["b"][0]) + self.number})


class _Grid:
    """Flower's grid: nodes 100, 101 ... answer at once, but for those in `gone`."""

    def __init__(self, opened: list[Callable[[Mapping[str, Any], int], Any]]) -> None:
        self.apps = {100 + number: flower.client_app(each) for number, each in enumerate(opened)}
        self.gone: set[int] = set()
        self.asked: list[tuple[int, str]] = []

    def get_node_ids(self) -> list[int]:
        return list(self.apps)

    def send_and_receive(self, messages: Any, *, timeout: float) -> list[Any]:
        answers = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.asked.append((node, message.metadata.message_type))
            if node in self.gone:
                continue
            # As over a network: what arrives is what can be written down.
            sent = flwr.app.RecordDict({name: _copied(record) for name, record in message.content.items()})
            given = flwr.app.Message(sent, dst_node_id=node, message_type=message.metadata.message_type)
            given.metadata.__dict__["_src_node_id"] = 0
            context = _Context({"client": node - 100})
            answer = self.apps[node](given, context)
            answer.metadata.__dict__["_src_node_id"] = node
            answers.append(answer)
        return answers


@dataclasses.dataclass
class _Context:
    node_config: dict[str, Any]


def _copied(record: Any) -> Any:
    if isinstance(record, flwr.app.ArrayRecord):
        return flwr.app.ArrayRecord({path: flwr.app.Array(array.numpy().copy()) for path, array in record.items()})
    assert isinstance(record, flwr.app.MetricRecord), "arrays and numbers alone cross the network"
    return flwr.app.MetricRecord(dict(record))


def _open(node_config: Mapping[str, Any], stride: int) -> Any:
    return _Client(int(node_config["client"]), stride)


def _gathered(count: int = 3) -> tuple[FlowerClients, _Grid]:
    grid = _Grid([_open] * count)
    clients = FlowerClients(grid, seconds=5)
    clients.gather(count, seconds=5)
    clients.stride = 7
    return clients, grid


def test_arrays_come_back_as_they_were_and_other_types_are_refused() -> None:
    again = flower.from_record(flower.to_record(VALUES), "x")
    for path, value in VALUES.items():
        np.testing.assert_array_equal(again[path], value)
        assert again[path].dtype == np.float32 and again[path].shape == value.shape
    record = flwr.app.ArrayRecord({"b": flwr.app.Array(np.arange(3))})
    with pytest.raises(UserError, match="client 2: b is int64, not float32"):
        flower.from_record(record, "client 2")


def test_rounds_and_scores_are_those_of_the_clients() -> None:
    clients, grid = _gathered()
    assert [(each.number, each.data.examples, each.steps) for each in clients.clients] == [
        (0, 5, 3),
        (1, 15, 3),
        (2, 25, 3),
    ]
    updates, failed = clients.train({0: 3, 2: 1}, VALUES, 4)
    assert failed == {} and [(each.client, each.steps, each.examples) for each in updates] == [(0, 3, 5), (2, 1, 25)]
    for update in updates:
        expected = _Client(update.client, 7).train(VALUES, 4)
        np.testing.assert_array_equal(update.difference["a/kernel"], expected.difference["a/kernel"])
        assert update.metrics == expected.metrics
    assert [each.score(VALUES).metrics["accuracy"] for each in clients.clients] == [1.5, 2.5, 3.5]
    assert sum(kind == flower.SCORE for _, kind in grid.asked) == 3  # all by the first call


def test_a_client_that_is_gone_is_named_and_not_waited_for_when_scores_are_asked() -> None:
    clients, grid = _gathered()
    grid.gone.add(101)
    updates, failed = clients.train(dict.fromkeys(range(3), 3), VALUES, 0)
    assert [each.client for each in updates] == [0, 2] and failed == {1: "did not answer within 5 s"}
    assert clients.clients[1].score(VALUES) == Scores(1, 0, {})
    assert (101, flower.SCORE) not in grid.asked
    grid.gone.clear()
    assert len(clients.train(dict.fromkeys(range(3), 3), VALUES, 1)[0]) == 3
    assert clients.clients[1].score({**VALUES}).metrics == {"accuracy": 2.5}


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [(UserError("patients.csv:12: 'Ada Byron'"), 1, "refused"), (ZeroDivisionError("Ada Byron"), 2, "failed")],
)
def test_the_text_of_a_failure_stays_with_the_client(
    error: Exception, code: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(node_config: Mapping[str, Any], stride: int) -> Any:
        if stride == 7:
            raise error
        return _open(node_config, stride)

    grid = _Grid([_open, fails])
    clients = FlowerClients(grid, seconds=5)
    clients.gather(2, seconds=5)
    clients.stride = 7
    with caplog.at_level(logging.ERROR):
        updates, failed = clients.train({0: 3, 1: 3}, VALUES, 0)
    assert [each.client for each in updates] == [0] and failed == {1: flower.FAILURES[code]} and why in failed[1]
    assert "Ada Byron" in caplog.text  # in its own log
    message = flwr.app.Message(
        flwr.app.RecordDict({"numbers": flwr.app.MetricRecord({"stride": 7})}),
        dst_node_id=101,
        message_type=flower.GREET,
    )
    message.metadata.__dict__["_src_node_id"] = 0
    answer = grid.apps[101](message, _Context({"client": 1}))
    assert dict(answer.content["failed"]) == {"code": code} and list(answer.content) == ["failed"]


def test_clients_that_do_not_join_or_are_not_who_they_should_be() -> None:
    with pytest.raises(UserError, match="client 1, 2: did not join within 0.1 s"):
        FlowerClients(_Grid([_open]), seconds=5).gather(3, seconds=0.1)
    with pytest.raises(UserError, match="client 0: two clients of the federation say"):
        FlowerClients(_Grid([lambda *_: _Client(0, 1)] * 2), seconds=5).gather(2, seconds=5)
    with pytest.raises(UserError, match="client 9: the federation has clients 0 to 1"):
        FlowerClients(_Grid([lambda *_: _Client(9, 1)]), seconds=5).gather(2, seconds=5)


def test_one_that_answers_as_another_ends_no_round() -> None:
    clients, grid = _gathered(2)
    grid.apps[101] = flower.client_app(lambda *_: _Client(0, 7))
    updates, failed = clients.train({0: 3, 1: 3}, VALUES, 0)
    assert [each.client for each in updates] == [0] and failed == {1: "client 1: answers as client 0."}
