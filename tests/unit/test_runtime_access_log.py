"""The access log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from litellm_systemd.runtime.http.access_log import NAME, AccessLog
from litellm_systemd.runtime.http.response_count import IS_PLANNED
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


def serve(
    application: Application, journal: Journal | None = None, *, health_checks: bool = True, **scope: Any
) -> list[Any]:
    """Serve one request. Returns the messages that the client got."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    log = AccessLog(application, journal or Journal(), with_health_checks=health_checks)
    asyncio.run(log(scope_of(**scope), None, send))
    return sent


def fields(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The fields of the one log line, without the duration."""
    (line,) = capsys.readouterr().err.splitlines()
    *before, milliseconds, unit, client = line.split(" ")
    assert (milliseconds.isdigit(), unit) == (True, "ms")
    return [*before, client]


def test_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A request is logged in one line without its query string, and its response is unchanged."""
    assert serve(Application([START, MORE, END])) == [START, MORE, END]
    assert fields(capsys) == ["POST", "/v1/chat", "200", "192.0.2.1"]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON_LOGS the fields are keys of an object, after the priority."""
    serve(Application([START, END]), Journal(prefixed=True, structured=True))
    event = json.loads(capsys.readouterr().err.removeprefix("<6>"))
    assert event["message"].startswith("POST /v1/chat 200 ")
    expected = {"client": "192.0.2.1", "method": "POST", "path": "/v1/chat", "status": 200, "level": "INFO"}
    assert expected.items() <= event.items()
    assert event["ms"] >= 0


def test_call_id(capsys: pytest.CaptureFixture[str]) -> None:
    """The line contains LiteLLM's id of the request, escaped, so that its other log lines can be found."""
    with_id = {**START, "headers": [(b"X-LiteLLM-Call-Id", b"6f1f\n4c4e")]}
    serve(Application([with_id, END]))
    assert capsys.readouterr().err.endswith(" ms 192.0.2.1 6f1f\\n4c4e\n")
    serve(Application([with_id, END]), Journal(structured=True))
    assert json.loads(capsys.readouterr().err)["litellm_call_id"] == "6f1f\\n4c4e"


def test_stream_is_logged_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A stream is logged after its last part, before the application finishes its background work."""
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
def test_incomplete_requests_are_logged(
    capsys: pytest.CaptureFixture[str], messages: list[dict[str, Any]], error: BaseException, status: str
) -> None:
    """A request that fails or is cut is logged with the status that the client got, if any."""
    with pytest.raises(type(error)):
        serve(Application(messages, error))
    assert fields(capsys)[2] == status


@pytest.mark.parametrize(("kind", "status"), [("websocket.accept", "101"), ("websocket.close", "403")])
def test_websocket(capsys: pytest.CaptureFixture[str], kind: str, status: str) -> None:
    """A WebSocket is logged as one request, when it closes."""
    serve(Application([{"type": kind}, {"type": "websocket.close"}]), type="websocket")
    assert fields(capsys)[2] == status


@pytest.mark.parametrize("more", [{"type": "lifespan"}, {"client": None, "server": ("", None)}])
def test_internal_requests_are_not_logged(capsys: pytest.CaptureFixture[str], more: dict[str, Any]) -> None:
    """The health check of the worker and the lifespan of the application are not logged."""
    assert serve(Application([START, END]), **more) == [START, END]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "status", "state", "is_logged"),
    [
        ("/health/readiness", 200, (), False),
        ("/health/readiness", 503, (), True),
        ("/health/readiness", 503, {IS_PLANNED: True}, False),
        ("/v1/chat", 200, (), True),
    ],
)
def test_health_checks_of_load_balancers(
    capsys: pytest.CaptureFixture[str], path: str, status: int, state: Any, is_logged: bool
) -> None:
    """Behind a load balancer a health check is logged only if it fails, and not because the instance is leaving."""
    place: dict[str, Any] = {"path": path, "raw_path": path.encode(), "state": state}
    serve(Application([{**START, "status": status}, END]), health_checks=False, **place)
    assert bool(capsys.readouterr().err) == is_logged
    serve(Application([START, END]), **place)
    assert path in capsys.readouterr().err


def test_lines_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in a path or a client address are escaped, so that a client cannot add log lines."""
    serve(Application([START, END]), raw_path=b"/a%0a<3>b\x1b\xff", client=("1\n2\x85", 0))
    assert fields(capsys) == ["POST", "/a%0a<3>b\\x1b\\xff", "200", "1\\n2\\x85"]


def test_unix_socket(capsys: pytest.CaptureFixture[str]) -> None:
    """A request at a UNIX socket is logged without a client address."""
    serve(Application([START, END]), client=None, server=("/run/x.sock", None))
    assert fields(capsys)[3] == "-"


def test_filters_of_litellm(capsys: pytest.CaptureFixture[str]) -> None:
    """LiteLLM's filters for uvicorn's access log apply to this access log."""
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
