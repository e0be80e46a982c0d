"""What a running service answers without a key when API_DOCS and LITELLM_CORS_ORIGINS are set, and what it logs."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.integration.runtime_service import DEADLINE, KEY, Service, processor_time, wait_for

WRONG = {"Authorization": "Bearer sk-wrong-9f8e7d6c5b4a3210"}
RIGHT = {"Authorization": f"Bearer {KEY}"}
ORIGIN = "https://chat.example.com"
#: Lines that `journalctl -p warning` and `-p err` show.
WARNING, ERROR = (re.compile(f"^<[0-{priority}]>.*", re.MULTILINE) for priority in (4, 3))
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"API_DOCS": "true", "LITELLM_CORS_ORIGINS": ORIGIN, "ACCESS_LOG": "true"}
    with Service(tmp_path_factory.mktemp("public"), **settings) as running:
        running.await_ready()
        yield running


def get(service: Service, path: str, **headers: str) -> HTTPResponse:
    """The response to a request, with its body unread."""
    connection = service.connect()
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


@pytest.fixture(scope="module")
def document(service: Service) -> Any:
    """LiteLLM's API document. It is complete a while after the start."""
    response = wait_for(
        "the document", lambda: found if (found := get(service, "/openapi.json")).status == 200 else None
    )
    assert response.headers["content-type"] == "application/json"
    return json.loads(response.read())


def test_documentation(service: Service, document: Any) -> None:
    """API_DOCS=true serves the document, Swagger UI with its files, ReDoc and the catalogues without a key."""
    assert document["paths"].keys() >= {CHAT, "/v1/messages", "/key/generate", "/v1/mcp/server"}
    for path in ("/", "/redoc", "/swagger/swagger-ui.css", "/public/providers"):
        response = get(service, path)
        response.read()
        assert response.status == 200, path
    assert get(service, "/ui/").status == 404


def test_document_costs_a_worker_nothing(service: Service, document: Any) -> None:
    """The workers do not build the API document: a request for it takes them a few milliseconds."""
    assert document

    def measure() -> float:
        before = processor_time(service.workers())
        for _ in range(20):
            assert get(service, "/openapi.json").read()
        return processor_time(service.workers()) - before

    # The least of three: a worker also has tasks of its own.
    assert min(measure() for _ in range(3)) < 0.5


def test_configured_origins(service: Service) -> None:
    """A web page of a configured origin can read each response and the refusal of a wrong key; no other page can."""
    for headers, status in ((WRONG, 401), (RIGHT, 200)):
        allowed = get(service, "/v1/models", Origin=ORIGIN, **headers)
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (status, ORIGIN)
        other = get(service, "/v1/models", Origin="https://example.net", **headers)
        assert (other.status, other.headers["access-control-allow-origin"]) == (status, None)


def test_nothing_without_a_key_is_logged_as_a_fault(service: Service, document: Any) -> None:
    """Whatever is sent without the right key to every route and method, nothing of it is a warning or a traceback."""
    routes = [
        (re.sub(r"\{[^}]*\}", "x", path), method.upper())
        for path, methods in document["paths"].items()
        for method in methods
    ]
    assert len(routes) > 900
    statuses = set()
    for (path, method), (headers, body) in itertools.product(routes, (({}, None), (WRONG, b"{\x00 no JSON"))):
        statuses.add(send(service, method, path, headers, body))
    assert statuses >= {200, 401}
    expect_quiet_log(service)


@pytest.mark.parametrize("headers", [{}, WRONG, RIGHT], ids=["no key", "wrong key", "right key"])
def test_disconnects_are_not_logged_as_a_fault(service: Service, headers: dict[str, str]) -> None:
    """A client that disconnects within a request or a handshake leaves no error, and without the key no warning."""
    before = count_requests(service)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{lines}"
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    for text in (
        f"{head}Content-Length: 1000\r\n\r\n" + '{"model": "demo"',
        f"{head}Transfer-Encoding: chunked\r\n\r\n" + '10\r\n{"model": "demo"',
        f"{head}Content-Length: 1000\r\n",
        f"GET /v1/realtime?model=demo HTTP/1.1\r\nHost: x\r\n{lines}{upgrade}Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n",
    ):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", service.port), DEADLINE) as connection:
                connection.sendall(text.encode())
    # The access log has all but those that end within the head.
    wait_for("the requests", lambda: count_requests(service) == before + 15)
    expect_quiet_log(service, ERROR if headers is RIGHT else WARNING)


def test_faults_with_the_right_key_are_logged(service: Service) -> None:
    """An error that a request with the right key meets is still in the journal."""
    body = {"model": "no such model", "messages": [{"role": "user", "content": "hi"}]}
    status = send(service, "POST", CHAT, {**RIGHT, "Content-Type": "application/json"}, json.dumps(body).encode())
    assert status == 400
    wait_for("the warning", lambda: "no such model" in "\n".join(WARNING.findall(service.log())))


def send(service: Service, method: str, path: str, headers: dict[str, str], body: bytes | None) -> int:
    """The status of a request on a connection that all calls share."""
    with contextlib.closing(service.connect()) as connection:
        connection.request(method, path, body, headers)
        return connection.getresponse().status


def count_requests(service: Service) -> int:
    return len(re.findall(f"^<6>(POST {CHAT}|GET /v1/realtime) ", service.log(), re.MULTILINE))


def expect_quiet_log(service: Service, pattern: re.Pattern[str] = WARNING) -> None:
    """Wait until all earlier requests have been logged, and expect no such line in the journal, and no traceback."""
    mark = f"/no/such/path/{len(service.log())}"
    get(service, mark).read()
    service.await_log(mark)
    log = service.log()
    assert not pattern.findall(log)
    assert "Traceback" not in log
