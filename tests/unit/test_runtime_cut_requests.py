"""The response that a client gets when its request is cut."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from litellm_systemd.runtime.http.cut_requests import CutRequests

STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/event-stream; x=y")]}
DOCUMENT = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
PART = {"type": "http.response.body", "body": b"x", "more_body": True}


def cut(path: str, *messages: dict[str, Any]) -> tuple[list[Any], bool]:
    """Cancel a request after `messages`. Returns what the client got, and whether the cancellation propagated."""
    sent: list[Any] = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    async def scenario() -> bool:
        scope = {"type": "http", "path": path}
        task = asyncio.create_task(CutRequests(application)(scope, None, send))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=10)
        return task.cancelled()

    return sent, asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [("/v1/chat/completions", None, None), ("/v1/messages", "error", "error"), ("/v1/responses", "error", "error")],
)
def test_cut_stream_ends_with_an_error(path: str, name: str | None, kind: str | None) -> None:
    """A stream that is cut ends with an error event in the format of its API, and then completely."""
    sent, cancelled = cut(path, STREAM, PART)
    assert not cancelled
    assert sent[-1]["more_body"] is False
    head, _, data = sent[-1]["body"].decode().rpartition("data: ")
    event = json.loads(data)
    assert head == (f"event: {name}\n" if name else "")
    assert event.get("type") == kind
    assert "try again" in (event.get("error") or event)["message"]
    assert data.endswith("\n\n")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_request_without_response(path: str) -> None:
    """A request that is cut before its response began gets 503 and the reason."""
    sent, cancelled = cut(path)
    assert not cancelled
    assert [message.get("status") for message in sent] == [503, None]
    assert "try again" in json.loads(sent[1]["body"])["error"]["message"]
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(sent[1]["body"])).encode()


def test_partial_document() -> None:
    """Any other response that has begun stays incomplete, so that the client detects the error."""
    assert cut("/v1/files", DOCUMENT, PART) == ([DOCUMENT, PART], True)


def test_lifespan_passes() -> None:
    """Events that are no requests pass unchanged."""
    seen: list[Any] = []

    async def application(*arguments: Any) -> None:
        seen.extend(arguments)

    asyncio.run(CutRequests(application)({"type": "lifespan"}, 1, 2))
    assert seen == [{"type": "lifespan"}, 1, 2]
