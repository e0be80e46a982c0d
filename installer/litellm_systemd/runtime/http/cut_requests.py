"""The response to a request that is force-closed: an error, or an error event at the end of a stream.

Many clients take a server-sent event stream that just ends for a short answer. An error in the format of their API
makes them retry the request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

from litellm_systemd.runtime.http.errors import ApiError, build_response, is_anthropic, render_error
from litellm_systemd.runtime.http.refuse import Application

_MESSAGE = "The gateway ended this request because it is restarting. Please try again."
_ERROR = ApiError(503, _MESSAGE, "service_unavailable", "503", "overloaded_error")
_EVENT_STREAM = b"text/event-stream"


class CutRequests:
    """Passes requests to `application`, and completes the response of a request that is cancelled.

    Only `Server` cancels requests, at the end of the drain timeout. It waits briefly for these responses.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        response = _Response(send)
        try:
            await self._application(scope, receive, response.send)
        except asyncio.CancelledError:
            if not response.begun:
                start, body = build_response(scope, _ERROR, (b"retry-after", b"1"))
                await send(start)
                await send(_body(body))
            elif response.is_event_stream:
                await send(_body(render_event(scope)))
            else:
                raise  # the connection closes before the announced length, so that the client detects the error


class _Response:
    """Whether a response has begun, and whether it is an event stream."""

    def __init__(self, send: Any) -> None:
        self.begun = False
        self.is_event_stream = False
        self._send = send

    def send(self, message: Any) -> Awaitable[None]:
        if not self.begun:
            self.begun = True
            content_types = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            self.is_event_stream = any(value.startswith(_EVENT_STREAM) for value in content_types)
        passed: Awaitable[None] = self._send(message)
        return passed


def render_event(scope: Any) -> bytes:
    """The error as a server-sent event. Events of chat completions have no name, those of the other APIs do."""
    if scope["path"].endswith("/responses"):
        return _event("error", {"type": "error", "code": "server_error", "message": _MESSAGE, "param": None})
    return _event("error" if is_anthropic(scope) else "", render_error(scope, _ERROR))


def _event(name: str, data: dict[str, Any]) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def _body(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": False}
