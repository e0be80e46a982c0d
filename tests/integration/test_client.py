"""The client against a stub on loopback: what goes over the wire, and what doesn't."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from litellm_systemd.client.errors import FailureKind, GatewayError
from litellm_systemd.client.gateway import Gateway, ServerSentEvent
from tests.integration.stub_gateway import KEY, USAGE, Handler, Stub, delta, stub
from tests.ports import free_port

PROXY_VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
CHAT = "/v1/chat/completions"
QUESTION = {"model": "primary", "stream": True}


@pytest.fixture(autouse=True)
def _no_proxy_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXY_VARIABLES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Stub]:
    with stub() as running:
        yield running


def trouble(gateway: Gateway) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        gateway.get("/v1/models")
    assert KEY not in caught.value.message + caught.value.hint
    return caught.value


def test_an_error_status_is_an_answer(server: Stub) -> None:
    """401 is a value with its text, not an exception."""
    answer = Gateway(server.url, "sk-other").get("/v1/models")
    assert (answer.status, answer.ok) == (401, False)
    assert answer.json() == {"error": {"message": "no valid key"}}
    assert answer.headers["content-type"] == "application/json"


def test_the_key_is_sent_as_bearer(server: Stub) -> None:
    """The key goes into the header that LiteLLM reads, and an empty one into none."""
    gateway = Gateway(server.url, KEY)
    gateway.get("/v1/models")
    gateway.with_key("").get("/v1/models")
    assert [authorization for _, _, authorization in server.seen] == [f"Bearer {KEY}", None]


def test_netrc_is_left_alone(server: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password in ~/.netrc for the same host neither replaces the key nor stands in for a missing one."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    test_the_key_is_sent_as_bearer(server)


def test_proxies_of_the_environment_are_not_used_for_loopback(server: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corporate proxy doesn't swallow what is meant for this machine."""
    with stub() as proxy:
        for name in PROXY_VARIABLES:
            monkeypatch.setenv(name, proxy.url)
        assert Gateway(server.url, KEY).get("/v1/models").ok
        assert Gateway(server.url, KEY).stream(CHAT, QUESTION).done
        assert Gateway(server.url.replace("127.0.0.1", "localhost"), KEY).get("/v1/models").ok
        assert proxy.seen == []
        assert len(server.seen) == 3


def test_proxies_of_the_environment_are_used_for_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the proxy leads to the gateway, the proxy is asked."""
    with stub() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        proxy.sick["*"] = lambda handler: handler.reply(200, {"from": "proxy"})
        assert Gateway("http://gateway.invalid", KEY).get("/v1/models").json() == {"from": "proxy"}
        assert proxy.seen[0][1] == "http://gateway.invalid/v1/models"


def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead proxy isn't reported as a dead gateway."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert trouble(Gateway("http://gateway.invalid", KEY)).trouble is FailureKind.PROXY


def test_a_redirect_is_not_followed(server: Stub) -> None:
    """Neither the key nor the request goes where a redirect points."""
    with stub() as other:
        server.sick["*"] = lambda handler: handler.reply(307, "", location=f"{other.url}/v1/models")
        gateway = Gateway(server.url, KEY)
        assert gateway.get("/v1/models").status == 307
        assert gateway.post(CHAT, QUESTION).status == 307
        assert gateway.stream(CHAT, QUESTION).head.status == 307
        assert other.seen == []


def test_refused() -> None:
    """A port without a listener is called that, with the commands that say why."""
    port = free_port()
    error = trouble(Gateway(f"http://127.0.0.1:{port}", KEY))
    assert error.trouble is FailureKind.REFUSED
    assert error.message == f"nothing listens on 127.0.0.1:{port} (connection refused)"
    assert "systemctl status litellm" in error.hint


def test_unknown_host() -> None:
    """A host name that doesn't exist is called that."""
    assert trouble(Gateway("http://gateway.invalid", KEY)).trouble is FailureKind.UNREACHABLE


def test_a_name_that_no_resolver_takes() -> None:
    """A malformed host name is an error with a remedy, not a traceback."""
    assert trouble(Gateway(f"http://{'a' * 64}.invalid", KEY)).trouble is FailureKind.UNREACHABLE


def be_silent(handler: Handler) -> None:
    handler.server.released.wait()


def test_silence(server: Stub) -> None:
    """A server that accepts and says nothing is left when the time is up."""
    server.sick["*"] = be_silent
    error = trouble(Gateway(server.url, KEY, timeout=0.2))
    assert error.trouble is FailureKind.TIMEOUT
    assert "within 0.2 s" in error.message
    assert "--timeout" in error.hint


def test_a_trickle(server: Stub) -> None:
    """A server that always sends one more byte in time can't hold the client for ever."""

    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "100000")
        handler.end_headers()
        while not handler.server.released.wait(0.05):
            handler.wfile.write(b" ")

    server.sick["*"] = trickle
    assert trouble(Gateway(server.url, KEY, timeout=0.3)).trouble is FailureKind.TIMEOUT


def test_an_endless_answer(server: Stub) -> None:
    """A server that pours out data can't fill the memory."""

    def pour(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        while not handler.server.released.is_set():
            handler.wfile.write(b"x" * 65536)

    server.sick["*"] = pour
    assert trouble(Gateway(server.url, KEY)).trouble is FailureKind.GARBLED


@pytest.mark.parametrize("headers", ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"])
def test_dropped(headers: str) -> None:
    """A connection that ends before the answer does is called dropped, headers or not."""
    with raw_server(headers.encode()) as port:
        assert trouble(Gateway(f"http://127.0.0.1:{port}", KEY)).trouble is FailureKind.DROPPED


def test_something_else_on_the_port() -> None:
    """A program that doesn't speak HTTP isn't taken for a gateway that crashed."""
    with raw_server(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        error = trouble(Gateway(f"http://127.0.0.1:{port}", KEY))
    assert error.trouble is FailureKind.GARBLED
    assert "ss -ltnp" in error.hint


def test_https_to_a_plain_port(server: Stub) -> None:
    """https:// to a gateway without TLS says just that."""
    error = trouble(Gateway(server.url.replace("http:", "https:"), KEY))
    assert error.trouble is FailureKind.TLS
    assert error.message.endswith("it speaks plain HTTP")


def test_a_stream_is_read_to_done(server: Stub) -> None:
    """A stream has its events in order, each with the time of its arrival, and ends at [DONE]."""
    found = Gateway(server.url, KEY).stream(CHAT, QUESTION)
    assert [event.data for event in found.events] == [delta("po"), delta("ng"), USAGE, "[DONE]"]
    times = [event.seconds for event in found.events]
    assert times == sorted(times)
    assert 0 < times[0] <= found.head.seconds
    assert found.done
    assert found.broken is None


@pytest.mark.parametrize("chunked", [True, False])
def test_an_event_is_taken_when_it_arrives(server: Stub, monkeypatch: pytest.MonkeyPatch, chunked: bool) -> None:
    """The first token is timed when it is there, not when the next one or the end is."""
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
    server.sick[f"streamed {CHAT}"] = wait_between
    assert Gateway(server.url, KEY).stream(CHAT, QUESTION).done
    assert in_time[0], "the second event had to be sent for the first to be taken"


def test_a_stream_without_done(server: Stub) -> None:
    """A stream that just ends isn't done, and isn't broken either."""
    server.sick[f"streamed {CHAT}"] = lambda handler: handler.stream(delta("po"))
    found = Gateway(server.url, KEY).stream(CHAT, QUESTION)
    assert (len(found.events), found.done, found.broken) == (1, False, None)


def test_a_stream_that_is_cut(server: Stub) -> None:
    """What came before a cut is kept, with the reason for the cut."""
    server.sick[f"streamed {CHAT}"] = lambda handler: handler.stream(delta("po"), cut=True)
    found = Gateway(server.url, KEY).stream(CHAT, QUESTION)
    assert len(found.events) == 1
    assert found.broken is not None
    assert found.broken.trouble is FailureKind.DROPPED


def test_a_stream_that_stalls(server: Stub) -> None:
    """A stream that stops in the middle is left when the time is up, and what came is kept."""

    def stall(handler: Handler) -> None:
        handler.stream(delta("po"), cut=True)
        handler.wfile.flush()
        handler.server.released.wait()

    server.sick[f"streamed {CHAT}"] = stall
    # The first event has to come within it, on a busy machine too.
    found = Gateway(server.url, KEY, timeout=5).stream(CHAT, QUESTION)
    assert len(found.events) == 1
    assert found.broken is not None
    assert found.broken.trouble is FailureKind.TIMEOUT


def test_a_refused_stream_has_its_body(server: Stub) -> None:
    """An error instead of a stream comes with its text."""
    found = Gateway(server.url, "sk-other").stream(CHAT, QUESTION)
    assert found.head.status == 401
    assert found.head.json() == {"error": {"message": "no valid key"}}
    assert not found.is_event_stream


class raw_server:
    """A port that answers every request with the same bytes and hangs up; its number as the context."""

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
    """A gateway at a UNIX socket is asked there, whatever the address says, and never through a proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    path = tmp_path / "s"
    gateway = Gateway("http://anywhere", KEY, 20, str(path))
    with pytest.raises(GatewayError) as missing:
        gateway.get("/health/liveliness")
    assert missing.value.trouble is FailureKind.REFUSED
    assert missing.value.message == f"nothing listens on {path} (there is no such socket)"
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
    assert dead.value.trouble is FailureKind.REFUSED
