"""What stands before every request: the token, the size of the body, headers that keep pages of others out."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Nothing from elsewhere, and no inline script: a text that is shown can never become one.
_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
TOO_LARGE = 413
UNAUTHORIZED = 401


class Guard:
    """An ASGI application around another one; see `__init__`."""

    def __init__(
        self,
        app: App,
        *,
        body: int,
        token: str,
        streamed: Iterable[str],
        open_paths: Iterable[str],
        lost: Callable[[], None],
    ):
        """Guards `app`.

        Args:
          app: what answers.
          body: bytes of a request at most.
          token: that requests must carry as `Authorization: Bearer TOKEN`; "": none.
          streamed: endings of paths that look at the size of their body themselves.
          open_paths: paths, or beginnings that end in "/", that need no token.
          lost: called for each request that was given up without its whole answer.
        """
        self._app, self._body, self._token = app, body, token.encode()
        self._streamed, self._open, self._lost = tuple(streamed), tuple(open_paths), lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._token and not self._is_open(scope["path"]) and not self._knows_token(headers):
            more = ((b"www-authenticate", b"Bearer"),)
            await _refuse(send, UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN", more)
            return
        limited = not scope["path"].endswith(self._streamed)
        problem = f"the body has more than {self._body:,} bytes"
        length = headers.get(b"content-length", b"0")
        if limited and length.isdigit() and int(length) > self._body:
            await _refuse(send, TOO_LARGE, problem, ((b"connection", b"close"),))
            return
        count = _Count(receive, self._body if limited else None)
        refused = False

        async def sent(message: Message) -> None:
            nonlocal refused
            # Whatever the application makes of half a body, its answer is this one.
            if count.over and message["type"] == "http.response.start":
                refused = True
                await _refuse(send, TOO_LARGE, problem, ((b"connection", b"close"),))
            if refused:
                return
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        try:
            await self._app(scope, count, sent)
        except asyncio.CancelledError:
            self._lost()
            raise

    def _is_open(self, path: str) -> bool:
        return any(
            path == each or (each.endswith("/") and each != "/" and path.startswith(each)) for each in self._open
        )

    def _knows_token(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # In constant time, whatever was given: how long an answer takes says nothing of the token.
        return hmac.compare_digest(given.strip(), self._token) and scheme.lower() == b"bearer"


class _Count:
    """`receive` of a body that ends where it has more bytes than it may: its length need not be said, or be true."""

    def __init__(self, receive: Receive, limit: int | None):
        self._receive, self._limit, self._count = receive, limit, 0
        self.over = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._count += len(message.get("body", b""))
        if self._limit is not None and self._count > self._limit:
            self.over = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return message


async def _refuse(send: Send, status: int, detail: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = json.dumps({"detail": detail}).encode()
    length = (b"content-length", str(len(body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), length, *headers, *_HEADERS],
        }
    )
    await send({"type": "http.response.body", "body": body})
