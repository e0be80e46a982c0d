"""The access log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from litellm_systemd.runtime.http.access_log import NAME, AccessLog
from litellm_systemd.runtime.journal import Journal

START = {"type": "http.response.start", "status": 200}
MORE = {"type": "http.response.body", "body": b"x", "more_body": True}
END = {"type": "http.response.body", "body": b""}


class Application:
    """Sends `messages`, and then fails with `error` if there is one."""

    def __init__(self, messages: Sequence[dict[str, Any]], error: BaseException | None = None) -> None:
        self.messages = messages
        self.error = error

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        for message in self.messages:
            await send(message)
        if self.error is not None:
            raise self.error


def scope_of(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "raw_path": b"/v1/chat",
        "query_string": b"key=sk-secret",
        "client": ("192.0.2.1", 5000),
        "server": ("192.0.2.2", 4000),
        **more,
    }


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    logger = logging.getLogger(NAME)
    logger.handlers.clear()
    logger.filters.clear()


def serve(application: Application, journal: Journal | None = None, **scope: Any) -> list[Any]:
    """One request; the messages that reached the client."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(AccessLog(application, journal or Journal())(scope_of(**scope), None, send))
    return sent


def words(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The one line, without how long it took."""
    (line,) = capsys.readouterr().err.splitlines()
    *before, milliseconds, unit, client = line.split(" ")
    assert (milliseconds.isdigit(), unit) == (True, "ms")
    return [*before, client]


def test_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A request is one line, without its query, and its answer passes unchanged."""
    assert serve(Application([START, MORE, END])) == [START, MORE, END]
    assert words(capsys) == ["POST", "/v1/chat", "200", "192.0.2.1"]


def test_object(capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON_LOGS its parts are keys of an object with the priority before it."""
    serve(Application([START, END]), Journal(prefixed=True, structured=True))
    event = json.loads(capsys.readouterr().err.removeprefix("<6>"))
    assert event["message"].startswith("POST /v1/chat 200 ")
    parts = {"client": "192.0.2.1", "method": "POST", "path": "/v1/chat", "status": 200, "level": "INFO"}
    assert parts.items() <= event.items()
    assert event["ms"] >= 0


def test_the_name_of_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the id that LiteLLM gives the answer, by which its other lines are found, made safe."""
    named = {**START, "headers": [(b"X-LiteLLM-Call-Id", b"6f1f\n4c4e")]}
    serve(Application([named, END]))
    assert capsys.readouterr().err.endswith(" ms 192.0.2.1 6f1f\\n4c4e\n")
    serve(Application([named, END]), Journal(structured=True))
    assert json.loads(capsys.readouterr().err)["litellm_call_id"] == "6f1f\\n4c4e"


def test_a_stream_is_logged_when_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """The line comes after the last part, and doesn't wait for work that the application does afterwards."""
    written: list[str] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        for message in (START, MORE, END):
            written.append(capsys.readouterr().err)
            await send(message)
        written.append(capsys.readouterr().err)

    async def send(message: Any) -> None:
        return None

    asyncio.run(AccessLog(stream, Journal())(scope_of(), None, send))
    assert [bool(each) for each in written] == [False, False, False, True]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("messages", "error", "status"),
    [
        ([], ValueError("bad"), "500"),
        ([START, MORE], ValueError("bad"), "200"),
        ([START, MORE], asyncio.CancelledError(), "200"),
        ([], asyncio.CancelledError(), "-"),
    ],
)
def test_every_end_is_logged(
    capsys: pytest.CaptureFixture[str], messages: list[dict[str, Any]], error: BaseException, status: str
) -> None:
    """A request that fails or is cut has its line, with the status that the client saw, if it saw one."""
    with pytest.raises(type(error)):
        serve(Application(messages, error))
    assert words(capsys)[2] == status


@pytest.mark.parametrize(("kind", "status"), [("websocket.accept", "101"), ("websocket.close", "403")])
def test_websocket(capsys: pytest.CaptureFixture[str], kind: str, status: str) -> None:
    """A WebSocket is one request, as long as it is open."""
    serve(Application([{"type": kind}, {"type": "websocket.close"}]), type="websocket")
    assert words(capsys)[2] == status


@pytest.mark.parametrize("more", [{"type": "lifespan"}, {"client": None, "server": ("", None)}])
def test_no_request_of_a_client(capsys: pytest.CaptureFixture[str], more: dict[str, Any]) -> None:
    """The worker's own probe and the application's start are not logged."""
    assert serve(Application([START, END]), **more) == [START, END]
    assert capsys.readouterr().err == ""


def test_no_line_can_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a client puts into a path or a proxy says of it, the line stays one, in plain characters."""
    serve(Application([START, END]), raw_path=b"/a%0a<3>b\x1b\xff", client=("1\n2\x85", 0))
    assert words(capsys) == ["POST", "/a%0a<3>b\\x1b\\xff", "200", "1\\n2\\x85"]


def test_unix_socket(capsys: pytest.CaptureFixture[str]) -> None:
    """A client at a UNIX socket has no address, and its line."""
    serve(Application([START, END]), client=None, server=("/run/x.sock", None))
    assert words(capsys)[3] == "-"


def test_filters_of_litellm(capsys: pytest.CaptureFixture[str]) -> None:
    """LiteLLM's filters of uvicorn's access log see the path where they look for it."""
    seen: list[Any] = []

    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            seen.append(record.args)
            return False

    uvicorn, own = logging.getLogger("uvicorn.access"), Filter()
    uvicorn.addFilter(own)
    try:
        serve(Application([START, END]))
    finally:
        uvicorn.removeFilter(own)
    assert seen[0][:3] == ("192.0.2.1", "POST", "/v1/chat")
    assert capsys.readouterr().err == ""
