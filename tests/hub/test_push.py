"""A directory pushed to a stand-in for the Hugging Face hub: what arrives, what is refused, and that no token shows."""

import base64
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.hub.push import check_push
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN = "hf_notARealTokenButLikeOne"


class Hub(http.server.ThreadingHTTPServer):
    """Answers as the hub does to what makes a repository and a commit; `status` makes it refuse."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.status = 200


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:  # noqa: N802  http.server's name
        hub = self.server
        assert isinstance(hub, Hub)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        hub.tokens.add(self.headers.get("authorization", ""))
        if hub.status != 200:
            return self._reply(hub.status, {"error": f"Invalid token Bearer {TOKEN}"})
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            hub.made.append(json.loads(body))
            return self._reply(200, {"url": "https://huggingface.co/ada/names", "name": "ada/names", "id": "x"})
        if path == "/api/validate-yaml":
            return self._reply(200, {"errors": [], "warnings": []})
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return self._reply(
                200,
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]},
            )
        if "/commit/" in path:
            for line in body.decode().splitlines():
                each = json.loads(line)
                if each["key"] == "file":
                    hub.files[each["value"]["path"]] = base64.b64decode(each["value"]["content"])
            return self._reply(
                200,
                {
                    "commitUrl": "https://huggingface.co/ada/names/commit/1",
                    "commitOid": "1" * 40,
                    "hookOutput": "",
                    "success": True,
                },
            )
        return self._reply(404, {"error": f"no {path}"})

    def do_GET(self) -> None:  # noqa: N802
        self._reply(200, {"id": "ada/names", "sha": "0" * 40, "siblings": [], "private": True, "tags": []})

    def _reply(self, status: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write_runs(tmp_path_factory.mktemp("push"), ("ner",))["ner"]


def export(hub: Hub, run: pathlib.Path, output: pathlib.Path, *more: str, **environment: str) -> Any:
    """Runs the program as a user does, with the stand-in for the hub."""
    command = [sys.executable, "-m", "jaxfm.export", f"--workdir={run}", f"--output={output}", *more]
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    values = {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"} | environment
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **values}, capture_output=True, text=True, timeout=240)


def test_all_files_and_the_card_arrive(hub: Hub, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "exported"
    done = export(hub, run, output, "--push=hf:ada/names", "--license=apache-2.0")
    assert done.returncode == 0, done.stderr
    assert hub.files == {path.name: path.read_bytes() for path in output.iterdir()}
    assert b"apache-2.0" in hub.files["README.md"] and "model.safetensors" in hub.files
    (made,) = hub.made
    assert (
        (made["organization"], made["name"]) == ("ada", "names")
        and made.get("private")
        or made.get("visibility") == "private"
    )
    assert hub.tokens == {f"Bearer {TOKEN}"} and "pushed: " in done.stdout
    assert TOKEN not in done.stdout + done.stderr


def test_what_the_hub_refuses_is_one_message_without_the_token(
    hub: Hub, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    hub.status = 401
    done = export(hub, run, tmp_path / "exported", "--push=hf:ada/names")
    assert done.returncode == 2 and "the hub refused (status 401)" in done.stderr and "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert (tmp_path / "exported" / "model.safetensors").exists()  # the export is whole


def test_mistakes_are_found_before_the_export(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert check_push("hf:ada/names") == "ada/names"
    for uri in ("ada/names", "hf:names", "hf:ada/names/more", "hf:ada/..", "hf:ada/na me"):
        with pytest.raises(UserError, match=r"must read hf:OWNER/NAME"):
            check_push(uri)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="set HF_TOKEN"):
        check_push("hf:ada/names")
