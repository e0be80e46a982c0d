"""The limit of the body of a request (MAX_REQUEST_SIZE)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any

from litellm_systemd.runtime.http.authentication import HAS_RIGHT_KEY
from litellm_systemd.runtime.http.errors import ApiError
from litellm_systemd.runtime.http.refuse import (
    Application,
    Reason,
    RefusalCounter,
    content_length,
    is_chunked,
    refuse,
)

_MIB = 1024 * 1024
#: Bytes of a request that needs no key and has none. LiteLLM keeps the whole body in memory.
_PUBLIC_LIMIT = _MIB


class RequestSizeLimit:
    """Passes requests to `application`, and answers 413 to those with more than `limit` bytes of body (0: no limit).

    If the client announces the length, the application never runs. Otherwise it is cancelled as soon as the body is
    too large, and what it has read is dropped with it.
    """

    def __init__(self, application: Application, limit: int, counter: RefusalCounter) -> None:
        self._application = application
        self._limit = limit
        self._counter = counter

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not self._limit:
            await self._application(scope, receive, send)
            return
        is_public = scope.get("state", {}).get(HAS_RIGHT_KEY) is False
        limit = min(self._limit, _PUBLIC_LIMIT) if is_public else self._limit
        if content_length(scope) > limit:
            # So that a client with a slightly larger body gets the response.
            await self._refuse(scope, receive, send, limit, 2 * self._limit)
        elif is_chunked(scope):
            await self._serve_chunked(scope, receive, send, limit)
        else:
            await self._application(scope, receive, send)

    async def _serve_chunked(self, scope: Any, receive: Any, send: Any, limit: int) -> None:
        body = _Body(receive, send, limit)
        try:
            await self._application(scope, body.receive, body.send)
        except asyncio.CancelledError:
            if not body.is_too_large:
                raise
        if body.is_too_large and not body.has_response:
            body.uncancel()
            await self._refuse(scope, body.receive_rest, send, limit, self._limit)

    async def _refuse(self, scope: Any, receive: Any, send: Any, limit: int, discarded: int) -> None:
        self._counter.add(scope["client"], Reason.BODY_SIZE)
        whose = "this gateway (MAX_REQUEST_SIZE)" if limit == self._limit else "requests without a key"
        message = f"The body of this request is larger than {limit // _MIB} MiB, the limit of {whose}."
        error = ApiError(413, message, "invalid_request_error", "request_too_large", "request_too_large")
        await refuse(scope, receive, send, error, body_limit=discarded, close=True)


class _Body:
    """Counts what the application receives, and cancels the task of the request when it is too much."""

    def __init__(self, receive: Any, send: Any, limit: int) -> None:
        self.is_too_large = False
        self._receive = receive
        self._send = send
        self._limit = limit
        self._size = 0
        self._has_more = True
        self.has_response = False
        self._task = asyncio.current_task()

    async def receive(self) -> Any:
        message = await self._receive()
        self._has_more = message.get("more_body", False)
        self._size += len(message.get("body", b""))
        if self._size > self._limit and not self.has_response and self._task is not None:
            # Not an exception: LiteLLM would answer 500 to it. And the application may have called this in a task of
            # its own.
            self.is_too_large = True
            self._task.cancel()
            await asyncio.Event().wait()
        return message

    async def receive_rest(self) -> Any:
        if not self._has_more:  # uvicorn would wait until the client disconnects
            return {"type": "http.request", "body": b"", "more_body": False}
        return await self._receive()

    def send(self, message: Any) -> Awaitable[None]:
        self.has_response = True
        passed: Awaitable[None] = self._send(message)
        return passed

    def uncancel(self) -> None:
        """Let the task of the request go on after the cancellation (asyncio.timeout, Python 3.11)."""
        if sys.version_info >= (3, 11) and self._task is not None:
            self._task.uncancel()
