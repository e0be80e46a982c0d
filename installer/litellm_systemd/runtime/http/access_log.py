"""The access log: one line per request, written when the request ends. It is active only with ACCESS_LOG.

uvicorn writes its own access log at the first byte of a response, without the duration or the end of a stream. It
also logs the query string, in which LiteLLM accepts keys.
"""

from __future__ import annotations

import logging
import time
from typing import Any, cast

from litellm_systemd.runtime.http.health_checks import is_health_check
from litellm_systemd.runtime.http.refuse import Application
from litellm_systemd.runtime.http.response_count import IS_PLANNED, find_status, is_of_client
from litellm_systemd.runtime.journal import Journal, JournalHandler, render_object

NAME = "litellm_systemd.access"
#: LiteLLM's filters of this logger remove keys from paths and drop LITELLM_DISABLE_ACCESS_LOG_PATHS.
_FILTERED = "uvicorn.access"
#: The response header with LiteLLM's id of the request. LiteLLM's own log lines contain the id too.
_CALL_ID = b"x-litellm-call-id"


class AccessLog:
    """Passes requests to `application` and logs each of them.

    Without `with_health_checks` those are left out that succeed, or that an instance refuses because it is leaving:
    each node of a load balancer sends one every few seconds.
    """

    def __init__(self, application: Application, journal: Journal, *, with_health_checks: bool = True) -> None:
        self._application = application
        self._with_health_checks = with_health_checks
        self._logger = _open_logger(journal)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, and log it however it ends."""
        if not is_of_client(scope):
            await self._application(scope, receive, send)
            return
        request = _Request(scope, send, self._logger, is_left_out=not self._with_health_checks)
        try:
            await self._application(scope, receive, request.send)
        except Exception:
            request.status = request.status or 500  # uvicorn sends 500 then
            raise
        finally:
            request.end()


class _Request:
    """The state of one request, from its start until it is logged."""

    def __init__(self, scope: Any, send: Any, logger: logging.Logger, *, is_left_out: bool) -> None:
        self.status: int | None = None
        self._call_id: str | None = None
        self._scope = scope
        self._send = send
        self._logger = logger
        self._is_left_out = is_left_out and is_health_check(scope)
        self._ended = False
        self._started_at = time.monotonic()

    async def send(self, message: Any) -> None:
        if self.status is None:
            self.status, self._call_id = find_status(message), _call_id(message)
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.end()  # the application may continue to run after the response

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._is_left_out and (self.status == 200 or IS_PLANNED in self._scope.get("state", ())):
            return
        client = self._scope["client"]
        # The raw path, because a decoded one can contain a newline. So can a client address that a proxy sends.
        path = _printable(self._scope["raw_path"].decode("latin-1"))
        milliseconds = round((time.monotonic() - self._started_at) * 1000)
        # LiteLLM's filters expect the path as the third argument.
        arguments = (_printable(client[0]) if client else None, self._scope.get("method", "GET"), path)
        self._logger.info("%s %s %s %s %s ms %s", *arguments, self.status, milliseconds, self._call_id)


def _call_id(message: Any) -> str | None:
    """LiteLLM's id of the request, which the client may choose, or None."""
    headers = message.get("headers", ()) if message["type"] == "http.response.start" else ()
    found = next((value for name, value in headers if name.lower() == _CALL_ID), None)
    return None if found is None else _printable(found.decode("latin-1"))


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode()


class AccessFormatter(logging.Formatter):
    """Formats a request as text, or with JSON_LOGS as an object with one key per field."""

    def __init__(self, structured: bool) -> None:
        super().__init__()
        self._structured = structured

    def format(self, record: logging.LogRecord) -> str:
        client, method, path, status, milliseconds, call_id = cast("tuple[Any, ...]", record.args)
        # Without a status the client or a force-close ended the request before the response began.
        text = f"{method} {path} {status or '-'} {milliseconds} ms {client or '-'}" + (
            f" {call_id}" if call_id else ""
        )
        if not self._structured:
            return text
        fields = {"client": client, "method": method, "path": path, "status": status, "ms": milliseconds}
        fields |= {"litellm_call_id": call_id} if call_id else {}
        return render_object(text, record.levelname, record.created, component=record.name, **fields)


def _open_logger(journal: Journal) -> logging.Logger:
    logger = logging.getLogger(NAME)
    handler = JournalHandler(journal)
    handler.setFormatter(AccessFormatter(journal.structured))
    logger.handlers[:] = [handler]
    logger.filters[:] = logging.getLogger(_FILTERED).filters
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
