"""Clients and server of a federation over a network, by Flower: the same `Client` and `Server` as in one process.

What crosses the network are arrays by the names of parameters, and numbers (`MESSAGES`): a client answers a failure of
its own with a number too, as an error's text may quote its data, and says more in its own log alone. Flower's messages
would carry the text of an exception; so none leaves the functions here.

Flower starts a process for each message that a client gets, so a client loads its data and compiles its step again in
each round; what it must remember, Flower keeps for it (`Context.state`), on the client's machine.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.errors import UserError, install_hint
from jaxfm.federation.client import Client
from jaxfm.federation.update import Scores, Update, Values

GREET, TRAIN, SCORE = MESSAGES = ("query.greet", "train.local", "evaluate.held_out")
"""Flower's types of messages: category and action."""
VALUES, CONTROL, NUMBERS, METRICS, FAILED = ("values", "control", "numbers", "metrics", "failed")
FAILURES: Mapping[int, str] = {1: "refused (its log says why)", 2: "failed (its log says how)"}
_WAIT = 0.5  # seconds between two looks for clients


def library() -> Any:
    """Returns the package `flwr`, with its telemetry and its look for newer versions turned off.

    Raises UserError where it is not installed.
    """
    import os

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


def client_app(open_client: Callable[[Mapping[str, Any]], Client]) -> Any:
    """Returns Flower's ClientApp around a client.

    Args:
      open_client: makes the client from the configuration that its own machine's `flower-supernode` was given
        (`--node-config`); nothing of it is from the server.
    """
    flwr = library()
    app = flwr.clientapp.ClientApp()

    def answered(answer: Callable[[Any, Any, Client], Any]) -> Callable[[Any, Any], Any]:
        def handle(message: Any, context: Any) -> Any:
            try:
                content = answer(message.content, context, open_client(context.node_config))
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


def _greet(content: Any, context: Any, client: Client) -> Any:
    del content, context
    app = library().app
    numbers = {"client": client.number, "examples": client.data.examples, "steps": client.steps}
    numbers |= {"held_out": client.data.held_out_examples}
    return app.RecordDict({NUMBERS: app.MetricRecord(numbers)})


def _train(content: Any, context: Any, client: Client) -> Any:
    app = library().app
    asked = content[NUMBERS]
    if CONTROL in context.state:  # SCAFFOLD: what it has learned in the last round that counted
        client.control = from_record(context.state[CONTROL], "the state that Flower keeps for this client")
    control = from_record(content[CONTROL], "the server's message") if CONTROL in content else None
    values = from_record(content[VALUES], "the server's message")
    update = client.train(values, int(asked["round"]), steps=int(asked["steps"]) or None, control=control)
    reply = {
        VALUES: to_record(update.difference),
        NUMBERS: app.MetricRecord({"client": client.number, "examples": update.examples, "steps": update.steps}),
        METRICS: app.MetricRecord({name: float(value) for name, value in update.metrics.items()}),
    }
    if update.control is not None:
        reply[CONTROL] = to_record(update.control)
        client.settle(accepted=True)
        assert client.control is not None
        context.state[CONTROL] = to_record(client.control)
    return app.RecordDict(reply)


def _score(content: Any, context: Any, client: Client) -> Any:
    del context
    app = library().app
    scores = client.score(from_record(content[VALUES], "the server's message"))
    numbers = app.MetricRecord({"client": client.number, "examples": scores.examples})
    return app.RecordDict({NUMBERS: numbers, METRICS: app.MetricRecord(scores.metrics)})


class FlowerClients:
    """The clients of a federation as its server reaches them: by messages, each with a time limit.

    Attributes:
      nodes: client -> the number that Flower knows it by.
      examples, held_out, steps: client -> what it says of its data.
    """

    def __init__(self, grid: Any, *, seconds: float) -> None:
        """`grid` is Flower's; `seconds`: how long an answer may take before a client counts as gone."""
        self._app, self._grid, self._seconds = library().app, grid, seconds
        self.nodes: dict[int, int] = {}
        self.examples: dict[int, int] = {}
        self.held_out: dict[int, int] = {}
        self.steps: dict[int, int] = {}

    def gather(self, clients: int, *, seconds: float) -> None:
        """Waits until all clients have said their numbers.

        Raises UserError, naming those that are missing, when the time is over, or where two have one number.
        """
        asked, deadline = set[int](), time.monotonic() + seconds
        while len(self.nodes) < clients:
            fresh = [node for node in self._grid.get_node_ids() if node not in asked]
            asked.update(fresh)
            found, failed = self._ask({node: (GREET, {}) for node in fresh}, seconds=deadline - time.monotonic())
            for node, content in found.items():
                number = int(content[NUMBERS]["client"])
                if number in self.nodes:
                    raise UserError(f"client {number}: two clients of the federation say that they are this one.")
                if not 0 <= number < clients:
                    raise UserError(f"client {number}: the federation has clients 0 to {clients - 1}.")
                self.nodes[number] = node
                self.examples[number] = int(content[NUMBERS]["examples"])
                self.held_out[number] = int(content[NUMBERS]["held_out"])
                self.steps[number] = int(content[NUMBERS]["steps"])
            if failed:
                raise UserError(f"a client of the federation {next(iter(failed.values()))} before the first round.")
            if time.monotonic() > deadline:
                missing = ", ".join(str(number) for number in range(clients) if number not in self.nodes)
                raise UserError(f"client {missing}: did not join within {seconds:g} s.")
            if not fresh:
                time.sleep(_WAIT)

    def train(
        self,
        clients: Sequence[int],
        values: Mapping[str, np.ndarray],
        round: int,
        *,
        steps: Mapping[int, int] | None = None,
        control: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[list[Update], dict[int, str]]:
        """Returns the updates of those that answered, and client -> why for those that did not."""
        arrays = {VALUES: to_record(values), **({} if control is None else {CONTROL: to_record(control)})}
        messages = {}
        for client in clients:
            numbers = self._app.MetricRecord({"round": round, "steps": (steps or {}).get(client, 0)})
            messages[self.nodes[client]] = (TRAIN, {**arrays, NUMBERS: numbers})
        found, failed = self._ask(messages, seconds=self._seconds)
        updates = [self._update(client, found[node]) for client, node in self._of(found)]
        return updates, {client: failed[node] for client, node in self._of(failed)}

    def score(self, clients: Sequence[int], values: Mapping[str, np.ndarray]) -> tuple[list[Scores], dict[int, str]]:
        """Returns the scores of a model at the clients that answered, and client -> why for those that did not."""
        arrays = {VALUES: to_record(values)}
        found, failed = self._ask(
            {self.nodes[client]: (SCORE, dict(arrays)) for client in clients}, seconds=self._seconds
        )
        scores = []
        for client, node in self._of(found):
            numbers, metrics = found[node][NUMBERS], dict(found[node][METRICS])
            self._check(client, numbers)
            scores.append(Scores(client, int(numbers["examples"]), metrics))
        return scores, {client: failed[node] for client, node in self._of(failed)}

    def _of(self, nodes: Iterable[int]) -> list[tuple[int, int]]:
        return [(client, node) for client, node in sorted(self.nodes.items()) if node in nodes]

    def _check(self, client: int, numbers: Any) -> None:
        if int(numbers["client"]) != client:
            raise UserError(f"client {client}: answers as client {int(numbers['client'])}.")

    def _update(self, client: int, content: Any) -> Update:
        numbers = content[NUMBERS]
        self._check(client, numbers)
        return Update(
            client,
            from_record(content[VALUES], f"client {client}"),
            int(numbers["examples"]),
            int(numbers["steps"]),
            dict(content[METRICS]),
            from_record(content[CONTROL], f"client {client}") if CONTROL in content else None,
        )

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
