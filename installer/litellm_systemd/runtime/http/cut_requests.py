"""A last word to clients whose requests are cut: an answer, or an error event in their stream.

A server-sent event stream that just ends looks like a short answer to many clients. With the error that their own API
has for it they know that it was cut, and try again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

_WORDS = "The gateway had to end this request because it is restarting. Please try again."
_EVENT_STREAM = b"text/event-stream"

Application = Callable[[Any, Any, Any], Awaitable[None]]


class CutRequests:
    """Passes requests to `application`; one whose task is cancelled is answered here, as far as it still can be.

    Only the server cancels requests, when their time is up. It goes on to wait for these answers, but not for long.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        answer = _Response(send)
        try:
            await self._application(scope, receive, answer.send)
        except asyncio.CancelledError:
            if not answer.begun:
                await _refuse(send, scope["path"])
            elif answer.is_event_stream:
                await send(_body(render_event(scope["path"])))
            else:
                raise  # the connection is closed, before the length that was promised


class _Response:
    """How far an answer is."""

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
    """The error as the API of that path has it: Anthropic's for /v1/messages, else OpenAI's."""
    if path.endswith("/messages"):
        return {"type": "error", "error": {"type": "overloaded_error", "message": _WORDS}}
    return {"error": {"message": _WORDS, "type": "service_unavailable", "param": None, "code": "503"}}


def render_event(path: str) -> bytes:
    """The error as a server-sent event. Only chat completions have events without a name."""
    if path.endswith("/responses"):
        return _event("error", {"type": "error", "code": "server_error", "message": _WORDS, "param": None})
    return _event("error" if path.endswith("/messages") else "", render_error(path))


def _event(name: str, data: dict[str, Any]) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


async def _refuse(send: Any, path: str) -> None:
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
