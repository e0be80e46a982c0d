"""The access log: one line a request when it is over. Without ACCESS_LOG no request passes through here.

uvicorn's own is written at the first byte of an answer: it knows no duration and no end of a stream. And it has the
query string, in which LiteLLM takes keys.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from litellm_systemd.runtime.journal import Journal, JournalHandler, render_object

NAME = "litellm_systemd.access"
#: LiteLLM's filters of this logger take keys out of paths, and leave out LITELLM_DISABLE_ACCESS_LOG_PATHS.
_FILTERED = "uvicorn.access"
#: The answer's header by which LiteLLM names a request, in its own lines as well.
_CALL_ID = b"x-litellm-call-id"
#: Where a worker's own probe arrives: an end of a socket pair has no name. Clients come to an address or a path.
_NAMELESS = ("", None)

Application = Callable[[Any, Any, Any], Awaitable[None]]


class AccessLog:
    """Passes requests to `application` and says how each went."""

    def __init__(self, application: Application, journal: Journal) -> None:
        self._application = application
        self._logger = _open_logger(journal)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer; whatever ends the request, there is a line."""
        if scope["type"] not in ("http", "websocket") or scope.get("server") == _NAMELESS:
            await self._application(scope, receive, send)
            return
        request = _Request(scope, send, self._logger)
        try:
            await self._application(scope, receive, request.send)
        except Exception:
            request.status = request.status or 500  # which uvicorn sends then
            raise
        finally:
            request.end()


class _Request:
    def __init__(self, scope: Any, send: Any, logger: logging.Logger) -> None:
        self.status: int | None = None
        self._call: str | None = None
        self._scope = scope
        self._send = send
        self._logger = logger
        self._ended = False
        self._began = time.monotonic()

    async def send(self, message: Any) -> None:
        if self.status is None:
            self.status, self._call = _status(message), _call_id(message)
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.end()  # the application may have work of its own to do yet

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        client = self._scope["client"]
        # The path as it was sent: decoded, it could hold the end of a line. What a proxy says of a client could, too.
        path = _printable(self._scope["raw_path"].decode("latin-1"))
        milliseconds = round((time.monotonic() - self._began) * 1000)
        # The path's place is the third, where LiteLLM's filters look for it.
        arguments = (_printable(client[0]) if client else None, self._scope.get("method", "GET"), path)
        self._logger.info("%s %s %s %s %s ms %s", *arguments, self.status, milliseconds, self._call)


def _status(message: Any) -> int | None:
    """The status that a message to the client carries; None if it carries none."""
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
        return cast(int, message["status"])
    return {"websocket.accept": 101, "websocket.close": 403}.get(message["type"])


def _call_id(message: Any) -> str | None:
    """The name that LiteLLM gives the request, which a client may choose; None if it gives none."""
    headers = message.get("headers", ()) if message["type"] == "http.response.start" else ()
    found = next((value for name, value in headers if name.lower() == _CALL_ID), None)
    return None if found is None else _printable(found.decode("latin-1"))


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode()


class AccessFormatter(logging.Formatter):
    """The words of one request; as an object, its parts as well."""

    def __init__(self, structured: bool) -> None:
        super().__init__()
        self._structured = structured

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        client, method, path, status, milliseconds, call = cast("tuple[Any, ...]", record.args)
        # No status: the client, or a worker that was told to leave, ended it before there was an answer.
        text = f"{method} {path} {status or '-'} {milliseconds} ms {client or '-'}" + (f" {call}" if call else "")
        if not self._structured:
            return text
        parts = {"client": client, "method": method, "path": path, "status": status, "ms": milliseconds}
        parts |= {"litellm_call_id": call} if call else {}
        return render_object(text, record.levelname, record.created, component=record.name, **parts)


def _open_logger(journal: Journal) -> logging.Logger:
    logger = logging.getLogger(NAME)
    handler = JournalHandler(journal)
    handler.setFormatter(AccessFormatter(journal.structured))
    logger.handlers[:] = [handler]
    logger.filters[:] = logging.getLogger(_FILTERED).filters
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
