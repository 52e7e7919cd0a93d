"""Clients and server of a federation over a network, by Flower: the same `Client` and `Server` as in one process.

What crosses the network are arrays by the names of parameters, and numbers (`MESSAGES`): a client answers a failure of
its own with a number too, as an error's text may quote its data, and says more in its own log alone. Flower's messages
would carry the text of an exception; so none leaves the functions here.

Flower starts a process for each message that a client gets, so a client reads its data and its step is compiled again
in each round, or read from JAX's cache of programs. Nothing is remembered between rounds: so no control variates of
SCAFFOLD.
"""

import dataclasses
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxfm.errors import UserError, install_hint
from jaxfm.federation.client import Client
from jaxfm.federation.update import Scores, Update, Values

GREET, TRAIN, SCORE = MESSAGES = ("query.greet", "train.local", "evaluate.held_out")
"""Flower's types of messages: category and action."""
VALUES, NUMBERS, METRICS, FAILED = ("values", "numbers", "metrics", "failed")
FAILURES: Mapping[int, str] = {1: "refused (its log says why)", 2: "failed (its log says how)"}
_WAIT = 0.5  # seconds between two looks for clients


def library() -> Any:
    """Returns the package `flwr`, with its telemetry and its look for newer versions turned off.

    Raises UserError where it is not installed.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    try:
        import flwr.app  # pyright: ignore[reportMissingImports]
        import flwr.clientapp  # pyright: ignore[reportMissingImports]
        import flwr.serverapp  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError(f"Clients over a network need the package {error.name}: {install_hint('federated')}.") from None
    return flwr


def to_record(values: Mapping[str, np.ndarray]) -> Any:
    """Returns a Flower record of f32 arrays."""
    app = library().app
    for path, value in values.items():
        assert value.dtype == np.float32, (path, value.dtype)
    return app.ArrayRecord({path: app.Array(np.ascontiguousarray(value)) for path, value in values.items()})


def from_record(record: Any, what: str) -> Values:
    """Returns the arrays of a Flower record.

    Raises UserError for one that is not f32: the sender is another program.
    """
    values = {}
    for path, array in record.items():
        values[path] = array.numpy()
        if values[path].dtype != np.float32:
            raise UserError(f"{what}: {path} is {values[path].dtype}, not float32.")
    return values


def client_app(open_client: Callable[[Mapping[str, Any], int], Client]) -> Any:
    """Returns Flower's ClientApp around a client.

    Args:
      open_client: makes the client from the configuration that its own machine's `flower-supernode` was given
        (`--node-config`), and the updates of the schedule that a round is, the one thing of it that is the server's.
    """
    flwr = library()
    app = flwr.clientapp.ClientApp()

    def answered(answer: Callable[[Any, Client], Any]) -> Callable[[Any, Any], Any]:
        def handle(message: Any, context: Any) -> Any:
            try:
                stride = int(message.content[NUMBERS]["stride"])
                content = answer(message.content, open_client(context.node_config, stride))
            except Exception as error:  # of any kind: its text stays here
                code = 1 if isinstance(error, UserError) else 2
                logging.error("%s", error if code == 1 else traceback.format_exc())
                content = flwr.app.RecordDict({FAILED: flwr.app.MetricRecord({"code": code})})
            return flwr.app.Message(content, reply_to=message)

        return handle

    app.query("greet")(answered(_greet))
    app.train("local")(answered(_train))
    app.evaluate("held_out")(answered(_score))
    return app


def _greet(content: Any, client: Client) -> Any:
    del content
    app = library().app
    numbers = {"client": client.number, "examples": client.data.examples, "steps": client.steps}
    numbers |= {"held_out": client.data.held_out_examples}
    return app.RecordDict({NUMBERS: app.MetricRecord(numbers)})


def _train(content: Any, client: Client) -> Any:
    app = library().app
    asked = content[NUMBERS]
    values = from_record(content[VALUES], "the server's message")
    update = client.train(values, int(asked["round"]), steps=int(asked["steps"]) or None)
    reply = {
        VALUES: to_record(update.difference),
        NUMBERS: app.MetricRecord({"client": client.number, "examples": update.examples, "steps": update.steps}),
        METRICS: app.MetricRecord({name: float(value) for name, value in update.metrics.items()}),
    }
    return app.RecordDict(reply)


def _score(content: Any, client: Client) -> Any:
    app = library().app
    scores = client.score(from_record(content[VALUES], "the server's message"))
    numbers = app.MetricRecord({"client": client.number, "examples": scores.examples})
    return app.RecordDict({NUMBERS: numbers, METRICS: app.MetricRecord(scores.metrics)})


@dataclasses.dataclass(frozen=True, eq=False)
class RemoteData:
    """What the server knows of a client's data: their numbers.

    Attributes:
      examples, held_out_examples: how many it trains on, and scores models on.
      name: what a person calls the client.
    """

    examples: int
    held_out_examples: int
    name: str


class RemoteClient:
    """A client as its server sees it: a `Client` whose data are elsewhere.

    Attributes:
      number: from 0.
      data: their numbers.
      steps: local updates of a whole round.
      control: None; SCAFFOLD is not there over a network.
    """

    def __init__(self, number: int, data: RemoteData, steps: int, others: "FlowerClients") -> None:
        """`others` are all clients of the federation."""
        self.number, self.data, self.steps, self.control = number, data, steps, None
        self._others = others

    def score(self, values: Values) -> Scores:
        """Returns how a model does on what the client holds out; all clients are asked at once, by the first call."""
        return self._others.scores(values).get(self.number, Scores(self.number, 0, {}))

    def settle(self, *, accepted: bool) -> None:
        """Ends a round, of which the client remembers nothing."""


class FlowerClients:
    """The clients of a federation as its server reaches them: by messages, each with a time limit.

    Attributes:
      clients: all of them, by their numbers, once they were gathered.
      stride: updates of the schedule that a round is; 1 until the server says otherwise.
    """

    def __init__(self, grid: Any, *, seconds: float, say: Callable[[str], None] = print) -> None:
        """`grid` is Flower's; `seconds`: how long an answer may take before a client counts as gone."""
        self._app, self._grid, self._seconds, self._say = library().app, grid, seconds, say
        self._asked: set[int] = set()
        self._nodes: dict[int, int] = {}  # client -> the number that Flower knows it by
        self._known: dict[int, dict[str, int]] = {}
        self._silent: set[int] = set()  # clients that did not answer when they were last asked to train
        self._scored: list[tuple[Values, dict[int, Scores]]] = []
        self.clients: list[RemoteClient] = []
        self.stride = 1

    def gather(self, clients: int, *, seconds: float) -> None:
        """Waits until all clients have said their numbers.

        Raises UserError, naming those that are missing, when the time is over, or where two have one number.
        """
        deadline = time.monotonic() + seconds
        while len(self._nodes) < clients:
            found = self._look(clients, max(deadline - time.monotonic(), 1.0))
            if len(self._nodes) < clients and time.monotonic() > deadline:
                missing = ", ".join(str(number) for number in range(clients) if number not in self._nodes)
                raise UserError(f"client {missing}: did not join within {seconds:g} s.")
            if not found:
                time.sleep(_WAIT)
        for number, known in sorted(self._known.items()):
            data = RemoteData(known["examples"], known["held_out"], f"client {number}")
            self.clients.append(RemoteClient(number, data, known["steps"], self))

    def train(self, going: Mapping[int, int], values: Values, round: int) -> tuple[list[Update], dict[int, str]]:
        """Returns the updates of those that answered, and client -> why for those that did not.

        Args:
          going: client -> updates that it is to do.
          values: the trained part of the server's model.
          round: from 0.
        """
        self._look(len(self.clients), self._seconds)  # one that was gone may be back, under another number of Flower's
        arrays = {VALUES: to_record(values)}
        messages = {
            self._nodes[client]: (TRAIN, {**arrays, **self._numbers(round=round, steps=steps)})
            for client, steps in going.items()
        }
        found, failed = self._ask(messages, seconds=self._seconds)
        updates, unanswered = [], {client: failed[node] for client, node in self._of(failed)}
        self._silent = (self._silent | set(unanswered)) - {client for client, _ in self._of(found)}
        for client, node in self._of(found):
            try:
                updates.append(self._update(client, found[node]))
            except UserError as error:  # what one client sends ends no other one's work
                unanswered[client] = str(error)
        return updates, unanswered

    def scores(self, values: Values) -> dict[int, Scores]:
        """Returns how a model does at each client that answers; of the last two models it is asked once.

        Those that did not answer when they were last asked to train are not waited for.
        """
        for known, found in self._scored:
            if known is values:
                return found
        arrays = {VALUES: to_record(values), **self._numbers()}
        here = {node: (SCORE, arrays) for client, node in self._nodes.items() if client not in self._silent}
        answered, failed = self._ask(here, seconds=self._seconds)
        found = {}
        for client, node in self._of(answered):
            numbers = self._checked(client, answered[node])
            found[client] = Scores(client, int(numbers["examples"]), dict(answered[node][METRICS]))
        for client, node in self._of(failed):
            self._say(f"client {client}: {failed[node]}; it has no score")
        self._scored = [*self._scored[-1:], (values, found)]
        return found

    def _look(self, clients: int, seconds: float) -> bool:
        """Asks those that were not asked before who they are; returns whether there were any."""
        fresh = [node for node in self._grid.get_node_ids() if node not in self._asked]
        self._asked.update(fresh)
        found, failed = self._ask({node: (GREET, self._numbers()) for node in fresh}, seconds=seconds)
        for node, content in found.items():
            known = {name: int(value) for name, value in content[NUMBERS].items()}
            number = known["client"]
            if not 0 <= number < clients:
                raise UserError(f"client {number}: the federation has clients 0 to {clients - 1}.")
            if number in self._nodes and not self.clients:
                raise UserError(f"client {number}: two clients of the federation say that they are this one.")
            self._nodes[number] = node
            self._known.setdefault(number, known)
        for why in failed.values():
            self._say(f"a client of the federation {why}, when asked who it is")
        return bool(fresh)

    def _numbers(self, **numbers: int) -> dict[str, Any]:
        return {NUMBERS: self._app.MetricRecord({"stride": self.stride, **numbers})}

    def _of(self, nodes: Iterable[int]) -> list[tuple[int, int]]:
        return [(client, node) for client, node in sorted(self._nodes.items()) if node in nodes]

    def _checked(self, client: int, content: Any) -> Any:
        numbers = content[NUMBERS]
        if int(numbers["client"]) != client:
            raise UserError(f"client {client}: answers as client {int(numbers['client'])}.")
        return numbers

    def _update(self, client: int, content: Any) -> Update:
        numbers = self._checked(client, content)
        difference = from_record(content[VALUES], f"client {client}")
        return Update(client, difference, int(numbers["examples"]), int(numbers["steps"]), dict(content[METRICS]))

    def _ask(self, messages: Mapping[int, tuple[str, dict[str, Any]]], *, seconds: float) -> Any:
        """Returns node -> content of the answers, and node -> why for those without one."""
        sent = [
            self._app.Message(self._app.RecordDict(content), dst_node_id=node, message_type=kind)
            for node, (kind, content) in messages.items()
        ]
        found, failed = {}, {node: f"did not answer within {seconds:.0f} s" for node in messages}
        for reply in self._grid.send_and_receive(sent, timeout=max(seconds, 1.0)) if sent else ():
            node = reply.metadata.src_node_id
            if reply.has_error():
                # Flower's own words, of a client that it cannot reach.
                failed[node] = f"could not be reached (Flower's error {reply.error.code})"
            elif FAILED in reply.content:
                failed[node] = FAILURES.get(int(reply.content[FAILED]["code"]), "failed")
            else:
                del failed[node]
                found[node] = reply.content
        return found, failed
