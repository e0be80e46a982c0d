"""What clients without a key cannot do to a running service, while a client with the key uses it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.connections import is_stale
from tests.integration.runtime_service import DEADLINE, KEY, Service, wait_for

CHAT = "/v1/chat/completions"
MIB = 2**20
#: Of each worker; there are two.
MAX_CONNECTIONS = 40
TIMEOUT = 2.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    variables = {
        "HEADER_TIMEOUT": str(TIMEOUT),
        "KEEPALIVE_TIMEOUT": "4",
        "MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "MIN_UPLOAD_RATE": "1000",
    }
    with Service(tmp_path_factory.mktemp("limits"), **variables) as running:
        running.await_ready()
        workers = running.workers()
        yield running
        assert running.workers() == workers  # none was replaced


@pytest.fixture(autouse=True)
def client(service: Service) -> Iterator[None]:
    """A client with the key that sees no failure during the test, on new connections and on one that it keeps."""
    end = threading.Event()
    failures: list[object] = []
    answers = 0

    def chat() -> None:
        nonlocal answers
        kept = service.connect()
        while not end.wait(0.1):
            if is_stale(kept):
                kept.close()
            for connection in (kept, service.connect()):
                try:
                    status, _ = service.chat(connection)
                except (OSError, http.client.HTTPException) as error:
                    failures.append(error)
                else:
                    answers += 1
                    if status != 200:
                        failures.append(status)

    thread = threading.Thread(target=chat)
    thread.start()
    try:
        yield
        wait_for("an answer", lambda: answers or failures)
    finally:
        end.set()
        thread.join()
    assert failures == []


@contextlib.contextmanager
def raw(service: Service, text: str = "", timeout: float = DEADLINE) -> Iterator[socket.socket]:
    """A connection on which the text has been sent."""
    with socket.create_connection(("127.0.0.1", service.port), timeout) as connection:
        connection.sendall(text.encode())
        yield connection


def head(*headers: str, path: str = CHAT, key: str = "") -> str:
    authorization = (f"Authorization: Bearer {key}",) if key else ()
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", *authorization, *headers, "", ""))


def read_status(connection: socket.socket) -> int:
    """The status of the response; 0 if the connection was closed without one."""
    with contextlib.suppress(ConnectionError):
        if answer := connection.recv(65536):
            return int(answer.split(b" ", 2)[1])
    return 0


def send_endlessly(connection: socket.socket, piece: bytes, pieces: int) -> int:
    """Send a piece repeatedly until the connection closes. Returns the number of bytes that could be sent."""
    for number in range(pieces):
        try:
            connection.sendall(piece)
        except ConnectionError:
            return number * len(piece)
    return pieces * len(piece)


def resident_memory(pid: int) -> int:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 // MIB


def test_endless_headers(service: Service) -> None:
    """An endless header, URL, trailer or chunk extension is cut off after a few MiB; too many headers are refused."""
    chunked = head("Transfer-Encoding: chunked", key=KEY)
    for start, status in (
        (head()[:-2] + "a: ", 431),
        ("GET /", 414),
        (chunked + "2\r\n{}\r\n0\r\na: ", 400),
        (chunked + "2;", 400),
        (head(*(f"a{number}: b" for number in range(101))), 431),
    ):
        with raw(service, start) as connection:
            assert send_endlessly(connection, b"x" * 65536, 768) < 16 * MIB
            assert read_status(connection) in (status, 0)
        with raw(service, start + "x" * 70_000) as connection:
            if status in (431, 414):
                assert read_status(connection) == status


def test_slow_and_silent_clients(service: Service) -> None:
    """Clients that send their headers or body too slowly, or nothing, are cut off in time."""
    kinds = {
        "headers": head("Content-Length: 9")[:-2],
        "body": head("Content-Length: 100000", key=KEY),
        "refused body": head("Content-Length: 100000"),
        "silent": "",
        "health check": head("Content-Length: 100000", path="/health/liveliness").replace("POST", "GET"),
    }
    with contextlib.ExitStack() as stack:
        slow = {kind: [stack.enter_context(raw(service, text)) for _ in range(4)] for kind, text in kinds.items()}
        start = time.monotonic()
        open_until: dict[str, float] = {}
        while len(open_until) < len(kinds) - 1:
            time.sleep(0.2)
            for kind in kinds.keys() - open_until - {"refused body"}:
                if kind != "silent" and time.monotonic() - start < TIMEOUT:
                    for connection in slow[kind]:
                        connection.sendall(b"a: b\r\n" if kind == "headers" else b"x")
                elif all(is_closed(connection) for connection in slow[kind]):
                    open_until[kind] = time.monotonic() - start
            assert time.monotonic() < start + DEADLINE, open_until
        assert open_until["silent"] >= 4
        assert [read_status(each) for each in slow["refused body"]] == [401] * 4


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed its end. Drops what it has sent."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    finally:
        connection.settimeout(DEADLINE)
    return True


def test_many_connections(service: Service) -> None:
    """Hundreds of silent connections: as many as allowed stay open, and the next client is served."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw(service)) for _ in range(6 * MAX_CONNECTIONS)]
        assert service.chat()[0] == 200
        wait_for("closed connections", lambda: sum(map(is_closed, silent)) >= 4 * MAX_CONNECTIONS - 10)


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", f"Content-Length: {256 * MIB}"])
@pytest.mark.parametrize(
    ("path", "key", "status"), [(CHAT, KEY, 413), ("/v1/messages", KEY, 413), (CHAT, "sk-x", 401)]
)
def test_256_mib(service: Service, framing: str, path: str, key: str, status: int) -> None:
    """A body of 256 MiB is refused, cut off after 64 MiB at most, and not kept in memory."""
    before = {pid: resident_memory(pid) for pid in service.workers()}
    with raw(service, head(framing, path=path, key=key)) as connection:
        piece = b"x" * MIB
        if "chunked" in framing:
            piece = b"%x\r\n%s\r\n" % (len(piece), piece)
        reader = socket.socket.dup(connection)
        statuses: list[int] = []
        thread = threading.Thread(target=lambda: statuses.append(read_status(reader)))
        thread.start()
        sent = send_endlessly(connection, piece, 256)
        thread.join(DEADLINE)
        reader.close()
    assert statuses == [status]
    assert sent < 80 * MIB  # the buffers of the kernel included
    for pid, memory in before.items():
        assert resident_memory(pid) < memory + 100


def test_key_in_a_trailer(service: Service) -> None:
    """A key that is sent after the body, as a trailer, is no key."""
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}]})
    trailer = f"Authorization: Bearer {KEY}\r\nx-api-key: {KEY}\r\n"
    start = head("Transfer-Encoding: chunked", "Trailer: Authorization, x-api-key")
    with raw(service, f"{start}{len(body):x}\r\n{body}\r\n0\r\n{trailer}\r\n") as connection:
        assert read_status(connection) == 401


def test_journal(service: Service) -> None:
    """The journal has a notice for each burst, and no error."""
    for text in (
        "requests slower than HEADER_TIMEOUT",
        "requests slower than MIN_UPLOAD_RATE",
        "requests larger than MAX_REQUEST_SIZE",
        "requests with headers above MAX_HEADER_SIZE",
        "connections above MAX_CONNECTIONS",
    ):
        assert re.match("<5>(refused|closed) .* from 127.0.0.1 ", service.await_log(text))
    assert len(re.findall("^<5>(?:refused|closed) ", service.log(), re.MULTILINE)) < 10
    assert not re.search("^<[0-3]>", service.log(), re.MULTILINE), service.log()
