"""The HTTP server of the fakes: a function from a request to a reply, on a separate thread."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """A received request. `target` is the text of the request line, and header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The encoded path, as the signature covers it."""
        return urlsplit(self.target).path

    @property
    def segments(self) -> tuple[str, ...]:
        """The decoded parts of the path. An ARN with its slashes is one part."""
        return tuple(unquote(part) for part in self.path.strip("/").split("/"))

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. `chunks` are sent one by one, in place of `body`.

    `cut`: close the connection in place of the last chunk. `silent`: send nothing until the client disconnects or the
    server stops.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: Iterable[bytes] | None = None
    cut: bool = False
    silent: bool = False


Answer = Callable[[Request], Reply]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.answer(Request(self.command, self.path, headers, body))
        if reply.silent:
            self.server.over.wait()
            self.close_connection = True
        elif reply.chunks is None:
            self._send(reply.status, {**reply.headers, "Content-Length": str(len(reply.body))})
            self.wfile.write(reply.body)
        else:
            self._send_chunks(reply, reply.chunks)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def _send(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_chunks(self, reply: Reply, chunks: Iterable[bytes]) -> None:
        self._send(reply.status, {**reply.headers, "Transfer-Encoding": "chunked"})
        for chunk in chunks:
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.wfile.flush()
        if reply.cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The header Date, with the time of the fakes."""
        return super().date_time_string(self.server.clock().timestamp() if timestamp is None else timestamp)

    def log_message(self, *args: object) -> None:
        """Log nothing: the fakes record the requests themselves."""


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


class Server(ThreadingHTTPServer):
    """Serve `answer`, with TLS if there is a `context`. `clock` is the time in Date. `over` is set when it stops."""

    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        answer: Answer,
        clock: Callable[[], datetime] = utc_now,
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(address, _Handler)
        self.answer, self.clock = answer, clock
        self.over = threading.Event()
        if context is not None:
            # The thread of the connection makes the handshake: a silent client must not block the others.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        host, port = str(self.server_address[0]), self.server_port
        return f"http://{host}:{port}"

    def handle_error(self, *args: object) -> None:
        """Ignore a client that disconnects: some tests do that on purpose."""


@contextmanager
def serving(
    answer: Answer,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    clock: Callable[[], datetime] = utc_now,
    context: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    """Serve until the block ends. Port 0 selects a free port. See `Server`."""
    server = Server((host, port), answer, clock, context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
