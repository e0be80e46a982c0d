"""A `Server` in the event loop of a test, and clients that read the raw bytes of its responses."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from litellm_systemd.runtime.http.authentication import HAS_RIGHT_KEY
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.http.refuse import RefusalCounter
from litellm_systemd.runtime.leaving_flag import LeavingFlag
from litellm_systemd.runtime.worker.draining_server import Server, _http_connections, build_config

#: Seconds: no test waits longer.
DEADLINE = 30.0
#: Bytes of a response: more than the kernel keeps for a client that does not read.
LARGE, PIECE = 16 * 1024**2, 64 * 1024


class Application:
    """/ answers at once. /stream sends a first part, and the last part when `finish` is set.

    /large sends `LARGE` bytes at once, /long as many in pieces before its last part.
    """

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.events: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b"first ", "more_body": True})
            await self.finish.wait()
        for _ in range(LARGE // PIECE if scope["path"] == "/long" else 0):
            await send({"type": "http.response.body", "body": b"x" * PIECE, "more_body": True})
        await send({"type": "http.response.body", "body": b"x" * LARGE if scope["path"] == "/large" else b"last"})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        for _ in range(2):
            event = (await receive())["type"]
            self.events.append(event)
            await send({"type": f"{event}.complete"})


def authenticate(application: Any) -> Any:
    """The authentication gate: a request with the header `key: right` has the right key."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (b"key", b"right") in scope["headers"]:
            scope["state"][HAS_RIGHT_KEY] = True
        await application(scope, receive, send)

    return serve


class Peer:
    """A client that reads the raw bytes of responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self.writer.transport)

    def request(self, path: str = "/", *headers: str, method: str = "GET", body: bytes = b"") -> None:
        head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""))
        self.writer.write(head.encode() + body)

    async def read_until(self, text: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(text), DEADLINE)

    async def read_rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), DEADLINE)


class World:
    """A server for `serve`, which passes requests to `wrap(application)`."""

    def __init__(
        self,
        lame_duck_timeout: float,
        drain_timeout: float,
        *,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        trusts_loopback: bool = True,
        wrap: Callable[[Any], Callable[..., Awaitable[None]]] = lambda application: application,
    ) -> None:
        self.application = Application()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = listener.getsockname()
        config = build_config(wrap(self.application), 75)
        self.leaving = LeavingFlag()
        if not trusts_loopback:
            config.forwarded_allow_ips = []
        self.counter = RefusalCounter()
        self.server = Server(
            config,
            (listener,),
            lame_duck_timeout=lame_duck_timeout,
            drain_timeout=drain_timeout,
            limits=limits,
            counter=self.counter,
            tls=tls,
            leaving=self.leaving,
            on_drained=lambda: self.application.events.append("drained"),
        )
        self.served: asyncio.Task[None]

    async def start(self) -> None:
        """Start the server. It accepts no connections yet."""
        self.served = asyncio.create_task(self.server.serve())
        while not self.server.started:
            await asyncio.sleep(0.01)

    async def connect(self, **options: Any) -> Peer:
        return Peer(*await asyncio.open_connection(*self.address[:2], limit=64 * LARGE, **options))

    async def request_unread(self, path: str, *headers: str, **options: Any) -> Peer:
        """A client that sends a request, and does not read the response although the server waits for it."""
        known = set(self.server.server_state.connections)
        peer = await self.connect(**options)
        peer.transport.pause_reading()
        peer.request(path, *headers)
        paused = 0
        while paused < 10:  # the kernel may still take more
            await asyncio.sleep(0.01)
            new = _http_connections(self.server.server_state.connections - known)
            paused = paused + 1 if any(each.flow.write_paused for each in new) else 0
        return peer

    def pass_time(self, seconds: int) -> None:
        """Look for slow clients as if so many seconds had passed."""
        for _ in range(seconds):
            self.server._connections.sweep(1.0)

    async def wait_closed(self) -> int:
        """Wait until the server has exited. Returns the number of force-closed requests."""
        await asyncio.wait_for(self.served, DEADLINE)
        assert self.application.events[-1] == "lifespan.shutdown"
        return self.server.cut


@asynccontextmanager
async def serve(*, lame_duck: float = 20.0, drain: float = 20.0, **options: Any) -> AsyncIterator[World]:
    world = World(lame_duck, drain, **options)
    await world.start()
    world.server.start_accepting()
    yield world
    world.server.force_close(0)
    await world.wait_closed()
