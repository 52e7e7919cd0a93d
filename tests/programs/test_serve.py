"""The server as a program: it comes up, answers, is stopped under load with nothing lost, and refuses what is wrong."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.programs.model import Model
from jaxfm.programs.serve import load_models, named, token_of
from jaxfm.serving.server import allowed_hosts, listening_socket
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-many-letters"
TEXT = "ada met boole in hull"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return tiny.write_runs(tmp_path_factory.mktemp("serve"), ("ner", "classification"))


class Server:
    """A server in a process of its own."""

    def __init__(self, *flags: str, **environment: str):
        command = [sys.executable, "-m", "jaxfm.serve", "--port=0", *flags]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for(r"listening at http://localhost:(\d+)")[1])

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += self.process.stdout  # as they come

    def wait_for(self, pattern: str) -> "re.Match[str]":
        for _ in range(1200):
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            assert self.process.poll() is None, "".join(self.lines)
            time.sleep(0.1)
        raise AssertionError(f"no {pattern}: {''.join(self.lines)}")

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", self.port, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(
                "GET" if body is None else "POST", path, text, {"content-type": "application/json", **headers}
            )
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def server(runs: dict[str, pathlib.Path]) -> Iterator[Server]:
    server = Server(f"--workdir={runs['ner']}", f"--workdir=single={runs['classification']}")
    server.wait_for("ready at")
    yield server
    server.close()


def test_it_answers_as_predict_does_and_stops_under_load_with_nothing_lost(
    server: Server, runs: dict[str, pathlib.Path]
) -> None:
    assert server.ask("/ready") == (200, {"status": "ready"})
    assert [each["name"] for each in server.ask("/v1/models")[1]["models"]] == ["run_ner", "single"]
    wanted = Model(runs["ner"])(TEXT)
    stopped = threading.Event()

    def client(number: int) -> tuple[int, int]:
        """Asks until the server is gone; returns how often it was answered and refused. All else is a failure."""
        answered = refused = 0
        while True:
            try:
                status, found = server.ask("/v1/models/run_ner/predict", {"inputs": [TEXT] * (1 + number % 3)})
            except ConnectionRefusedError:
                assert stopped.is_set()
                return answered, refused
            except (http.client.RemoteDisconnected, ConnectionResetError):
                # The connection waited to be accepted when the server closed: it never had the request.
                assert stopped.is_set()
                refused += 1
                continue
            assert status in (200, 503), found
            answered, refused = answered + (status == 200), refused + (status == 503)
            assert status == 503 or found["results"] == [wanted] * (1 + number % 3)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        time.sleep(2)
        stopped.set()
        assert server.stop() == 0
        counts = [each.result(60) for each in clients]
    assert all(answered > 0 for answered, _ in counts)
    assert server.lines[-1] == "stopped\n" and not any("Traceback" in line for line in server.lines)


def test_ctrl_c_stops_it_too(server: Server) -> None:
    assert server.stop(signal.SIGINT) == 0 and server.lines[-1] == "stopped\n"


def test_it_is_stopped_while_it_compiles(runs: dict[str, pathlib.Path]) -> None:
    server = Server(f"--workdir={runs['ner']}", f"--workdir={runs['classification']}", JAX_ENABLE_COMPILATION_CACHE="0")
    try:
        time.sleep(1.0)  # inside XLA
        assert server.stop() == 0, "".join(server.lines)
        assert [line.strip() for line in server.lines if "ready at" not in line][-1] == "stopped"
    finally:
        server.close()


def test_a_token_is_needed_and_never_shown(runs: dict[str, pathlib.Path]) -> None:
    server = Server(f"--workdir={runs['ner']}", JAXFM_TOKEN=TOKEN)
    try:
        server.wait_for("ready at")
        path, body = "/v1/models/run_ner/predict", {"inputs": TEXT}
        assert server.ask(path, body)[0] == server.ask(path, body, authorization="Bearer x")[0] == 401
        assert server.ask(path, body, authorization=f"Bearer {TOKEN}")[0] == 200
        assert server.stop() == 0 and TOKEN not in "".join(server.lines)
    finally:
        server.close()


def call(*flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jaxfm.serve", *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}, timeout=240
    )


def test_an_address_that_is_taken_is_one_message(server: Server, runs: dict[str, pathlib.Path]) -> None:
    done = call(f"--workdir={runs['ner']}", f"--port={server.port}")
    assert done.returncode == 2 and "cannot listen there" in done.stderr and "Traceback" not in done.stderr


def test_mistakes_are_one_message(tmp_path: pathlib.Path) -> None:
    for flags, environment, message in (
        ((), {}, "--workdir is missing"),
        ((f"--workdir={tmp_path}",), {}, str(tmp_path)),
        ((f"--workdir={tmp_path}",), {"JAXFM_TOKEN": "short"}, "JAXFM_TOKEN: must have at least 16"),
    ):
        done = call(*flags, **environment)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_names_of_models(runs: dict[str, pathlib.Path]) -> None:
    assert named(["runs/ner", "people=runs/x", "runs/sst2/"]) == {
        "ner": "runs/ner",
        "people": "runs/x",
        "sst2": "runs/sst2/",
    }
    for given, message in (
        (["runs/ner", "old/ner"], "a model 'ner' already"),
        (["a b=runs/ner"], "'a b' cannot be the name"),
        (["=runs/ner"], "'' cannot be the name"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            named(given)
    with pytest.raises(UserError, match="no model of --workdir relates entities"):
        load_models({"ner": str(runs["ner"])}, str(runs["ner"]))


def test_answers_are_sent_at_once() -> None:
    """asyncio turns Nagle's algorithm off for sockets of this protocol alone; else each answer may wait 40 ms."""
    with listening_socket("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_names_by_which_a_server_may_be_called() -> None:
    assert allowed_hosts("127.0.0.1") == ("127.0.0.1", "localhost")
    assert allowed_hosts("localhost", ["models.example"]) == ("models.example", "127.0.0.1", "localhost")
    assert allowed_hosts("0.0.0.0") == ("*",) and allowed_hosts("10.0.0.7", ["a.example"]) == ("a.example", "10.0.0.7")


def test_tokens() -> None:
    assert token_of({}) == "" and token_of({"JAXFM_TOKEN": TOKEN}) == TOKEN
    for wrong in ("short", "a token with some spaces in it", "pässword-of-many-letters"):
        with pytest.raises(UserError, match="at least 16 characters"):
            token_of({"JAXFM_TOKEN": wrong})


def test_requests_do_not_see_each_other(tmp_path: pathlib.Path) -> None:
    """Where windows are filled up with neighbouring records, those of another request are none."""
    tiny.write_run(tmp_path / "run", tiny.config(tmp_path, task__context="document"), best=1)
    model = Model(tmp_path / "run")
    alone = [model([text]) for text in (TEXT, "boole and ada", TEXT)]
    joined = model.answer_all([[model.record(text, "a text")] for text in (TEXT, "boole and ada", TEXT)])
    assert joined == alone
    assert model([TEXT, "boole and ada", TEXT]) != [each[0] for each in alone]  # one document is read as one
