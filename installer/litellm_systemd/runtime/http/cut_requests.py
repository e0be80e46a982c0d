"""The response to a request that is force-closed: an error, or an error event at the end of a stream.

Many clients take a server-sent event stream that just ends for a short answer. An error in the format of their API
makes them retry the request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

_MESSAGE = "The gateway ended this request because it is restarting. Please try again."
_EVENT_STREAM = b"text/event-stream"

Application = Callable[[Any, Any, Any], Awaitable[None]]


class CutRequests:
    """Passes requests to `application`, and completes the response of a request that is cancelled.

    Only `Server` cancels requests, at the end of the drain timeout. It waits briefly for these responses.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        response = _Response(send)
        try:
            await self._application(scope, receive, response.send)
        except asyncio.CancelledError:
            if not response.begun:
                await _send_error(send, scope["path"])
            elif response.is_event_stream:
                await send(_body(render_event(scope["path"])))
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


def render_error(path: str) -> dict[str, Any]:
    """The error in the format of the path's API: Anthropic's for /v1/messages, otherwise OpenAI's."""
    if path.endswith("/messages"):
        return {"type": "error", "error": {"type": "overloaded_error", "message": _MESSAGE}}
    return {"error": {"message": _MESSAGE, "type": "service_unavailable", "param": None, "code": "503"}}


def render_event(path: str) -> bytes:
    """The error as a server-sent event. Events of chat completions have no name, those of the other APIs do."""
    if path.endswith("/responses"):
        return _event("error", {"type": "error", "code": "server_error", "message": _MESSAGE, "param": None})
    return _event("error" if path.endswith("/messages") else "", render_error(path))


def _event(name: str, data: dict[str, Any]) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


async def _send_error(send: Any, path: str) -> None:
    body = json.dumps(render_error(path)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send(_body(body))


def _body(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": False}
