"""Answers a request with an error before its body is read, and counts such requests for the journal."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Protocol

from litellm_systemd.runtime.channel import CONNECTION, GUESSED_KEY, OTHER_ADDRESSES, REQUEST, Refusals
from litellm_systemd.runtime.http.errors import ApiError, build_response
from litellm_systemd.runtime.http.guessing import FREE_KEYS

#: An ASGI application: it gets scope, receive and send.
Application = Callable[[Any, Any, Any], Awaitable[None]]

#: Seconds to receive the rest of a refused request. nginx has the same limit (lingering_time).
_LINGER = 30.0
#: Seconds between two pieces of 64 to 320 KiB that are dropped, so that refused bodies do not take the processor from
#: other clients.
_PAUSE = 0.005
#: A worker names this many addresses per second, and counts the requests of further ones under `OTHER_ADDRESSES`.
MAX_ADDRESSES = 100
#: Characters of an address. A trusted proxy passes on what its client sent as one, up to the limit of a header.
_MAX_ADDRESS = 64
#: The name of a client that connected to a UNIX socket.
LOCAL = "a local socket"


async def refuse(
    scope: Any,
    receive: Any,
    send: Any,
    error: ApiError,
    *headers: tuple[bytes, bytes],
    body_limit: int,
    close: bool = False,
) -> None:
    """Answer with the error; see `respond`."""
    start, body = build_response(scope, error, *headers)
    await respond(scope, receive, send, start, body, body_limit=body_limit, close=close)


async def respond(
    scope: Any, receive: Any, send: Any, start: dict[str, Any], body: bytes, *, body_limit: int, close: bool = False
) -> None:
    """Send a response, then receive and drop the body of the request, up to `body_limit` bytes (0: no limit).

    The client has the complete response already. If the connection closed while the client still sends, the kernel
    would reset it, and the client could lose the response (RFC 9112, 9.6). The connection closes afterwards if more
    of the body may follow, and with `close`.
    """
    sent = {name: value.lower() for name, value in scope["headers"]}
    # The client may still send the body, or may never do so. Only a closed connection is clear to both sides
    # (RFC 9110, 10.1.1).
    waits = sent.get(b"expect") == b"100-continue"
    if close or waits or content_length(scope) > body_limit > 0:
        start = {**start, "headers": [*start["headers"], (b"connection", b"close")]}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if not waits and has_body(scope):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_discard_body(receive, body_limit), _LINGER)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def content_length(scope: Any) -> int:
    """The length of the body that the client has announced; 0 if it has announced none."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def is_chunked(scope: Any) -> bool:
    """Whether the client sends a body without announcing its length."""
    return any(name == b"transfer-encoding" for name, _ in scope["headers"])


def has_body(scope: Any) -> bool:
    """Whether the client sends a body."""
    return content_length(scope) > 0 or is_chunked(scope)


async def _discard_body(receive: Any, limit: int) -> None:
    size = 0
    while (message := await receive()).get("more_body", False):
        size += len(message["body"])
        if 0 < limit < size:
            return
        await asyncio.sleep(_PAUSE)


class Reason(Enum):
    """Why a request was refused or a connection was closed: what the journal counts, and how it describes it."""

    WRONG_KEY = REQUEST, "with a wrong key"
    NO_KEY = REQUEST, "without a key"
    BODY_SIZE = REQUEST, "larger than MAX_REQUEST_SIZE"
    HEADER_SIZE = REQUEST, "with headers above MAX_HEADER_SIZE"
    INVALID = REQUEST, "in invalid HTTP"
    SLOW_HEADER = REQUEST, "slower than HEADER_TIMEOUT"
    SLOW_BODY = REQUEST, "slower than MIN_UPLOAD_RATE"
    SILENT = CONNECTION, "that sent no request"
    PLAIN_HTTP = CONNECTION, "with plain HTTP on the port of HTTPS"
    TLS = CONNECTION, "with TLS on the port of plain HTTP"
    UNREAD = CONNECTION, "that read no responses"
    GUESS = GUESSED_KEY, f"after {FREE_KEYS} wrong ones"
    CONNECTIONS = CONNECTION, "above MAX_CONNECTIONS"
    ADDRESS = CONNECTION, "above MAX_CONNECTIONS_PER_ADDRESS"

    @property
    def label(self) -> str:
        """The reason as the value of a metric's label."""
        return self.name.lower()

    @property
    def is_connection(self) -> bool:
        """Whether it closes a connection instead of refusing a request."""
        subject, _ = self.value
        return subject == CONNECTION


class Metrics(Protocol):
    """What counts for /metrics."""

    def count_response(self, status: int) -> None:
        """Count a response."""

    def count_refusal(self, reason: Reason) -> None:
        """Count a refused request or a closed connection."""


def name_client(client: tuple[str, int] | None) -> str:
    """The name of the client of an ASGI scope in a message: its address, or that of a socket of this host."""
    return client[0][:_MAX_ADDRESS] if client else LOCAL


class RefusalCounter:
    """The refused requests and closed connections of this process since the last call of `take`.

    `metrics` counts them too, and the errors that the server itself sends; None without METRICS.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics
        self._counts: dict[str, tuple[Counter[str], Counter[str]]] = {}

    def count_response(self, status: int) -> None:
        """Count an error that the server sends, and no application."""
        if self._metrics is not None:
            self._metrics.count_response(status)

    def add(self, client: tuple[str, int] | None, reason: Reason) -> None:
        """Count one. `client` is that of an ASGI scope."""
        if self._metrics is not None:
            self._metrics.count_refusal(reason)
        subject, text = reason.value
        reasons, clients = self._counts.setdefault(subject, (Counter(), Counter()))
        reasons[text] += 1
        address = name_client(client)
        is_named = address in clients or len(clients) < MAX_ADDRESSES
        clients[address if is_named else OTHER_ADDRESSES] += 1

    def take(self) -> tuple[Refusals, ...]:
        """The numbers for the main process, for each subject that has any. Starts again at zero."""
        taken = tuple(
            Refusals(subject, dict(reasons), dict(clients)) for subject, (reasons, clients) in self._counts.items()
        )
        self._counts.clear()
        return taken
