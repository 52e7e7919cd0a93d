"""Requests a second and their times of a served tagger, beside transformers' pipeline and onnxruntime behind FastAPI.

  python -m profiles.serve_load --run=runs/ner --texts=../shared/data/wnut17/test.conll --clients=1,8,64 \
      --output=profiles/results/serve_wnut17.json

Each client asks on a connection of its own for the entities of one text, waits for the answer, and asks again. The
servers (`jaxfm.serve` and profiles/hf_serve.py, which shares no code with it) have the same weights, exported, run one
beside the other and are asked in turns of --seconds; a turn before the first is not counted. Memory is that of the
server's process. --lengths=mixed asks for 1 to 40 sentences in one text.
"""

import concurrent.futures
import http.client
import json
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil

from jaxfm import files
from jaxfm.data.records.source_unlabelled import Wanted, read_unlabelled
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.export import export
from profiles import command_line, quality

REFERENCE = pathlib.Path(__file__).with_name("hf_serve.py")
OURS, OURS_BF16, TORCH, ONNX = PROGRAMS = ("jaxfm", "jaxfm bf16", "transformers", "onnx int8")
_START_SECONDS = 300


class Server(NamedTuple):
    """A server that is ready."""

    process: "subprocess.Popen[bytes]"
    port: int
    path: str


def start(name: str, run: pathlib.Path, workdir: pathlib.Path, port: int) -> Server:
    """Starts a server of one of `PROGRAMS` and waits until it answers."""
    if name in (OURS, OURS_BF16):
        command = [sys.executable, "-m", "jaxfm.serve", f"--workdir=m={run}", f"--port={port}"]
        command += ["--precision=bf16"] if name == OURS_BF16 else ["--precision=f32"]
        path = "/v1/models/m/predict"
    else:
        form, engine = ("hf", "torch") if name == TORCH else ("onnx", "onnx")
        exported = workdir / f"exported_{form}"
        if not exported.exists():
            export(run, exported, form, **({"quantize": "int8", "max_loss": 1.0} if form == "onnx" else {}))
        command = [sys.executable, str(REFERENCE), str(exported), f"--port={port}", f"--engine={engine}"]
        path = "/predict"
    log = (workdir / f"{name.replace(' ', '_')}.log").open("wb")
    server = Server(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT), port, path)
    wait_until_ready(server.process, port, f"{' '.join(command)} (see {log.name})")
    return server


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, what: str) -> None:
    """Returns when a server answers. Raises UserError, which names it, where it ends or takes minutes."""
    for _ in range(_START_SECONDS):
        if process.poll() is not None:
            raise UserError(f"{what}: ended with {process.returncode}.")
        try:
            if _ask(http.client.HTTPConnection("localhost", port, timeout=5), "/ready", None)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(1)
    raise UserError(f"{what}: was not ready after {_START_SECONDS} s.")


def _ask(connection: http.client.HTTPConnection, path: str, text: str | None) -> tuple[int, bytes]:
    body = None if text is None else json.dumps({"inputs": [text]})
    connection.request("GET" if text is None else "POST", path, body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    return reply.status, reply.read()


def load(server: Server, texts: Sequence[str], clients: int, seconds: float) -> dict[str, float]:
    """Returns requests a second, the times of requests in ms, and the server's memory in MiB after them."""
    end = time.monotonic() + seconds
    go = threading.Barrier(clients)

    def client(number: int) -> list[float]:
        draw, times = random.Random(number), []
        connection = http.client.HTTPConnection("localhost", server.port, timeout=120)
        go.wait()
        while time.monotonic() < end:
            begun = time.monotonic()
            status, _ = _ask(connection, server.path, draw.choice(texts))
            times.append(time.monotonic() - begun)
            assert status == 200, f"status {status}"
        connection.close()
        return times

    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        found = [each for times in pool.map(client, range(clients)) for each in times]
    taken = time.monotonic() - begun
    return {
        "requests_per_s": round(len(found) / taken, 1),
        "p50_ms": round(1000 * float(np.quantile(found, 0.5)), 1),
        "p99_ms": round(1000 * float(np.quantile(found, 0.99)), 1),
        "resident_mib": round(psutil.Process(server.process.pid).memory_info().rss / 2**20),
    }


def read_texts(path: pathlib.Path, lengths: str) -> list[str]:
    """Returns the sentences of a file, or texts of 1 to 40 of them."""
    records = read_unlabelled(path, Wanted(words=True))
    sentences = [each["text"] if "text" in each else " ".join(each["tokens"]) for each in records]
    if not sentences:
        raise UserError(f"--texts={path}: has no text.")
    if lengths == "sentences":
        return sentences
    draw = random.Random(0)
    return [" ".join(draw.choices(sentences, k=round(40 ** draw.random()))) for _ in range(len(sentences))]


def summary(turns: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Returns of each number its median over the turns, and the turns' own."""
    return {
        name: {"median": statistics.median(each[name] for each in turns), "turns": [each[name] for each in turns]}
        for name in turns[0]
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="a run of NER")
    parser.add_argument("--texts", type=pathlib.Path, required=True, help="a file of texts or of words")
    parser.add_argument("--lengths", choices=("sentences", "mixed"), default="sentences")
    parser.add_argument("--programs", default=f"{OURS},{TORCH},{ONNX}")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--port", type=int, default=8300, help="of the first server")
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    if not arguments.texts.is_file():
        raise UserError(f"--texts={arguments.texts}: no such file.")
    programs = arguments.programs.split(",")
    if unknown := [name for name in programs if name not in PROGRAMS]:
        raise UserError(f"--programs: {unknown[0]!r} is none of {', '.join(PROGRAMS)}.")
    counts = command_line.integers("--clients", arguments.clients.split(","))
    texts = read_texts(arguments.texts, arguments.lengths)
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    workdir.mkdir(parents=True, exist_ok=True)
    servers: dict[str, Server] = {}
    found: dict[str, dict[int, list[dict[str, float]]]] = {name: {count: [] for count in counts} for name in programs}
    try:
        for number, name in enumerate(programs):
            servers[name] = start(name, arguments.run, workdir, arguments.port + number)
            load(servers[name], texts, 8, arguments.seconds / 3)
        for _ in range(arguments.turns):
            for count in counts:
                for name in programs:
                    found[name][count].append(load(servers[name], texts, count, arguments.seconds))
                    print(name, count, found[name][count][-1], flush=True)
    finally:
        for server in servers.values():
            server.process.terminate()
        codes = {name: server.process.wait(60) for name, server in servers.items()}
    result = {
        "command": quality.shown_command(sys.argv),
        **quality.machine(),
        "texts": len(texts),
        "words_per_text": round(statistics.mean(len(text.split()) for text in texts), 1),
        "exit_codes": codes,
        "programs": {name: {count: summary(turns) for count, turns in each.items()} for name, each in found.items()},
    }
    files.write_json(arguments.output, result)
    rows = [
        (name, count, *(result["programs"][name][count][each]["median"] for each in result["programs"][name][count]))
        for count in counts
        for name in programs
    ]
    print(to_markdown(Table("Load", ("program", "clients", "requests/s", "p50 ms", "p99 ms", "MiB"), rows)))


if __name__ == "__main__":
    command_line.run(main)
