"""The drain of a worker's server: no request is lost, and it ends. With both HTTP protocols of uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from litellm_systemd.runtime.worker.draining_server import Server, build_config, get_status
from litellm_systemd.runtime.worker.worker import asyncio_run

PROTOCOLS = ("httptools", "h11")
#: Seconds: no test waits longer.
DEADLINE = 30.0


class Application:
    """/ answers at once. /stream sends a first part, and the last part when `finish` is set."""

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
        await send({"type": "http.response.body", "body": b"last"})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        for _ in range(2):
            event = (await receive())["type"]
            self.events.append(event)
            await send({"type": f"{event}.complete"})


class Peer:
    """A client that reads the raw bytes of responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def request(self, path: str = "/") -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    async def read_until(self, text: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(text), DEADLINE)

    async def read_rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), DEADLINE)


class World:
    def __init__(self, protocol: str, lame_duck_timeout: float, drain_timeout: float) -> None:
        self.application = Application()
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        config = build_config(self.application, 75)
        config.http = protocol
        self.server = Server(config, (listener,), lame_duck_timeout=lame_duck_timeout, drain_timeout=drain_timeout)
        self.served: asyncio.Task[None]

    async def connect(self) -> Peer:
        return Peer(*await asyncio.open_connection(*self.address[:2]))

    async def wait_closed(self) -> int:
        """Wait until the server has exited. Returns the number of force-closed requests."""
        await asyncio.wait_for(self.served, DEADLINE)
        assert self.application.events[-1] == "lifespan.shutdown"
        return self.server.cut


@asynccontextmanager
async def serve(protocol: str, *, lame_duck: float = 20.0, drain: float = 20.0) -> AsyncIterator[World]:
    world = World(protocol, lame_duck, drain)
    world.served = asyncio.create_task(world.server.serve())
    while not world.server.started:
        await asyncio.sleep(0.01)
    world.server.start_accepting()
    yield world
    world.server.force_close(0)
    await world.wait_closed()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio_run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_start_accepting(protocol: str) -> None:
    """Before `start_accepting` a connection waits in the backlog, and the health check is answered."""

    async def scenario() -> None:
        world = World(protocol, 1, 1)
        world.served = asyncio.create_task(world.server.serve())
        while not world.server.started:
            await asyncio.sleep(0.01)
        peer = await world.connect()
        peer.request()
        assert await get_status(world.server.connect, "/", DEADLINE) == 200
        assert world.server.connections == 0
        world.server.start_accepting()
        assert b" 200 OK" in await peer.read_until(b"\r\n")
        world.server.start_drain()
        await world.wait_closed()

    run(scenario)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_drain_stops_accepting(protocol: str) -> None:
    """A draining server accepts no new connection."""

    async def scenario() -> None:
        async with serve(protocol) as world:
            peer = await world.connect()
            peer.request("/stream")
            await peer.read_until(b"first ")
            world.server.start_drain()
            with pytest.raises(OSError, match=r"."):
                await world.connect()

    run(scenario)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_drain_before_accepting(protocol: str) -> None:
    """A server that drains before `start_accepting` never accepts a connection."""

    async def scenario() -> None:
        world = World(protocol, 1, 1)
        world.served = asyncio.create_task(world.server.serve())
        while not world.server.started:
            await asyncio.sleep(0.01)
        world.server.start_drain()
        world.server.start_accepting()
        await world.wait_closed()
        with pytest.raises(OSError, match=r"."):
            await world.connect()

    run(scenario)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_last_response_of_idle_connection(protocol: str) -> None:
    """During a drain an idle connection gets one more response, with `Connection: close`, and is closed."""

    async def scenario() -> None:
        async with serve(protocol) as world:
            fresh, used = await world.connect(), await world.connect()
            used.request()
            assert b"connection: close" not in await used.read_until(b"last\r\n0\r\n\r\n")
            world.server.start_drain()
            for peer in (fresh, used):
                peer.request()
                answer = await peer.read_rest()
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"connection: close\r\n" in answer
                assert answer.count(b"connection:") == 1
            assert await world.wait_closed() == 0

    run(scenario)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_idle_connections_close_after_lame_duck_timeout(protocol: str) -> None:
    """Connections without a complete request do not delay a drain beyond LAME_DUCK_TIMEOUT."""

    async def scenario() -> None:
        async with serve(protocol, lame_duck=0.3) as world:
            fresh, used, half = [await world.connect() for _ in range(3)]
            used.request()
            await used.read_until(b"last\r\n0\r\n\r\n")
            half.writer.write(b"GET / HT")
            while world.server.connections < 3:
                await asyncio.sleep(0.01)
            world.server.start_drain()
            assert await world.wait_closed() == 0
            assert [await peer.read_rest() for peer in (fresh, used, half)] == [b"", b"", b""]

    run(scenario)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stream_completes(protocol: str) -> None:
    """A stream completes during a drain, and its connection accepts one more request after it."""

    async def scenario() -> None:
        async with serve(protocol) as world:
            peer = await world.connect()
            peer.request("/stream")
            await peer.read_until(b"first ")
            world.server.start_drain()
            assert world.server.inflight == 1
            await asyncio.sleep(0.3)
            assert not world.served.done()
            world.application.finish.set()
            await peer.read_until(b"last\r\n0\r\n\r\n")
            assert world.server.inflight == 0
            peer.request()
            assert b"connection: close\r\n" in await peer.read_rest()
            assert await world.wait_closed() == 0

    run(scenario)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stream_is_cut_at_drain_timeout(protocol: str) -> None:
    """A stream that exceeds the drain timeout is counted and ends incomplete, so that the client detects it."""

    async def scenario() -> None:
        async with serve(protocol, drain=0.3) as world:
            peer = await world.connect()
            peer.request("/stream")
            await peer.read_until(b"first ")
            world.server.start_drain()
            assert not (await peer.read_rest()).endswith(b"0\r\n\r\n")
            assert await world.wait_closed() == 1

    run(scenario)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_force_close_during_drain(protocol: str) -> None:
    """A force-close during a drain ends the in-flight requests at once."""

    async def scenario() -> None:
        async with serve(protocol) as world:
            peer = await world.connect()
            peer.request("/stream")
            await peer.read_until(b"first ")
            world.server.start_drain()
            await asyncio.sleep(0.1)
            world.server.force_close(0)
            assert await world.wait_closed() == 1

    run(scenario)


def test_health_check_without_an_answer() -> None:
    """The health check returns None for a server that does not answer, closes the connection or is no HTTP server."""

    async def scenario() -> None:
        async def silent(connection: socket.socket) -> None:
            held.append(connection)

        async def closing(connection: socket.socket) -> None:
            connection.close()

        async def invalid(connection: socket.socket) -> None:
            connection.send(b"hello\r\n")
            connection.close()

        held: list[socket.socket] = []
        servers: tuple[Callable[[socket.socket], Awaitable[None]], ...] = (silent, closing, invalid)
        assert [await get_status(connect, "/", 0.1) for connect in servers] == [None, None, None]
        held[0].close()

    run(scenario)
