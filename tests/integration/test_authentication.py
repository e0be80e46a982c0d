"""A wrong or missing key, as the clients of a running service see it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from litellm_systemd.contract import REFUSAL_HEADER, REFUSED_KEY, build_refusal_code
from tests.integration.runtime_service import DEADLINE, KEY, Service, processor_time, wait_for

WRONG = "sk-wrong-9f8e7d6c5b4a3210"
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
TURN: Any = [{"role": "user", "content": "hello"}]
#: The largest body that the service is meant for: images of a coding agent.
LARGE = 32 * 2**20
NOTICE = re.compile(r"<5>refused .*", re.MULTILINE)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("gate")) as running:
        running.await_ready()
        yield running


def url(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}"


def openai_client(service: Service, key: str = WRONG) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{url(service)}/v1", max_retries=0, timeout=DEADLINE)


def anthropic_client(service: Service, key: str = WRONG) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=key, base_url=url(service), max_retries=0, timeout=DEADLINE)


OPENAI_CALLS: dict[str, Callable[[openai.OpenAI], Any]] = {
    "models": lambda client: client.models.list(),
    "chat": lambda client: client.chat.completions.create(model="demo", messages=TURN),
    "chat, streamed": lambda client: client.chat.completions.create(model="demo", messages=TURN, stream=True),
    "responses": lambda client: client.responses.create(model="demo", input="hello"),
    "responses, streamed": lambda client: client.responses.create(model="demo", input="hello", stream=True),
    "embeddings": lambda client: client.embeddings.create(model="demo", input="hello"),
    "large": lambda client: client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "x" * LARGE}]
    ),
}
ANTHROPIC_CALLS: dict[str, Callable[[anthropic.Anthropic], Any]] = {
    "models": lambda client: client.models.list(),
    "messages": lambda client: client.messages.create(model="demo", messages=TURN, max_tokens=9),
    "messages, streamed": lambda client: client.messages.create(
        model="demo", messages=TURN, max_tokens=9, stream=True
    ),
    "count_tokens": lambda client: client.messages.count_tokens(model="demo", messages=TURN),
    "large": lambda client: client.messages.create(
        model="demo", messages=[{"role": "user", "content": "x" * LARGE}], max_tokens=9
    ),
}


@pytest.mark.parametrize("name", OPENAI_CALLS)
def test_openai_client(service: Service, name: str) -> None:
    """OpenAI's client raises AuthenticationError with OpenAI's code for a wrong key."""
    with pytest.raises(openai.AuthenticationError) as caught:
        OPENAI_CALLS[name](openai_client(service))
    assert caught.value.code == "invalid_api_key"
    assert caught.value.type == "invalid_request_error"
    assert "Incorrect API key" in str(caught.value)
    assert WRONG not in str(caught.value)


@pytest.mark.parametrize("name", ANTHROPIC_CALLS)
def test_anthropic_client(service: Service, name: str) -> None:
    """Anthropic's client raises AuthenticationError with an error in Anthropic's format for a wrong key."""
    with pytest.raises(anthropic.AuthenticationError) as caught:
        ANTHROPIC_CALLS[name](anthropic_client(service))
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "authentication_error"
    assert "Incorrect API key" in body["error"]["message"]
    assert WRONG not in str(caught.value)


def test_right_key(service: Service) -> None:
    """With the right key the same clients get their answers."""
    answer = openai_client(service, KEY).chat.completions.create(model="demo", messages=TURN)
    assert answer.choices[0].message.content == "hello"
    message = anthropic_client(service, KEY).messages.create(model="demo", messages=TURN, max_tokens=9)
    assert message.content[0].text == "hello"  # type: ignore[union-attr]


@pytest.mark.parametrize(("path", "kind"), [(CHAT, "invalid_request_error"), (MESSAGES, "authentication_error")])
def test_missing_key(service: Service, path: str, kind: str) -> None:
    """A request without a key gets 401 with the headers that take one, in the format of the API."""
    connection = service.connect()
    connection.request("POST", path, json.dumps({"model": "demo", "messages": TURN}))
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    assert (response.status, error["type"]) == (401, kind)
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-should-retry"] == "false"
    assert "Authorization: Bearer" in error["message"]
    assert "x-api-key" in error["message"]


def test_public_routes(service: Service) -> None:
    """Health checks and `/` answer without a key. `/` says what this is."""
    for path in ("/health/liveliness", "/health/liveness", "/health/readiness", "/"):
        connection = service.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200
    assert "gateway" in text


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {KEY}"}], ids=["no key", "right key"])
@pytest.mark.parametrize(
    "path", ["/openapi.json", "/docs", "/redoc", "/swagger/swagger-ui.css", "/public/model_hub", "/ui/", "/login"]
)
def test_pages_that_are_off(service: Service, path: str, headers: dict[str, str]) -> None:
    """The documentation, the catalogues and the Admin UI are off. The 404 says what turns them on."""
    connection = service.connect()
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    assert (response.status, error["code"]) == (404, "not_found")
    assert ("database" if path in ("/ui/", "/login") else "API_DOCS=true") in error["message"]


def test_requests_without_a_key_are_cheap(service: Service) -> None:
    """A hundred requests without a key take the workers less than half a second of processor time."""

    def measure() -> float:
        before = processor_time(service.workers())
        for path in ("/openapi.json", "/", "/redoc", "/ui/", "/v1/agents") * 20:
            connection = service.connect()
            connection.request("GET", path)
            connection.getresponse().read()
            connection.close()
        return processor_time(service.workers()) - before

    # The least of three: a worker also has tasks of its own.
    assert min(measure() for _ in range(3)) < 0.5


def test_refusal_does_not_wait_for_the_body(service: Service) -> None:
    """The 401 arrives before the client has sent its body."""
    with raw(service, f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGE}\r\n\r\n") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_connection_stays_usable(service: Service) -> None:
    """After a refused request with a body, the same connection serves the next request."""
    connection = service.connect()
    for key, status in ((WRONG, 401), (KEY, 200), (WRONG, 401), (KEY, 200)):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        text = {"model": "demo", "messages": [{"role": "user", "content": "x" * 300_000}]}
        connection.request("POST", CHAT, json.dumps(text), headers)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert response.headers["connection"] is None


def test_pipelined_requests(service: Service) -> None:
    """Requests that follow a refused one without waiting are answered in their order."""
    body = "x" * 100_000
    refused = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    last = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    with raw(service, refused + refused + last) as connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"401", b"401", b"200"]


@pytest.mark.parametrize("close", ["Connection: close", "Connection: keep-alive"])
@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_large_body(service: Service, close: str, framing: str) -> None:
    """A client that sends all of a large body before it reads gets the 401 and no reset."""
    length = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {LARGE}"
    with raw(service, f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{close}\r\n{length}\r\n\r\n") as connection:
        piece = b"x" * 2**20
        for _ in range(LARGE // len(piece)):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        if framing == "chunked":
            connection.sendall(b"0\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, json.loads(response.read())["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("more", [(), ("-H", "Expect:"), ("--http1.0",), ("-H", "Transfer-Encoding: chunked")])
def test_curl(service: Service, tmp_path: Path, more: tuple[str, ...]) -> None:
    """curl gets the 401 for a large file. If it waits for `100 Continue`, it sends nothing of the file."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "body").write_bytes(b"x" * LARGE)
    report = "%{http_code} %{size_upload} %{errormsg}"
    argv = ("curl", "-sS", "-o", str(tmp_path / "answer"), "-w", report, "-H", f"x-api-key: {WRONG}", *more)
    done = subprocess.run(
        (*argv, "--data-binary", f"@{tmp_path / 'body'}", url(service) + MESSAGES),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    status, sent, *error = done.stdout.split()
    assert (done.returncode, status, error) == (0, "401", []), done.stderr
    assert json.loads((tmp_path / "answer").read_text())["error"]["type"] == "authentication_error"
    if not more:
        assert sent == "0"


def test_browser(service: Service) -> None:
    """No web page of another origin can read a response, unless LITELLM_CORS_ORIGINS names its origin."""
    connection = service.connect()
    origin = {"Origin": "https://example.com"}
    for key in (KEY, WRONG):
        connection.request("GET", "/v1/models", headers={**origin, "Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        response.read()
        assert not [name for name in response.headers if name.startswith("access-control-allow")]
    connection.request("OPTIONS", CHAT, headers={**origin, "Access-Control-Request-Method": "POST"})
    response = connection.getresponse()
    assert response.status == 400
    assert response.headers["access-control-allow-origin"] is None


def test_websocket(service: Service) -> None:
    """The handshake of a WebSocket with a wrong key gets 401 with the error."""
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {'A' * 22}==",
    )
    head = ("GET /v1/realtime?model=demo HTTP/1.1", "Host: x", f"api-key: {WRONG}", *upgrade)
    with raw(service, "\r\n".join((*head, "", ""))) as connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 401")
    assert b"invalid_api_key" in received


def test_one_line_for_a_burst(tmp_path: Path) -> None:
    """A burst of wrong keys at all workers is one notice with the addresses and their numbers, without a key.

    A stop logs the refusals that are not logged yet. Those of `verify`, which prove that it knows the right key, are
    not counted; a copy of that proof hides no other key.
    """
    with Service(tmp_path) as service:
        service.await_ready()
        for number in range(20):
            address = {"X-Forwarded-For": "192.0.2.7"} if number < 5 else {}
            key = {"Authorization": f"Bearer {WRONG}"} if number < 15 else {}
            refuse_models(service, {**key, **address})
        wait_for("the notice", lambda: NOTICE.search(service.log()))
        own, forged = ({REFUSAL_HEADER: build_refusal_code(key)} for key in (KEY, WRONG))
        for headers in (
            {},
            {**forged, "Authorization": f"Bearer {REFUSED_KEY}"},
            {**own, "Authorization": f"Bearer {WRONG}"},
            {**own, "x-api-key": WRONG},
            {**own, "Authorization": f"Bearer {REFUSED_KEY}"},
            own,
        ):
            refuse_models(service, headers)
        assert service.stop() == 0
        log = service.log()
    assert NOTICE.findall(log) == [
        "<5>refused 15 requests with a wrong key and 5 requests without a key, from 127.0.0.1 (15), 192.0.2.7 (5)",
        "<5>refused 3 requests with a wrong key and 1 request without a key, from 127.0.0.1 (4)",
    ]
    assert WRONG not in log
    assert "Traceback" not in log
    assert not re.search("^<[0-4]>", log, re.MULTILINE), log


def refuse_models(service: Service, headers: dict[str, str]) -> None:
    """Ask for the models on a connection of its own, and check that the answer is 401."""
    connection = service.connect()
    connection.request("GET", "/v1/models", headers=headers)
    assert connection.getresponse().status == 401
    connection.close()


def test_guesses_are_delayed(service: Service) -> None:
    """A client that guesses keys waits for each refusal, while a request with the right key from the same address is
    answered at once. The journal and the status name the address.
    """
    address = {"X-Forwarded-For": "198.51.100.9"}
    guessing = service.connect()  # one connection, so one worker

    def guess(number: int) -> None:
        guessing.request("GET", "/v1/models", headers={**address, "x-api-key": f"sk-guess-{number}"})

    for number in range(12):
        start = time.monotonic()
        guess(number)
        response = guessing.getresponse()
        response.read()
        assert response.status == 401
    assert time.monotonic() - start >= 1
    guess_at = time.monotonic()
    guess(12)
    team = service.connect()
    for _ in range(3):
        team.request("GET", "/v1/models", headers={**address, "x-api-key": KEY})
        response = team.getresponse()
        response.read()
        assert response.status == 200
    took = time.monotonic() - guess_at
    assert took >= 2 or not select.select([guessing.sock], [], [], 0)[0], f"refused after {took} s"
    assert guessing.getresponse().status == 401
    warning = service.await_log("guessed keys after 10 wrong ones, from 198.51.100.9 (")
    assert warning.startswith("<4>refused 3 ")
    assert "sk-guess" not in service.log()
    [known] = service.query("status")["guesses"]
    assert (known["client"], known["refused"]) == ("198.51.100.9", 3)


@contextlib.contextmanager
def raw(service: Service, text: str) -> Iterator[socket.socket]:
    """A connection on which the text has been sent."""
    with socket.create_connection(("127.0.0.1", service.port), DEADLINE) as connection:
        connection.sendall(text.encode())
        yield connection
