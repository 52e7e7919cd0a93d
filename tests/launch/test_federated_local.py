"""launch/federated_local.py: what it starts; and real federations over the loopback, where Flower is installed."""

import importlib.util
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
from typing import Any

import numpy as np
import pytest

from jaxfm.schema import to_dict
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.paths import flat
from tests import tiny
from tests.launch.recording_proxy import RecordingProxy

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "federated_local.py"
needs_flower = pytest.mark.skipif(
    importlib.util.find_spec("flwr") is None, reason="needs the extra `federated`: flwr, which `test` cannot bring"
)
FLAGS = {"rounds": 2, "local_steps": 2, "min_examples": 5}
LABELS = {"LOC": "kind-one-7f3a91c2", "PER": "kind-two-55d0be18"}


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --workdir"),
        (("--workdir=x",), "nothing to run: give the flags of jaxfm.federated after --"),
        (("--workdir=x", "--seconds=0", "--", "ner"), "--seconds=0: is out of range"),
        (("--workdir=x", "--", "ner", "--workdir=y"), "--workdir=y: is set by this launcher; leave it out"),
    ],
)
def test_a_mistake_is_one_message(arguments: tuple[str, ...], message: str) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert errors == f"federated_local.py: {message}\nRun launch/federated_local.py --help for the usage.\n"


def test_a_dry_run_prints_the_commands_of_all_parties(tmp_path: pathlib.Path) -> None:
    code, output, _ = run(
        f"--workdir={tmp_path}/f", "--python=/env/bin/python", "--dry-run", "--", "ner", "--clients=2"
    )
    lines = output.splitlines()
    assert code == 0 and len(lines) == 5 and not list(tmp_path.iterdir())
    assert lines[0] == (
        f"/env/bin/python -m jaxfm.federated ner --clients=2 --agreement={tmp_path}/f-network/federation.json"
    )
    assert "flower-superlink --host=127.0.0.1" in lines[1] and f"JAXFM_FEDERATED_WORKDIR={tmp_path}/f" in lines[1]
    for number in (0, 1):
        assert f"client={number}" in lines[2 + number] and "--root-certificates=" in lines[2 + number]
    assert all("FLWR_TELEMETRY_ENABLED=0" in line and "--insecure" not in line for line in lines[1:4])
    assert lines[4].endswith("app jaxfm --stream")


def test_the_proxy_passes_on_and_keeps_what_is_sent_both_ways() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = RecordingProxy(server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", proxy.port)) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"asked")
                assert far.recv(5) == b"asked"
                far.sendall(b"answered")
                assert near.recv(8) == b"answered"
        deadline = time.monotonic() + 10
        while threading.active_count() > 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert proxy.recorded() == b"asked\nanswered"
        proxy.close()


def _config(folder: pathlib.Path) -> Any:
    """A config of texts whose labels are long enough to be looked for among other bytes."""
    config = tiny.classification_config(folder, train__batch_size=4, model__dropout=0.1)
    for path in sorted((folder / "single").iterdir()):
        text = path.read_text(encoding="utf-8")
        for short, long in LABELS.items():
            text = text.replace(f'"{short}"', f'"{long}"')
        path.write_text(text, encoding="utf-8")
    (folder / "config.py").write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({to_dict(config)!r})\n"
    )
    return config


def _command(folder: pathlib.Path, clients: int, *more: str) -> list[str]:
    training = [f"--config={folder / 'config.py'}", f"--clients={clients}", *(f"--{k}={v}" for k, v in FLAGS.items())]
    return [sys.executable, str(SCRIPT), f"--workdir={folder / 'net'}", *more, "--", *training]


def _environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "JAX_NUM_CPU_DEVICES": "1"}


def _values(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(workdir.with_name(f"{workdir.name}-rounds") / "checkpoints")
    return {path: np.asarray(value) for path, value in flat(checkpoints.read_whole(step)[0]).items()}


@pytest.mark.slow
@needs_flower
def test_a_federation_of_three_processes_over_tls_is_the_simulation(tmp_path: pathlib.Path) -> None:
    _config(tmp_path)
    command = _command(tmp_path, 2)
    training = command[command.index("--") + 1 :]
    simulation = [sys.executable, "-m", "jaxfm.federated", *training, f"--workdir={tmp_path / 'sim'}"]
    for each in (simulation, command):  # both on one device: Adam makes whole steps of the rounding of zeros
        done = subprocess.run(each, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    simulated = json.loads((tmp_path / "sim" / "federated.json").read_text())
    reported = json.loads((tmp_path / "net" / "federated.json").read_text())
    for step in (1, 2):
        one, other = _values(tmp_path / "sim", step), _values(tmp_path / "net", step)
        assert one.keys() == other.keys()
        for path in one:
            np.testing.assert_allclose(other[path], one[path], atol=1e-5)
    for ours, theirs in zip(simulated["rounds"], reported["rounds"], strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-5) and theirs["answered"] == ours["answered"]
    assert [each["examples"] for each in reported["clients"]] == [each["examples"] for each in simulated["clients"]]


@pytest.mark.slow
@needs_flower
def test_a_killed_client_is_named_and_nothing_of_the_data_crosses_the_socket(tmp_path: pathlib.Path) -> None:
    """Without TLS, through a proxy that keeps all that clients and server say to each other."""
    _config(tmp_path)
    port = _free_port()
    proxy = RecordingProxy(port)
    command = _command(
        tmp_path, 3, "--insecure", f"--port={port}", f"--reached-at=127.0.0.1:{proxy.port}", "--seconds=90"
    )
    child = subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    timer = threading.Timer(1200, child.kill)
    timer.start()
    lines, pid = [], 0
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if found := re.match(r"client2: process (\d+)", line):
                pid = int(found[1])
            if line.startswith("round 1 of 2: 3 of 3 clients"):
                os.killpg(pid, signal.SIGKILL)
    code = child.returncode
    timer.cancel()
    proxy.close()
    assert code == 0, "".join(lines)[-4000:]
    report = json.loads((tmp_path / "net" / "federated.json").read_text())
    first, second = report["rounds"]
    assert first["answered"] == [0, 1, 2] and second["answered"] == [0, 1] and second["accepted"]
    assert list(second["dropped"]) == ["2"]
    assert re.search(
        r"client 2: (did not answer within|could not be reached)", (tmp_path / "net/federated.md").read_text()
    )
    _look_for_data(proxy.recorded(), tmp_path)


def _look_for_data(sent: bytes, folder: pathlib.Path) -> None:
    """Finds the model's numbers in what was sent, and no text, label, or sequence of tokens or labels."""
    values = _values(folder / "net", 1)
    largest = max(values.values(), key=lambda value: value.size)
    assert sent.count(np.ascontiguousarray(largest).tobytes()) >= 2, "the proxy sees what is sent, as it is"
    assert all(path.encode() in sent for path in values)
    records = [
        json.loads(line)
        for path in sorted((folder / "single").iterdir())
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert len(records) > 50
    for record in records:
        words = record["text"].split()
        for first in range(max(1, len(words) - 1)):  # any two words that follow each other
            piece = " ".join(words[first : first + 2]).encode()
            assert len(piece) < 6 or piece not in sent, piece
    for label in LABELS.values():
        assert label.encode() not in sent
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(next(folder.rglob("tokenizer.json"))))
    for record in records:
        ids = tokenizer.encode(record["text"], add_special_tokens=False).ids[:8]
        for kind in ("<i4", "<i8", "<u2", "<u4", ">i4", "<f4"):
            assert len(ids) < 4 or np.asarray(ids, kind).tobytes() not in sent, ids
    numbers = [list(LABELS.values()).index(record["label"]) for record in records]
    for first in range(0, len(numbers) - 24, 12):
        for kind in ("<i4", "<i8", "<u1", "<f4"):
            piece = np.asarray(numbers[first : first + 24], kind).tobytes()
            assert (
                piece not in sent
                and np.asarray(1 - np.asarray(numbers[first : first + 24]), kind).tobytes() not in sent
            )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
