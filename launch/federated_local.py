#!/usr/bin/env python3
"""Runs a federation over the network of one machine, by Flower: launch/federated_local.py --workdir=runs/f -- FLAGS.

FLAGS are those of `python -m jaxfm.federated`, without --workdir. A process is the server, one is each client; they
speak TLS on the loopback as they would between machines, with certificates made for this. Each client deals itself its
part of the training data as the simulation does, so the result is that of the simulation. Needs the extra `federated`.

What every party logs is in WORKDIR-network, and so are the agreement, the certificates and Flower's files. Exit code: 0
when the run is written, 2 for a mistake in this command or in FLAGS, 1 when the server failed, 130 stopped by Ctrl-C.
--dry-run prints the commands: those of a real federation, but for addresses and certificates. Standard library only.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import local  # pyright: ignore[reportMissingImports]  # beside this script, and so on its path

CONNECTION = "jaxfm"  # what Flower's config calls the server
START_SECONDS, END_SECONDS = 120.0, 15.0
# A Flower app is what `flwr run` sends to the server, and that to the clients: here two lines each, which call jaxfm.
APP = {
    "pyproject.toml": """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "jaxfm-federation"
version = "1.0.0"
description = "A federation of jaxfm"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "jaxfm"

[tool.flwr.app.components]
serverapp = "jaxfm_federation.server:app"
clientapp = "jaxfm_federation.client:app"

[tool.flwr.app.config]
""",
    "jaxfm_federation/__init__.py": "",
    "jaxfm_federation/server.py": "from jaxfm.programs.federated_network import server_app\n\napp = server_app()\n",
    "jaxfm_federation/client.py": "from jaxfm.programs.federated_network import client_app\n\napp = client_app()\n",
}
CERTIFICATES = (
    "import pathlib, sys; from jaxfm.federation.certificates import write_certificates; "
    "write_certificates(pathlib.Path(sys.argv[1]))"
)


@dataclasses.dataclass(frozen=True)
class Party:
    """A process of the federation: its name, which is that of its log, its command, and its variables."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; `training` holds what follows --.

    Raises local.MistakeError.
    """
    own, training = list(arguments), []
    if "--" in own:
        at = own.index("--")
        own, training = own[:at], own[at + 1 :]
    parser = local.make_parser(
        "launch/federated_local.py",
        "Runs a federation over the network of one machine, by Flower.",
        "launch/federated_local.py --workdir=DIR [options] -- CONFIG --clients=N [more flags of jaxfm.federated]",
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="the run directory to write")
    parser.add_argument("--seconds", type=float, default=600.0, help="for a client's answer (default: 600)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter (default: the one that runs this)")
    parser.add_argument("--port", type=int, default=0, help="of the server (default: a free one)")
    parser.add_argument(
        "--reached-at", default="", help="HOST:PORT where clients reach the server, where that is another (a proxy)"
    )
    parser.add_argument("--insecure", action="store_true", help="without TLS: for looking at what is sent")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run nothing")
    options = parser.parse_args(own)
    if options.seconds <= 0 or not 0 <= options.port <= 65535:
        name = "seconds" if options.seconds <= 0 else "port"
        raise local.MistakeError(f"--{name}={getattr(options, name):g}: is out of range")
    if not training:
        raise local.MistakeError("nothing to run: give the flags of jaxfm.federated after --")
    for word in training:
        if word.lstrip("-").split("=")[0] in ("workdir", "agreement"):
            raise local.MistakeError(f"{word}: is set by this launcher; leave it out")
    options.training, options.workdir = training, options.workdir.absolute()
    options.folder = options.workdir.with_name(f"{options.workdir.name}-network")
    return options


def agreement_command(options: argparse.Namespace) -> tuple[str, ...]:
    """Returns the command that writes what the parties agree on."""
    return (options.python, "-m", "jaxfm.federated", *options.training, f"--agreement={agreement(options)}")


def agreement(options: argparse.Namespace) -> pathlib.Path:
    """Returns the file of what the parties agree on."""
    return options.folder / "federation.json"


def parties(options: argparse.Namespace, clients: int, ports: Sequence[int]) -> list[Party]:
    """Returns server and clients; `ports`: of the server, then of each client's own processes."""
    folder, bin = options.folder, pathlib.Path(options.python).parent
    tls = folder / "tls"
    served = ("--insecure",) if options.insecure else (
        f"--ssl-certfile={tls / 'server.pem'}", f"--ssl-keyfile={tls / 'server.key'}",
        f"--ssl-ca-certfile={tls / 'authority.pem'}",
    )  # fmt: skip
    joined = ("--insecure",) if options.insecure else (f"--root-certificates={tls / 'authority.pem'}", *served)
    common = environment(options)
    server = Party(
        "server",
        (
            *(str(bin / "flower-superlink"), "--host=127.0.0.1", f"--port={ports[0]}"),
            *("--disable-runtime-dependency-installation", *served),
        ),
        {
            **common,
            "JAXFM_FEDERATION": str(agreement(options)),
            "JAXFM_FEDERATED_WORKDIR": str(options.workdir),
            "JAXFM_FEDERATED_SECONDS": f"{options.seconds:g}",
        },
    )
    found = [server]
    for number in range(clients):
        node = f"federation={json.dumps(str(agreement(options)))} client={number}"
        command = (
            *(str(bin / "flower-supernode"), f"--superlink={options.reached_at or f'127.0.0.1:{ports[0]}'}"),
            *(f"--port={ports[number + 1]}", f"--node-config={node}", *joined),
        )
        found.append(Party(f"client{number}", command, common))
    return found


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Returns the variables of all parties: Flower's folder, and nothing of its telemetry and its look for updates."""
    bin = pathlib.Path(options.python).parent
    return {
        "FLWR_HOME": str(options.folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{bin}{os.pathsep}{os.environ.get('PATH', '')}",  # where Flower finds its own further commands
        "PYTHONUNBUFFERED": "1",
    }


def run_command(options: argparse.Namespace) -> tuple[str, ...]:
    """Returns the command that starts the federation and shows what its server logs."""
    flwr = pathlib.Path(options.python).parent / "flwr"
    return (str(flwr), "run", str(options.folder / "app"), CONNECTION, "--stream")


def write_app(folder: pathlib.Path) -> None:
    """Writes the Flower app."""
    for name, text in APP.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_connection(options: argparse.Namespace, port: int) -> None:
    """Writes the file by which `flwr run` finds the server."""
    home = options.folder / "flower"
    home.mkdir(parents=True, exist_ok=True)
    way = (
        "insecure = true"
        if options.insecure
        else f"root-certificates = {json.dumps(str(options.folder / 'tls' / 'authority.pem'))}"
    )
    text = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n{way}\n'
    (home / "config.toml").write_text(text, encoding="utf-8")


class StoppedError(Exception):
    """A signal, or a party that ended before its time."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class Federation:
    """The processes; at the end all of them are ended."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.received: int | None = None

    def note(self, number: int, frame: object) -> None:
        """Handler of SIGINT and SIGTERM."""
        del frame
        self.received = number

    def start(self, party: Party) -> "subprocess.Popen[bytes]":
        """Starts a party, whose output goes to its log."""
        with open(self._options.folder / f"{party.name}.log", "ab") as log:
            child = subprocess.Popen(
                party.command,
                env={**os.environ, **party.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal reaches this launcher alone, and what a party starts ends with it
            )
        self._children[party.name] = child
        return child

    def wait_for_port(self, port: int) -> None:
        """Waits until the server listens."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check("server")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.2)
        raise StoppedError(f"the server does not listen after {START_SECONDS:g} s: {self._log('server')}", 1)

    def check(self, *names: str) -> None:
        """Raises StoppedError for a signal, or where one of the parties has ended."""
        if self.received is not None:
            raise StoppedError(f"stopped by {signal.Signals(self.received).name}", 128 + self.received)
        for name in names:
            if (code := self._children[name].poll()) is not None:
                raise StoppedError(f"{name} has ended with {code}: {self._log(name)}", 1)

    def end(self) -> None:
        """Ends all parties with what they have started: asks them first."""
        for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            for child in self._children.values():
                # Also where the party itself has ended: processes that it has started may not have.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and any(child.poll() is None for child in self._children.values()):
                time.sleep(0.1)

    def _log(self, name: str) -> str:
        return str(self._options.folder / f"{name}.log")


def run(options: argparse.Namespace, federation: Federation) -> int:
    """Writes what the parties need, starts them, and waits for the server; returns the exit code."""
    options.folder.mkdir(parents=True, exist_ok=True)
    if code := subprocess.run(agreement_command(options), check=False).returncode:
        return code
    if not options.insecure:
        made = (options.python, "-c", CERTIFICATES, str(options.folder / "tls"))
        if code := subprocess.run(made, check=False).returncode:
            return code
    clients = count(options)
    ports = [options.port or local.free_port(), *(local.free_port() for _ in range(clients))]
    server, *others = parties(options, clients, ports)
    write_app(options.folder / "app")
    write_connection(options, ports[0])
    federation.start(server)
    federation.wait_for_port(ports[0])
    for party in others:
        federation.start(party)
        print(f"{party.name}: process {federation._children[party.name].pid}", flush=True)
    child = subprocess.Popen(run_command(options), env={**os.environ, **environment(options)}, start_new_session=True)
    federation._children["run"] = child
    while child.poll() is None:
        federation.check("server")
        time.sleep(0.2)
    if not (options.workdir / "federated.json").is_file():
        raise StoppedError(f"the server has written no run; what it says is above and in {options.folder}", 1)
    return 0


def count(options: argparse.Namespace) -> int:
    """Returns the number of clients that the parties agree on."""
    found = json.loads(agreement(options).read_text(encoding="utf-8"))
    return int(found["clients"])


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""

    def say(text: str) -> None:
        sys.stderr.write(f"federated_local.py: {text}\n")
        sys.stderr.flush()

    try:
        options = parse(arguments)
    except local.MistakeError as error:
        say(f"{error}\nRun launch/federated_local.py --help for the usage.")
        return local.USER_MISTAKE
    if options.dry_run:
        print(f"{shlex.join(agreement_command(options))}")
        for party in parties(options, 2, (9092, 9094, 9095)):
            variables = [f"{name}={shlex.quote(value)}" for name, value in party.environment.items() if name != "PATH"]
            print(*variables, shlex.join(party.command), "&")
        print(shlex.join(run_command(options)))
        return 0
    federation = Federation(options)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, federation.note)
    try:
        return run(options, federation)
    except StoppedError as stop:
        say(str(stop))
        return stop.code
    finally:
        federation.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
