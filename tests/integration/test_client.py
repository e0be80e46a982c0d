"""The client against a stub on loopback: what it sends, and how it reports failures."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.client.gateway import FailureKind, Gateway, GatewayError, ServerSentEvent
from tests.integration.stub_gateway import KEY, USAGE, Handler, Stub, delta, stub
from tests.ports import free_port

PROXY_VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
CHAT = "/v1/chat/completions"
QUESTION = {"model": "primary", "stream": True}


@pytest.fixture(autouse=True)
def _no_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXY_VARIABLES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def request_error(gateway: Gateway) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        gateway.get("/v1/models")
    assert KEY not in caught.value.message + caught.value.hint
    return caught.value


def test_an_error_status_is_a_response(server: Stub) -> None:
    """Status 401 is a response with its text, not an exception."""
    answer = Gateway(server.url, "sk-other").get("/v1/models")
    assert (answer.status, answer.ok) == (401, False)
    assert answer.json() == {"error": {"message": "no valid key"}}
    assert answer.headers["content-type"] == "application/json"


def test_the_key_is_sent_as_bearer(server: Stub) -> None:
    """The key is sent in the header that LiteLLM reads; an empty key is not sent."""
    gateway = Gateway(server.url, KEY)
    gateway.get("/v1/models")
    gateway.with_refused_key("").get("/v1/models")
    assert [authorization for _, _, authorization in server.seen] == [f"Bearer {KEY}", None]


def test_netrc_is_ignored(server: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password in ~/.netrc for the same host is never sent, neither instead of the key nor without one."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    test_the_key_is_sent_as_bearer(server)


def test_proxies_of_the_environment_are_not_used_for_loopback(server: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to this machine bypass a corporate proxy."""
    with stub() as proxy:
        for name in PROXY_VARIABLES:
            monkeypatch.setenv(name, proxy.url)
        assert Gateway(server.url, KEY).get("/v1/models").ok
        assert Gateway(server.url, KEY).stream(CHAT, QUESTION).done
        assert Gateway(server.url.replace("127.0.0.1", "localhost"), KEY).get("/v1/models").ok
        assert proxy.seen == []
        assert len(server.seen) == 3


def test_proxies_of_the_environment_are_used_for_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to other hosts use the proxy of the environment."""
    with stub() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        proxy.faults["*"] = lambda handler: handler.reply(200, {"from": "proxy"})
        assert Gateway("http://gateway.invalid", KEY).get("/v1/models").json() == {"from": "proxy"}
        assert proxy.seen[0][1] == "http://gateway.invalid/v1/models"


def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is down is not reported as a gateway that is down."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert request_error(Gateway("http://gateway.invalid", KEY)).kind is FailureKind.PROXY


def test_a_redirect_is_not_followed(server: Stub) -> None:
    """Neither the key nor the request is sent to the target of a redirect."""
    with stub() as other:
        server.faults["*"] = lambda handler: handler.reply(307, "", location=f"{other.url}/v1/models")
        gateway = Gateway(server.url, KEY)
        assert gateway.get("/v1/models").status == 307
        assert gateway.post(CHAT, QUESTION).status == 307
        assert gateway.stream(CHAT, QUESTION).head.status == 307
        assert other.seen == []


def test_refused() -> None:
    """A port without a listener is reported as such, with the commands that show why."""
    port = free_port()
    error = request_error(Gateway(f"http://127.0.0.1:{port}", KEY))
    assert error.kind is FailureKind.REFUSED
    assert error.message == f"nothing listens on 127.0.0.1:{port} (connection refused)"
    assert "systemctl status litellm" in error.hint


def test_unknown_host() -> None:
    """A host name that does not exist is reported as unreachable."""
    assert request_error(Gateway("http://gateway.invalid", KEY)).kind is FailureKind.UNREACHABLE


def test_a_malformed_host_name() -> None:
    """A malformed host name is an error with a remedy, not a traceback."""
    assert request_error(Gateway(f"http://{'a' * 64}.invalid", KEY)).kind is FailureKind.UNREACHABLE


def be_silent(handler: Handler) -> None:
    handler.server.released.wait()


def test_silence(server: Stub) -> None:
    """A server that accepts connections without responding is abandoned at the timeout."""
    server.faults["*"] = be_silent
    error = request_error(Gateway(server.url, KEY, timeout=0.2))
    assert error.kind is FailureKind.TIMEOUT
    assert "within 0.2 s" in error.message
    assert "--timeout" in error.hint


def test_a_trickle(server: Stub) -> None:
    """A server that keeps sending single bytes cannot delay the client forever."""

    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "100000")
        handler.end_headers()
        while not handler.server.released.wait(0.05):
            handler.wfile.write(b" ")

    server.faults["*"] = trickle
    assert request_error(Gateway(server.url, KEY, timeout=0.3)).kind is FailureKind.TIMEOUT


def drip_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b"a")


def repeat_interim_responses(handler: Handler) -> None:
    while not handler.server.released.wait(0.001):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def drip_size_of_chunk(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b"0")


def send_endless_trailers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
    while not handler.server.released.wait(0.001):
        handler.wfile.write(b"x-more: 1\r\n")


def drip_body_without_length(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b" ")


@pytest.mark.parametrize(
    "attack",
    [drip_head, repeat_interim_responses, drip_size_of_chunk, send_endless_trailers, drip_body_without_length],
)
def test_no_part_of_a_response_lasts_forever(server: Stub, attack: Callable[[Handler], None]) -> None:
    """A response that never ends is abandoned at the timeout, in whichever part the server is slow."""
    server.faults["*"] = attack
    began = time.monotonic()
    assert request_error(Gateway(server.url, KEY, timeout=0.3)).kind is FailureKind.TIMEOUT
    assert time.monotonic() - began < 20


def test_a_connection_after_the_timeout(server: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is established only after the timeout, as to the second address of a host, ends at once."""

    def drip_for_a_while(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
        for _ in range(1200):
            if not handler.server.released.wait(0.05):
                handler.wfile.write(b"a")

    def resolve_slowly(*arguments: Any) -> Any:
        time.sleep(0.4)
        return resolve(*arguments)

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
    server.faults["*"] = drip_for_a_while
    began = time.monotonic()
    assert request_error(Gateway(server.url, KEY, timeout=0.2)).kind is FailureKind.TIMEOUT
    assert time.monotonic() - began < 20


def test_an_endless_response(server: Stub) -> None:
    """A server that sends data without end cannot fill the memory."""

    def pour(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        while not handler.server.released.is_set():
            handler.wfile.write(b"x" * 65536)

    server.faults["*"] = pour
    assert request_error(Gateway(server.url, KEY)).kind is FailureKind.GARBLED


@pytest.mark.parametrize("headers", ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"])
def test_dropped(headers: str) -> None:
    """A connection that closes before the response is complete is reported as dropped, with or without headers."""
    with raw_server(headers.encode()) as port:
        assert request_error(Gateway(f"http://127.0.0.1:{port}", KEY)).kind is FailureKind.DROPPED


def test_something_else_on_the_port() -> None:
    """A program that does not speak HTTP is not reported as a crashed gateway."""
    with raw_server(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        error = request_error(Gateway(f"http://127.0.0.1:{port}", KEY))
    assert error.kind is FailureKind.GARBLED
    assert "ss -ltnp" in error.hint


def test_https_to_a_plain_port(server: Stub) -> None:
    """A request with https:// to a gateway without TLS is reported as such."""
    error = request_error(Gateway(server.url.replace("http:", "https:"), KEY))
    assert error.kind is FailureKind.TLS
    assert error.message.endswith("it speaks plain HTTP")


def test_a_stream_is_read_to_done(server: Stub) -> None:
    """A stream returns its events in order, each with the time of its arrival, and ends at [DONE]."""
    found = Gateway(server.url, KEY).stream(CHAT, QUESTION)
    assert [event.data for event in found.events] == [delta("po"), delta("ng"), USAGE, "[DONE]"]
    times = [event.seconds for event in found.events]
    assert times == sorted(times)
    assert 0 < times[0] <= found.head.seconds
    assert found.done
    assert found.broken is None


@pytest.mark.parametrize("chunked", [True, False])
def test_an_event_is_taken_when_it_arrives(server: Stub, monkeypatch: pytest.MonkeyPatch, chunked: bool) -> None:
    """The first token is timed at its own arrival, not at that of the next token or the end."""
    taken, in_time = threading.Event(), []

    def take(seconds: float, data: str) -> ServerSentEvent:
        taken.set()
        return ServerSentEvent(seconds, data)

    def wait_between(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header(*(("transfer-encoding", "chunked") if chunked else ("connection", "close")))
        handler.end_headers()
        for data in (b"data: one\n\n", b"data: [DONE]\n\n"):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            in_time.append(taken.wait(60))

    monkeypatch.setattr("litellm_systemd.client.gateway.ServerSentEvent", take)
    server.faults[f"streamed {CHAT}"] = wait_between
    assert Gateway(server.url, KEY).stream(CHAT, QUESTION).done
    assert in_time[0], "the second event had to be sent for the first to be taken"


def test_a_stream_without_done(server: Stub) -> None:
    """A stream that ends without [DONE] is neither done nor broken."""
    server.faults[f"streamed {CHAT}"] = lambda handler: handler.stream(delta("po"))
    found = Gateway(server.url, KEY).stream(CHAT, QUESTION)
    assert (len(found.events), found.done, found.broken) == (1, False, None)


def test_a_stream_that_is_cut(server: Stub) -> None:
    """Events before an interruption are kept, with its reason."""
    server.faults[f"streamed {CHAT}"] = lambda handler: handler.stream(delta("po"), cut=True)
    found = Gateway(server.url, KEY).stream(CHAT, QUESTION)
    assert len(found.events) == 1
    assert found.broken is not None
    assert found.broken.kind is FailureKind.DROPPED


def test_a_stream_that_stalls(server: Stub) -> None:
    """A stream that stalls is abandoned at the timeout, and its events so far are kept."""

    def stall(handler: Handler) -> None:
        handler.stream(delta("po"), cut=True)
        handler.wfile.flush()
        handler.server.released.wait()

    server.faults[f"streamed {CHAT}"] = stall
    # Long enough for the first event on a busy machine.
    found = Gateway(server.url, KEY, timeout=5).stream(CHAT, QUESTION)
    assert len(found.events) == 1
    assert found.broken is not None
    assert found.broken.kind is FailureKind.TIMEOUT


def test_a_refused_stream_has_its_body(server: Stub) -> None:
    """An error response instead of a stream is returned with its body."""
    found = Gateway(server.url, "sk-other").stream(CHAT, QUESTION)
    assert found.head.status == 401
    assert found.head.json() == {"error": {"message": "no valid key"}}
    assert not found.is_event_stream


class raw_server:
    """A server that sends the same bytes on every connection and closes it; the context is its port."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        with self.listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(self.answer)

    def __enter__(self) -> int:
        self.thread.start()
        return int(self.listener.getsockname()[1])

    def __exit__(self, *args: object) -> None:
        self.thread.join(10)
        self.listener.close()


def test_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to a UNIX socket ignore the host of the URL and never use a proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    path = tmp_path / "s"
    gateway = Gateway("http://anywhere", KEY, 20, str(path))
    with pytest.raises(GatewayError) as missing:
        gateway.get("/health/liveliness")
    assert missing.value.kind is FailureKind.REFUSED
    assert missing.value.message == f"nothing listens on {path} (the socket does not exist)"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        asked: list[bytes] = []

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"hi"')

        thread = threading.Thread(target=answer)
        thread.start()
        found = gateway.get("/health/liveliness")
        thread.join()
    assert (found.status, found.json()) == (200, "hi")
    assert asked[0].startswith(b"GET /health/liveliness HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}".encode() in asked[0]
    with pytest.raises(GatewayError) as dead:
        gateway.get("/health/liveliness")
    assert dead.value.kind is FailureKind.REFUSED
