"""uvicorn's HTTP protocol with limits: how much a client may send before a request is passed on, and how slowly.

httptools has no limits. It joins the pieces of an unfinished header one by one, which takes quadratic time, and so
gets no more bytes of a head than the limit. Its callbacks check what only the parser knows.

uvicorn's own callbacks do the rest. What this module uses of them is checked in tests/unit/test_runtime_protocol.py.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from litellm_systemd.runtime.http.authentication import HAS_RIGHT_KEY, IS_REFUSED
from litellm_systemd.runtime.http.connections import Connection, Connections
from litellm_systemd.runtime.http.errors import ApiError, build_response
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.http.refuse import Reason
from litellm_systemd.runtime.http.response_count import IS_GONE

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

#: As many as Envoy, gunicorn and HAProxy allow.
_MAX_HEADERS = 100
#: The headers and the connection options of a request for an upgrade.
_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")
#: Requests that wait on one connection for the response to an earlier one. Clients that do so at all send a few.
_MAX_PIPELINED = 32
#: Bytes of a chunked body that are not content (chunk sizes, chunk extensions, trailers) beyond the bytes of content.
_MAX_OVERHEAD = 256 * 1024
#: What a client may still send after an error, in bytes and seconds: it reads the error when it has sent its request.
_MAX_DISCARDED, _DISCARD_TIME = 1024 * 1024, 5.0
#: Seconds for which a client may read nothing while the server waits to send, as in nginx (send_timeout), and the
#: bytes that it must read for each further second: Apache's mod_reqtimeout requires as many of one that sends.
_SEND_TIMEOUT, _SEND_RATE = 60.0, 500
#: The same for a client without the right key that a drain waits for, or that takes the connection of another client.
_SHORT_SEND_TIMEOUT = 5.0


def _error(status: int, message: str, code: str) -> ApiError:
    return ApiError(status, message, "invalid_request_error", code, "invalid_request_error")


#: The first byte of what a client sends that uses TLS (RFC 8446, 5.1).
_TLS_HANDSHAKE = b"\x16"
_INVALID = _error(400, "The request is not valid HTTP.", "invalid_request")
_OVERHEAD = _error(400, "The chunks of the request have too much overhead.", "invalid_request")
_PIPELINED = _error(400, "Too many requests wait on this connection.", "invalid_request")
_LONG_LINE = _error(414, "The URL is longer than this gateway allows (MAX_HEADER_SIZE).", "uri_too_long")
_LARGE_HEADERS = _error(
    431, "The headers are larger or more than this gateway allows (MAX_HEADER_SIZE).", "request_header_too_large"
)
_SLOW_HEADER = _error(408, "The headers did not arrive in time (HEADER_TIMEOUT).", "request_timeout")
_SLOW_BODY = _error(408, "The body arrives too slowly (MIN_UPLOAD_RATE).", "request_timeout")


class _Phase(Enum):
    """What the parser expects next."""

    #: A first byte. Only in `NEW` the connection has not had a request.
    NEW = "new"
    IDLE = "idle"
    HEAD = "head"
    #: The body, or the end of a request without one.
    BODY = "body"
    #: The connection closes when the client has read the error.
    DISCARD = "discard"


class _Exceeded(Exception):
    """A callback ends the parsing. httptools raises an error of its own for it."""


class LimitedProtocol(HttpToolsProtocol):
    """The HTTP protocol of one connection. `connections` has all of this process, with TLS also its `handshake`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        limits: Limits,
        connections: Connections,
        handshake: Connection | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._limits = limits
        self._registry = connections
        self._handshake = handshake
        self._has_right_key = False
        #: The request that the application answers. uvicorn's `cycle` is the newest one of pipelined requests.
        self._running: RequestResponseCycle | None = None
        self._phase = _Phase.NEW
        #: Whether the parser has found an upgrade in this request that the server does not support.
        self._ignores_upgrade = False
        #: The error of the callback that ended the parsing.
        self._error: ApiError | None = None
        #: Seconds in this phase in which the client could send.
        self._waited = 0.0
        #: Seconds for which the client has read too little, and the bytes that waited for it at the last look.
        self._unread_time = 0.0
        self._unread_size = 0
        self._head_size = 0
        self._header_count = self._headers_size = 0
        #: Bytes of the body as it was sent, of its content, and of what `_MAX_OVERHEAD` limits.
        self._body_size = self._content_size = self._overhead = 0

    @property
    def has_right_key(self) -> bool:
        """Whether any request of this connection had the right key."""
        if not self._has_right_key and self._running is not None:
            self._has_right_key = self._running.scope["state"].get(HAS_RIGHT_KEY, False)
        return self._has_right_key

    @property
    def has_complete_request(self) -> bool:
        """Whether a request has arrived completely whose response the client has not read yet, unless it is refused.

        It is False for a client that has stopped reading. Which of several pipelined requests is refused is not known
        here: no client but an attacker sends such.
        """
        if self._phase is _Phase.BODY or self.pipeline or self._unread_time > _SHORT_SEND_TIMEOUT:
            return False
        if self.cycle is None or not (self._is_responding or self.is_sending):
            return False
        return IS_REFUSED not in self.cycle.scope["state"]

    @property
    def is_sending(self) -> bool:
        """Whether a part of a response waits until the client reads."""
        return self.transport.get_write_buffer_size() > 0

    @property
    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        if self._handshake is None:
            self._registry.add(self)
        else:
            # uvloop calls this before it reports that the handshake is complete.
            self._registry.replace(self._handshake, self)
            self._handshake = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:
            self._running.disconnected = True  # its application may wait to send
            self._running.scope["state"][IS_GONE] = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._registry.discard(self)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent, as far as the limits allow."""
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        while rest and not self.transport.is_closing():
            if self._phase is _Phase.DISCARD:
                self._discard(len(rest))
                return
            rest = self._parse_body(rest) if self._phase is _Phase.BODY else self._parse_head(rest)

    def handle_websocket_upgrade(self) -> None:
        """Pass the connection on to the WebSocket protocol, to which these limits do not apply."""
        self._registry.discard(self)
        super().handle_websocket_upgrade()

    # Sizes.

    def _parse_head(self, data: memoryview) -> memoryview:
        """Parse as much as a head may still have. Returns the rest."""
        limit = self._limits.header_size
        if self._phase is not _Phase.HEAD:
            self._enter(_Phase.HEAD)
        size = min(len(data), limit - self._head_size) if limit else len(data)
        self._head_size += size
        parsed = self._feed(data[:size])
        if limit and self._phase is _Phase.HEAD and self._head_size >= limit:
            self._refuse(_LARGE_HEADERS, Reason.HEADER_SIZE)
        return data[parsed:]

    def _parse_body(self, data: memoryview) -> memoryview:
        cycle, content = self.cycle, self._content_size
        self._body_size += len(data)
        parsed = self._feed(data)
        if self._phase is _Phase.BODY and self.cycle is cycle:
            gained = self._content_size - content
            self._overhead = max(0, self._overhead + len(data) - 2 * gained)
            if self._limits.header_size and self._overhead > _MAX_OVERHEAD:
                self._refuse(_OVERHEAD, Reason.INVALID)
            elif self._is_endless():
                self.transport.close()
        return data[parsed:]

    def _is_endless(self) -> bool:
        """Whether a body is larger than what is read for the sake of a client that was refused.

        `RequestSizeLimit` answers with 413 before. This closes the connection if a client sends on after it, or if no
        application reads the body.
        """
        limit = self._limits.body_size
        allowed = limit if self.cycle.response_complete else 2 * limit
        return bool(limit) and self._body_size > allowed + _MAX_OVERHEAD

    def _feed(self, data: memoryview | bytes) -> int:
        """Parse. Returns the number of bytes that are parsed."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._ignores_upgrade:
                head = self._head_without_upgrade()
                self.parser = httptools.HttpRequestParser(self)  # the other one may have ended
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
                self._feed(head)
                return int(upgrade.args[0])
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                self._enter(_Phase.DISCARD)
        except httptools.HttpParserError:
            error = self._error or _INVALID
            if error.status in (414, 431):
                self._refuse(error, Reason.HEADER_SIZE)
            else:
                self._refuse(error, Reason.TLS if data[:1] == _TLS_HANDSHAKE else Reason.INVALID)
        return len(data)

    def _head_without_upgrade(self) -> bytes:
        """The head of this request without what asks for an upgrade.

        A server may ignore that (RFC 9110, 7.8). Java's HttpClient sends `Upgrade: h2c` with each request.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s\r\n" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = (each.strip() for each in value.split(b","))
                kept = b", ".join(each for each in options if each.lower() not in _UPGRADE_HEADERS)
                lines.append(b"connection: %s\r\n" % kept)
            elif name not in _UPGRADE_HEADERS:
                lines.append(b"%s: %s\r\n" % (name, value))
        return b"".join((*lines, b"\r\n"))

    def _exceed(self, error: ApiError) -> None:
        self._error = error
        raise _Exceeded

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED and self._limits.header_size:
            self._exceed(_PIPELINED)
        super().on_message_begin()
        self._ignores_upgrade = False
        self._enter(_Phase.HEAD)
        self._header_count = self._headers_size = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if self._limits.header_size and len(self.url) > self._limits.line_size:
            self._exceed(_LONG_LINE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. Trailers are dropped: uvicorn would add them to the headers of a request that runs."""
        if self._phase is not _Phase.HEAD:
            return
        if self._limits.header_size:
            size = len(name) + len(value) + 4
            self._header_count += 1
            self._headers_size += size
            if (
                size > self._limits.line_size
                or self._headers_size > self._limits.header_size
                or self._header_count > _MAX_HEADERS
            ):
                self._exceed(_LARGE_HEADERS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the application."""
        if self.parser.should_upgrade() and not self._should_upgrade():
            # The parser would take the body for the next request.
            self._ignores_upgrade = any(name == b"upgrade" for name, _ in self.headers)
            if self._ignores_upgrade:
                return
        super().on_headers_complete()
        self._enter(_Phase.BODY)
        self._body_size = self._content_size = self._overhead = 0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._content_size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._ignores_upgrade:
            return
        super().on_message_complete()
        self._head_size = 0
        self._enter(_Phase.IDLE)

    def on_response_complete(self) -> None:
        """Keep what a later request may not have."""
        self._has_right_key = self.has_right_key
        super().on_response_complete()

    # Times.

    def wait(self, seconds: float) -> None:
        """Count time that has passed, and close the connection if its client is too slow.

        Only time counts in which the client could send: not while uvicorn reads no more, or a response is sent. Call
        this at regular intervals with these: then the client of a worker that was busy for long loses no time.
        """
        if self._is_unread(seconds):
            self._registry.abort(self, Reason.UNREAD)
            return
        if self.transport.is_closing() or not self._is_waiting():
            return
        self._waited += seconds
        limits = self._limits
        if self._phase is _Phase.NEW and self._waited > self.timeout_keep_alive:
            if self.timeout_keep_alive_task is not None:
                return  # a drain has set its timer
            self._registry.report_silent(self)
            self.transport.close()
        elif self._phase is _Phase.HEAD and 0 < limits.header_timeout < self._waited:
            self._refuse(_SLOW_HEADER, Reason.SLOW_HEADER)
        elif self._phase is _Phase.BODY and limits.upload_rate:
            if self._waited > limits.upload_time(self._content_size):
                self._refuse(_SLOW_BODY, Reason.SLOW_BODY)
        elif self._phase is _Phase.DISCARD and self._waited > _DISCARD_TIME:
            self.transport.close()

    def _is_unread(self, seconds: float) -> bool:
        """Count time in which the client reads no response. Returns whether it had enough.

        `close` of a transport has no timeout, nor has an application that waits to send. A client with the right key
        may take any time for a response, except during a drain.
        """
        size = self.transport.get_write_buffer_size()
        if not size or not (self.flow.write_paused or self.transport.is_closing()):
            self._unread_time = 0.0
        else:
            read = max(0, self._unread_size - size)
            self._unread_time = max(0.0, self._unread_time + seconds - read / _SEND_RATE)
        self._unread_size = size
        if self.has_right_key:
            return self._registry.is_draining and self._unread_time > _SEND_TIMEOUT
        return self._unread_time > (_SHORT_SEND_TIMEOUT if self._registry.is_draining else _SEND_TIMEOUT)

    def _is_waiting(self) -> bool:
        """Whether the worker can do nothing before the client sends more."""
        if self._phase is _Phase.DISCARD:
            return True
        if self.flow.read_paused:
            return False
        if self._phase is _Phase.BODY and not self.cycle.response_started:
            return not self.cycle.waiting_for_100_continue
        return not self._is_responding

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self._waited = 0.0

    # Errors.

    def _refuse(self, error: ApiError, reason: Reason) -> None:
        """Answer with an error if no response has begun, and close the connection."""
        self._registry.report(self, reason)
        if not self._can_answer():
            self.transport.close()
            return
        if self._is_responding:
            self.cycle.disconnected = True  # the application can send no response any more
            self.cycle.scope["state"][IS_GONE] = True
            self.cycle.message_event.set()
        self._registry.count_response(error.status)
        is_known = self.headers is not None  # a request has begun
        scope = {"path": self.url.decode("latin-1") if is_known else "", "headers": self.headers or ()}
        start, body = build_response(scope, error, (b"connection", b"close"))
        lines = [b"%s: %s\r\n" % header for header in start["headers"]]
        self.transport.write(b"".join((STATUS_LINE[error.status], *lines, b"\r\n", body)))
        if self.transport.can_write_eof():
            # A close at once would reset the connection while the client sends, and it could lose the response.
            self.transport.write_eof()
            self.flow.resume_reading()
            self._body_size = 0
            self._enter(_Phase.DISCARD)
        else:
            self.transport.close()

    def _can_answer(self) -> bool:
        if self.pipeline:
            return False
        if self._phase is _Phase.BODY:
            return not self.cycle.response_started
        return not self._is_responding

    def _discard(self, size: int) -> None:
        self._body_size += size
        if self._body_size > _MAX_DISCARDED:
            self.transport.close()
