"""The limits of the HTTP protocol, with the real uvicorn and httptools: what a client may send, and how slowly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from litellm_systemd.runtime.http.connections import Connections
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.http.protocol import LimitedProtocol
from litellm_systemd.runtime.http.refuse import RefusalCounter
from litellm_systemd.runtime.worker.draining_server import build_config

KIB = 1024
LIMITS = Limits(header_size=8 * KIB, body_size=1024 * KIB)
OFF = Limits(0, 0, 0, 0, 0, 0)
KEEPALIVE = 75


class Transport(asyncio.Transport):
    """The server's end of a connection, which keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        #: Bytes that the client has not read yet.
        self.unread = 0
        self.closing = self.at_eof = self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.7", 5), "sockname": ("192.0.2.1", 4000)}.get(name, default)

    def write(self, data: Any) -> None:
        self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.at_eof = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Client:
    """A connection to an application that answers with what it received: headers, and the size of the body.

    /early answers before it reads the body. /hold answers when `finish` is set, /stream ends its answer then.
    """

    def __init__(self, limits: Limits = LIMITS, *, is_proxy: bool = False) -> None:
        self.transport = Transport()
        self.counter = RefusalCounter()
        self.seen: list[list[Any]] = []
        self.finish = asyncio.Event()
        self.connections = Connections(limits, self.counter, lambda _: is_proxy)
        config = build_config(self._serve, KEEPALIVE)
        config.load()
        self.protocol = LimitedProtocol(config, ServerState(), {}, limits, self.connections)
        self.protocol.connection_made(self.transport)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        size = 0
        while scope["path"] != "/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        self.seen.append(scope["headers"])
        if scope["path"] == "/hold":
            await self.finish.wait()
        body = json.dumps({"size": size, "headers": len(scope["headers"])}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/stream":
            await self.finish.wait()
        await send({"type": "http.response.body", "body": body})

    async def send(self, *pieces: bytes, rounds: int = 5) -> None:
        """Send pieces while the server reads, and let the application run."""
        for piece in pieces:
            if self.transport.closing:
                return
            self.protocol.data_received(piece)
        for _ in range(rounds):
            await asyncio.sleep(0)

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.transport.sent.split(b"HTTP/1.1 ")[1:]]

    @property
    def ends(self) -> bool:
        """Whether the server has ended the connection."""
        return self.transport.closing or self.transport.at_eof

    @property
    def reasons(self) -> list[str]:
        return [reason for refusals in self.counter.take() for reason in refusals.reasons]


def head(*headers: str, path: str = "/", method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


LONG = "x" * 2000
#: Requests and their status.
HEADS: dict[str, tuple[bytes, int]] = {
    "small": (head(), 200),
    "below the limit": (head(*(f"a{number}: {LONG}" for number in range(4))), 200),
    "above the limit": (head(*(f"a{number}: {LONG}" for number in range(5))), 431),
    "one long header": (head(f"a: {LONG}{LONG}"), 431),
    "a long name": (head(f"{LONG}{LONG}: a"), 431),
    "padding": (head(f"a:{' ' * 9000}b"), 431),
    "an endless header": (head()[:-2] + b"a: " + b"x" * 30_000, 431),
    "an endless name": (head()[:-2] + b"x" * 30_000, 431),
    "a hundred headers": (head(*(f"a{number}: b" for number in range(99))), 200),
    "more headers": (head(*(f"a{number}: b" for number in range(100))), 431),
    "a long URL": (head(path="/?" + LONG), 200),
    "a longer URL": (head(path="/?" + LONG + LONG), 414),
    "an endless URL": (b"GET /" + b"x" * 30_000, 414),
    "an endless method": (b"x" * 30_000, 400),
    "empty lines": (b"\r\n" * 15_000, 431),
    "not HTTP": (b"\x00\x03\x01\x02\x00", 400),
    "TLS": (b"\x16\x03\x01\x02\x00", 400),
}


@pytest.mark.parametrize("size", [1, 700, 256_000])
@pytest.mark.parametrize("name", HEADS)
async def test_heads(name: str, size: int) -> None:
    """A head within the limits is served, in whatever pieces it comes. After any other the connection is closed."""
    data, status = HEADS[name]
    client = Client()
    await client.send(*cut(data, size))
    assert client.statuses == [status]
    assert client.ends == (status != 200)
    assert (b"connection: close" in client.transport.sent) == (status != 200)
    expected = {200: [], 400: ["with TLS on the port of plain HTTP" if name == "TLS" else "in invalid HTTP"]}
    assert client.reasons == expected.get(status, ["with headers above MAX_HEADER_SIZE"])


async def test_an_endless_header_costs_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """httptools, which needs quadratic time for an unfinished header, gets no more bytes of a head than the limit."""
    client = Client()
    fed = []
    parser = client.protocol.parser

    class Counting:
        def feed_data(self, data: Any) -> None:
            fed.append(len(data))
            parser.feed_data(data)

    monkeypatch.setattr(client.protocol, "parser", Counting())
    await client.send(b"GET / HTTP/1.1\r\na: ", *[b"x" * 64 * KIB] * 10)
    assert client.statuses == [431]
    assert sum(fed) == LIMITS.header_size


async def test_second_request() -> None:
    """The limits hold for each request of a connection, and not for all together."""
    client = Client()
    large = HEADS["below the limit"][0]
    for _ in range(5):
        await client.send(large)
    await client.send(large + large)
    assert client.statuses == [200] * 7
    await client.send(HEADS["above the limit"][0])
    assert client.statuses == [200] * 7 + [431]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (head(f"a: {LONG}{LONG}", path="/v1/chat/completions"), "invalid_request_error"),
        (head(f"a: {LONG}{LONG}", path="/v1/messages"), "invalid_request_error"),
    ],
)
async def test_format_of_the_error(data: bytes, kind: str) -> None:
    """The error is in the format of the API that was called, as far as that is known."""
    client = Client()
    await client.send(data)
    error = json.loads(client.transport.sent.partition(b"\r\n\r\n")[2])
    assert error["error"]["type"] == kind
    assert (error.get("type") == "error") == (b"/v1/messages" in data)
    assert "MAX_HEADER_SIZE" in error["error"]["message"]


async def test_client_that_sends_on() -> None:
    """After an error the client may send the rest of its request, but not without end, and not for long."""
    for sent, waited, closed in ((900 * KIB, 4.0, False), (1100 * KIB, 0.0, True), (0, 6.0, True)):
        client = Client()
        await client.send(HEADS["above the limit"][0], b"x" * sent)
        client.connections.sweep(waited)
        assert (client.statuses, client.transport.closing) == ([431], closed)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", path: str = "/") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head("Transfer-Encoding: chunked", path=path, method="POST") + body + end


@pytest.mark.parametrize("size", [1, 256_000])
async def test_trailers(size: int) -> None:
    """A trailer changes neither its request nor the next one: a key in it is not a key."""
    client = Client()
    trailers = b"0\r\nAuthorization: Bearer sk-1\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n"
    await client.send(*cut(chunked(b"body", end=trailers) + head("a: b"), size))
    names = [[name for name, _ in headers] for headers in client.seen]
    assert names == [[b"host", b"transfer-encoding"], [b"host", b"a"]]
    assert client.statuses == [200, 200]


OVERHEADS: dict[str, Iterable[bytes]] = {
    "an endless chunk extension": (b"5;", *[b"x" * 60_000] * 20),
    "an endless trailer": (b"5\r\nhello\r\n0\r\na: ", *[b"x" * 60_000] * 20),
    "trailers": (b"5\r\nhello\r\n0\r\n", *[b"a: b\r\n" * 10_000] * 20),
    "tiny chunks": [b"1\r\nx\r\n" * 10_000] * 20,
    "long extensions": [b"1;%s\r\nx\r\n" % (b"x" * 1000) * 60] * 20,
}


@pytest.mark.parametrize("name", OVERHEADS)
async def test_overhead_of_chunks(name: str) -> None:
    """Chunk extensions, trailers and tiny chunks are bounded."""
    client = Client()
    await client.send(head("Transfer-Encoding: chunked", method="POST"), *OVERHEADS[name])
    assert (client.statuses, client.ends, client.seen) == ([400], True, [])


async def test_small_chunks() -> None:
    """A body in chunks of a few bytes, as some clients write JSON, is served."""
    client = Client()
    await client.send(*cut(chunked(*[b"hello wo"] * 50_000), 64_000))
    assert client.statuses == [200]
    assert b'"size": 400000' in client.transport.sent


@pytest.mark.parametrize("size", [1, 50, 256_000])
@pytest.mark.parametrize("path", ["/", "/hold"])
async def test_unsupported_upgrade(path: str, size: int) -> None:
    """A request that offers HTTP/2, as those of Java's HttpClient do, is served with HTTP/1.1 and its body."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA", "a: b")
    client = Client()
    client.finish.set()
    requests = (
        head(*offer, "Content-Length: 9", path=path, method="POST") + b'{"a":"b"}',
        head(*offer, "Transfer-Encoding: chunked", path=path, method="POST") + b"4\r\nbody\r\n0\r\n\r\n",
        head(*offer, path=path),
        head(*offer, "Connection: close", path=path),
    )
    await client.send(*cut(b"".join(requests), size), rounds=50)
    assert client.statuses == [200] * 4
    sizes = [json.loads(part.partition(b"}")[0] + b"}")["size"] for part in split_bodies(client.transport.sent)]
    assert sizes == [9, 4, 0, 0]
    assert all((b"a", b"b") in headers and b"upgrade" not in dict(headers) for headers in client.seen)
    assert client.transport.closing


def split_bodies(data: bytes) -> list[bytes]:
    return [b"{" + part for part in data.split(b"\r\n\r\n{")[1:]]


async def test_pipelining() -> None:
    """A client that sends requests without reading the responses is cut off."""
    client = Client()
    await client.send(head() * 20, rounds=100)
    assert client.statuses == [200] * 20
    client = Client()
    await client.send(head(path="/hold") + head() * 50, rounds=100)
    assert (client.statuses, client.transport.closing) == ([], True)


@pytest.mark.parametrize("path", ["/early", "/"])
async def test_endless_body(path: str) -> None:
    """A body is not read without end, whether the application reads it or not."""
    client = Client()
    pieces = [b"%x\r\n%s\r\n" % (60_000, b"x" * 60_000)] * 50
    await client.send(head("Transfer-Encoding: chunked", path=path, method="POST"))
    await client.send(*pieces)
    assert client.transport.closing


async def test_no_limits() -> None:
    """With 0 for each limit nothing is refused."""
    client = Client(OFF)
    large = head(*(f"a{number}: {LONG}" for number in range(300)), path="/?" + LONG * 20)
    await client.send(large[:50_000])
    client.connections.sweep(10_000)
    await client.send(large[50_000:])
    await client.send(head("Transfer-Encoding: chunked", method="POST"), *OVERHEADS["tiny chunks"])
    client.connections.sweep(10_000)
    await client.send(b"0\r\n\r\n")
    assert client.statuses == [200, 200]
    assert not client.reasons


# Times. `sweep` counts seconds that would have passed.


@pytest.mark.parametrize(("is_proxy", "reasons"), [(False, ["that sent no request"]), (True, [])])
async def test_silent_connection(is_proxy: bool, reasons: list[str]) -> None:
    """A connection without a byte is closed after KEEPALIVE_TIMEOUT, without a response. It is not counted if a proxy
    has opened it ahead of a request.
    """
    client = Client(is_proxy=is_proxy)
    client.connections.sweep(KEEPALIVE - 1)
    assert not client.ends
    client.connections.sweep(2)
    assert (client.transport.sent, client.transport.closing) == (b"", True)
    assert client.reasons == reasons


async def test_slow_headers() -> None:
    """A head that is not complete in time is answered with 408, however steadily it arrives."""
    client = Client()
    await client.send(head())
    await client.send(b"GET / HTTP/1.1\r\n")
    for _ in range(3):
        assert not client.ends
        client.connections.sweep(14)
        await client.send(b"a: b\r\n")
    assert (client.statuses, client.ends, client.reasons) == ([200, 408], True, ["slower than HEADER_TIMEOUT"])


@pytest.mark.parametrize(("rate", "seconds", "status"), [(8000, 2600, 200), (400, 400, 408), (0, 40, 408)])
async def test_slow_body(rate: int, seconds: int, status: int) -> None:
    """20 MB over a bad line arrive, a body that trickles is answered with 408."""
    client = Client(replace(LIMITS, body_size=0))
    length = max(rate, 1) * seconds
    await client.send(head(f"Content-Length: {length}", method="POST"))
    for second in range(seconds):
        await client.send(b"x" * rate if second else b"x" * max(rate, 1), rounds=2)
        client.connections.sweep(1)
    assert client.statuses == [status]
    assert client.ends == (status == 408)
    await asyncio.sleep(0)


async def test_time_of_the_gateway_does_not_count() -> None:
    """A client loses no time while the application does not read, computes, or sends a long response."""
    client = Client()
    await client.send(head("Content-Length: 200000", path="/hold", method="POST"), b"x" * 100_000, rounds=0)
    assert client.transport.paused
    client.connections.sweep(10_000)
    await client.send(b"x" * 100_000)
    client.connections.sweep(10_000)
    client.finish.set()
    await client.send()
    client.finish.clear()
    await client.send(head(path="/stream"))
    client.connections.sweep(10_000)
    await client.send(b"GET / HT")  # the start of the next request, while the response is sent
    client.connections.sweep(10_000)
    assert not client.ends
    client.finish.set()
    await client.send(b"TP/1.1\r\nHost: x\r\n\r\n")
    assert client.statuses == [200, 200, 200]


@pytest.mark.parametrize(("rate", "closed"), [(10_000, False), (600, False), (400, True), (0, True)])
async def test_slow_reader(rate: int, closed: bool) -> None:
    """A client without the key may read slowly, such as over a bad line, but not stop reading."""
    client = Client()
    await client.send(head(path="/stream"))
    client.transport.unread = 16 * 1024 * KIB
    client.protocol.pause_writing()
    for _ in range(100):
        client.connections.sweep(10)
        client.transport.unread -= rate * 10
    assert client.transport.closing == closed
    assert client.reasons == ["that read no responses"] * closed
    client.finish.set()
    await client.send()


async def test_body_after_the_response() -> None:
    """A client that goes on with its body after the whole response is cut off without a second response."""
    client = Client()
    await client.send(head("Content-Length: 200000", path="/early", method="POST"), b"x")
    client.connections.sweep(20)
    await client.send(b"x")
    client.connections.sweep(20)
    assert (client.statuses, client.transport.closing) == ([200], True)


async def test_slow_body_after_100_continue() -> None:
    """A client that waits for `100 Continue` gets it, and the time for its body starts then."""
    client = Client()
    await client.send(head("Content-Length: 3", "Expect: 100-continue", method="POST"), rounds=0)
    client.connections.sweep(1000)
    await client.send()
    assert client.statuses == [100]
    await client.send(b"abc")
    assert client.statuses == [100, 200]


#: What heads and bodies are made of, right and wrong.
FRAGMENTS = (
    *(
        b"GET / HTTP/1.1\r\n",
        b"POST /early HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff\0 HTTP/1.1\r\n",
    ),
    *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: x\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
    ),
    *(
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"Upgrade: h2c\r\nConnection: upgrade\r\n",
        b"X: " + b"y" * 9 * KIB,
        b"X: y\r\n" * 150,
        b": \r\n",
        b" x\r\n",
    ),
    *(
        b"\r\n",
        b"hello",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"0\r\nX: y\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"\n",
        b"\0",
    ),
)


@settings(max_examples=150, derandomize=True, database=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=20), max_size=10), st.integers(1, 300))
@example([b"GET / HTTP/1.1\r\n\r\n", b"\0", b"GET / HTTP/1.1\r\n\r\n"], 300)
def test_any_bytes(fragments: list[bytes], step: int) -> None:
    """Whatever arrives, in pieces of any size, each request gets at most one response, with a status of ours."""
    data = b"".join(fragments)

    async def converse() -> None:
        client = Client()
        await client.send(*(data[start : start + step] for start in range(0, len(data), step)))
        assert set(client.statuses) <= {100, 200, 400, 413, 414, 431}, client.transport.sent
        final = [status for status in client.statuses if status != 100]
        assert len(final) <= data.count(b"HTTP/") + 1
        client.protocol.wait(10_000)
        client.protocol.connection_lost(None)

    asyncio.run(converse())
