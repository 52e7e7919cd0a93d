"""Connecting the processes of a run: the flags, waiting for each other, and giving up after a timeout."""

import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

import jax

from jaxfm.errors import UserError

EXIT_USER_MISTAKE = 2
_REMIND_SECONDS, _LOOK_SECONDS = 10.0, 2.0


def given(coordinator: str | None, num_processes: int | None, process_id: int | None) -> tuple[str, int, int] | None:
    """Returns (coordinator, number of processes, own id) from the three flags; None where they are not set.

    Raises UserError where some are missing or out of range.
    """
    if (coordinator, process_id) == (None, None) and num_processes in (None, 1):
        return None
    flags = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [name for name, value in flags.items() if value is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: give all of --coordinator=HOST:PORT, --num_processes=N and "
            "--process_id=I, or none of them in a cluster that is detected."
        )
    assert coordinator is not None and num_processes is not None and process_id is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator={coordinator}: must be HOST:PORT, a port of process 0's machine, such as a:1234."
        )
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes}: must be at least 1.")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id}: must be from 0 to {num_processes - 1} (--num_processes - 1).")
    return coordinator, num_processes, process_id


def check_port(address: str, process: int) -> None:
    """Raises UserError where process 0 cannot listen on the port: the service would crash with a segmentation fault."""
    if process != 0:
        return
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    port = int(address.rpartition(":")[2])
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the run before may just have ended
        try:
            listening.bind(("", port))
        except OSError as error:
            raise UserError(f"process 0 cannot listen on port {port} of this machine: {error.strerror}.") from error


class Connecting:
    """jax.distributed.initialize() in a thread, so that Ctrl-C and the timeout work while it waits in C++.

    Called directly, it ends the process with a C++ stack trace when the others do not join.
    """

    def __init__(
        self, address: str, count: int, process: int, timeout: float, silence: float, arguments: Mapping[str, Any]
    ):
        self._address, self._count, self._process, self._timeout = address, count, process, timeout
        if arguments:
            arguments = dict(arguments, coordinator_address=address, num_processes=count, process_id=process)
        self._arguments = dict(
            arguments,
            initialization_timeout=int(timeout) + 3600,
            # A fallback for the watch: the service's own detection ends the others with a stack trace.
            heartbeat_timeout_seconds=max(int(2 * silence), 20),
            shutdown_timeout_seconds=60,
        )
        self._error: BaseException | None = None
        self._reached = False
        self._thread = threading.Thread(target=self._connect, name="connect", daemon=True)

    def wait(self) -> None:
        """Returns when all processes have joined; exits after the timeout. Raises UserError where connecting failed."""
        began = time.monotonic()
        self._thread.start()
        remind, looked = _REMIND_SECONDS, 0.0
        while self._thread.is_alive():
            self._thread.join(0.2)
            waited = time.monotonic() - began
            # Process 0 gives up first, as its message is the most precise.
            if self._thread.is_alive() and waited > self._timeout + (1.0 if self._process else 0.0):
                leave_at_once(EXIT_USER_MISTAKE, f"error: gave up after {self._timeout:g} s: {self._for_whom()}")
            if waited > looked + _LOOK_SECONDS:
                self._reached |= self._process != 0 and not not_reached(self._address)
                looked = waited
            if waited > remind:
                say(f"waiting: {self._for_whom()} {waited:.0f} of {self._timeout:g} s.")
                remind *= 2
        if self._error is not None:
            raise UserError(f"process {self._process} cannot join the run at {self._address}: {self._error}")

    def _connect(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                jax.distributed.initialize(**self._arguments)
        except (RuntimeError, ValueError, OSError) as error:
            self._error = error

    def _for_whom(self) -> str:
        """Describes who is missing, as far as known: the service reveals no ids before all have joined."""
        me = f"process {self._process} ({socket.gethostname()}) of {self._count}"
        port = int(self._address.rpartition(":")[2])
        if self._process == 0:
            # Asked twice: the short connections by which others test whether process 0 is reachable do not count.
            first = connected_peers(port)
            time.sleep(0.3)
            peers = [address for peer, address in connected_peers(port).items() if peer in first]
            others = [process for process in range(self._count) if process]
            if not peers:
                return f"{me}: no other process has come to {self._address}; missing: {listed(others, {})}."
            return (
                f"{me}: {len(peers)} of the {self._count - 1} others have come to {self._address} "
                f"(from {', '.join(sorted(set(peers)))}); {self._count - 1 - len(peers)} have not."
            )
        if reason := not_reached(self._address):
            if self._reached:
                return f"{me}: process 0 was reachable ({self._address}) and has given up; others did not come."
            return f"{me}: process 0 cannot be reached at {self._address} ({reason})."
        self._reached = True
        return f"{me}: process 0 is reachable ({self._address}), others are missing; process 0 says how many."


def connected_peers(port: int) -> dict[str, str]:
    """Returns the peers connected to a port of this process: address and port in hex -> address. Linux only (/proc)."""
    found: dict[str, str] = {}
    own = False
    for family, table in ((socket.AF_INET, "/proc/net/tcp"), (socket.AF_INET6, "/proc/net/tcp6")):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            return {}
        for line in lines:
            _, local, remote, state, *_ = line.split()
            if state == "01" and int(local.rpartition(":")[2], 16) == port:
                words = bytes.fromhex(remote.rpartition(":")[0])
                # Each 32-bit word is in the machine's byte order.
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                # This process is a client of its own service, too.
                if not own and local.rpartition(":")[0] == remote.rpartition(":")[0]:
                    own = True
                    continue
                found[remote] = socket.inet_ntop(family, packed).removeprefix("::ffff:")
    return found


def not_reached(address: str) -> str:
    """Returns why HOST:PORT cannot be reached; empty where it can."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def listed(processes: list[int], hosts: Mapping[int, str]) -> str:
    """Returns the names of processes for a message, with their hosts where known; at most 8 are listed."""
    names = [f"{process} ({hosts[process]})" if process in hosts else str(process) for process in processes[:8]]
    more = f" and {len(processes) - 8} more" if len(processes) > 8 else ""
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(names)}{more}"


def say(text: str) -> None:
    """Writes a line to standard error; does nothing for an empty text."""
    if text:
        # A progress bar hides the cursor, and this process may end before the bar shows it again.
        shown = "\x1b[?25h" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{shown}{text}\n")
        sys.stderr.flush()


def leave_at_once(code: int, text: str = "") -> NoReturn:
    """Ends the process, from any thread, without JAX's clean-up."""
    say(text)
    sys.stdout.flush()
    os._exit(code)
