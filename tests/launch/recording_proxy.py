"""A TCP proxy that keeps every byte that passes it, both ways."""

import contextlib
import socket
import threading


class RecordingProxy:
    """Passes connections on to a port of this machine; `port` is its own."""

    def __init__(self, target: int):
        self._target, self._lock = target, threading.Lock()
        self._streams: list[list[bytes]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def recorded(self) -> bytes:
        """All bytes of each connection and direction, one after the other."""
        with self._lock:
            return b"\n".join(b"".join(each) for each in self._streams)

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for one, other in ((near, far), (far, near)):
                stream: list[bytes] = []
                with self._lock:
                    self._streams.append(stream)
                threading.Thread(target=self._pass, args=(one, other, stream), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, stream: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while chunk := one.recv(2**16):
                with self._lock:
                    stream.append(chunk)
                other.sendall(chunk)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        one.close()  # the other one is closed by the thread that reads it
