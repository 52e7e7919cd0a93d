"""A server's life: it listens, compiles, answers, and stops when it is told to, with nothing lost."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from jaxfm.errors import UserError
from jaxfm.serving.app import Service, make_app

_log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Server(uvicorn.Server):
    """uvicorn, whose signals stop it in order and are not raised again afterwards: a server that was told to stop
    has not failed.
    """

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]):
        super().__init__(config)
        self._stopping = stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stops at SIGTERM and SIGINT: requests that were accepted are answered, new ones refused."""
        before = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self._stopping()
        self.force_exit = self.should_exit and number == signal.SIGINT  # Ctrl-C twice
        self.should_exit = True


def allowed_hosts(host: str, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the names by which a server may be called: on the loopback its own, elsewhere those given, or any."""
    if host in LOOPBACK:
        return (*given, *LOOPBACK)
    return (*given, host) if given else ("*",)


def serve(
    service: Service,
    *,
    host: str,
    port: int,
    token: str = "",
    hosts: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> bool:
    """Serves until SIGTERM or Ctrl-C, then answers what was accepted and returns whether a thread still compiles.

    That thread ends with the program that it compiles, which may take a minute. A process that ends before must do so
    by os._exit: the interpreter's own end would abort in XLA.

    Args:
      service: the models.
      host: address to listen at.
      port: 0: any that is free.
      token: that requests must carry; "": none.
      hosts: names by which the server may be called, beside `host`.
      say: told the address, and when the programs are compiled.

    Raises:
      UserError: the address is in use, or not of this machine.
    """

    def stopping() -> None:
        service.stopping = True

    config = uvicorn.Config(
        make_app(service, token=token, hosts=allowed_hosts(host, hosts)),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        # After that a client that reads too slowly, or a request without an end, no longer keeps the server alive.
        timeout_graceful_shutdown=round(service.limits.deadline) + 1,
    )
    server = _Server(config, stopping)
    with listening_socket(host, port) as bound:
        address = f"http://{'localhost' if host in LOOPBACK else host}:{bound.getsockname()[1]}"
        say(f"listening at {address} (compiling)")
        warm = threading.Thread(target=_warm, args=(service, address, say), name="jaxfm compiles", daemon=True)
        warm.start()
        asyncio.run(server.serve(sockets=[bound]))
    service.close()
    return warm.is_alive()


@contextlib.contextmanager
def listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket of an address. Raises UserError where it is taken, or not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol: asyncio sends at once (TCP_NODELAY) only on such sockets, and 40 ms are many inferences.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:  # here alone: another error of a server is not about its address
            raise UserError(f"--host={host} --port={port}: cannot listen there: {error}.") from None
        yield bound
    finally:
        bound.close()


def _warm(service: Service, address: str, say: Callable[[str], None]) -> None:
    """Compiles the programs of all models, then lets requests in."""
    try:
        for name, model in service.models.items():
            for done in model.warm(service.limits.batch_inputs):
                _log.info("%s: %s", name, done)
                if service.stopping:
                    return
    except Exception:  # it would end this thread unseen, and the server would never be ready
        _log.exception("compiling failed; programs are compiled when they are needed")
    service.ready = True
    say(f"ready at {address}")
