"""uvicorn as a lame duck: nothing is lost, and everything comes to an end. With each of its HTTP protocols."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from litellm_systemd.runtime.worker import probe
from litellm_systemd.runtime.worker.server import Server, build_config
from litellm_systemd.runtime.worker.worker import asyncio_run

PROTOCOLS = ("httptools", "h11")
#: No test waits longer.
DEADLINE = 30.0


class Application:
    """/ answers at once; /stream sends a first part, and the last one when `finish` is set."""

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
            kind = (await receive())["type"]
            self.events.append(kind)
            await send({"type": f"{kind}.complete"})


class Peer:
    """A client that sees each byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def ask(self, path: str = "/") -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    async def until(self, text: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(text), DEADLINE)

    async def rest(self) -> bytes:
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

    async def ended(self) -> int:
        """Wait until it has left; how many requests it cut."""
        await asyncio.wait_for(self.served, DEADLINE)
        assert self.application.events[-1] == "lifespan.shutdown"
        return self.server.cut


@asynccontextmanager
async def serve(protocol: str, *, lame_duck: float = 20.0, drain: float = 20.0) -> AsyncIterator[World]:
    world = World(protocol, lame_duck, drain)
    world.served = asyncio.create_task(world.server.serve())
    while not world.server.started:
        await asyncio.sleep(0.01)
    world.server.accept()
    yield world
    world.server.hurry(0)
    await world.ended()


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio_run(story())


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_waits_to_be_told(protocol: str) -> None:
    """Before `accept` a connection waits in the backlog, and the private probe is answered already."""

    async def story() -> None:
        world = World(protocol, 1, 1)
        world.served = asyncio.create_task(world.server.serve())
        while not world.server.started:
            await asyncio.sleep(0.01)
        peer = await world.connect()
        peer.ask()
        assert await probe.ask(world.server.connect, "/", DEADLINE) == 200
        assert world.server.connections == 0
        world.server.accept()
        assert b" 200 OK" in await peer.until(b"\r\n")
        world.server.retire()
        await world.ended()

    run(story)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_retired_it_accepts_no_more(protocol: str) -> None:
    """From `retire` on, before anything else, a new connection is another process's."""

    async def story() -> None:
        async with serve(protocol) as world:
            held = await world.connect()
            held.ask("/stream")
            await held.until(b"first ")
            world.server.retire()
            with pytest.raises(OSError, match=r"."):
                await world.connect()

    run(story)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_told_to_leave_before_it_accepts(protocol: str) -> None:
    """A server that is retired before it is told to accept never does."""

    async def story() -> None:
        world = World(protocol, 1, 1)
        world.served = asyncio.create_task(world.server.serve())
        while not world.server.started:
            await asyncio.sleep(0.01)
        world.server.retire()
        world.server.accept()
        await world.ended()
        with pytest.raises(OSError, match=r"."):
            await world.connect()

    run(story)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_idle_connection_gets_a_last_answer(protocol: str) -> None:
    """An idle connection is answered once more, told that it is the last time, and closed."""

    async def story() -> None:
        async with serve(protocol) as world:
            fresh, used = await world.connect(), await world.connect()
            used.ask()
            assert b"connection: close" not in await used.until(b"last\r\n0\r\n\r\n")
            world.server.retire()
            for peer in (fresh, used):
                peer.ask()
                answer = await peer.rest()
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"connection: close\r\n" in answer
                assert answer.count(b"connection:") == 1
            assert await world.ended() == 0

    run(story)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_idle_connections_end_after_the_lame_duck_time(protocol: str) -> None:
    """A connection on which nothing comes, or half of a request, doesn't hold the server up."""

    async def story() -> None:
        async with serve(protocol, lame_duck=0.3) as world:
            fresh, used, half = [await world.connect() for _ in range(3)]
            used.ask()
            await used.until(b"last\r\n0\r\n\r\n")
            half.writer.write(b"GET / HT")
            while world.server.connections < 3:
                await asyncio.sleep(0.01)
            world.server.retire()
            assert await world.ended() == 0
            assert [await peer.rest() for peer in (fresh, used, half)] == [b"", b"", b""]

    run(story)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stream_runs_to_its_end(protocol: str) -> None:
    """A stream goes on for longer than idle connections, and its connection takes one more request after it."""

    async def story() -> None:
        async with serve(protocol) as world:
            peer = await world.connect()
            peer.ask("/stream")
            await peer.until(b"first ")
            world.server.retire()
            assert world.server.inflight == 1
            await asyncio.sleep(0.3)
            assert not world.served.done()
            world.application.finish.set()
            await peer.until(b"last\r\n0\r\n\r\n")
            assert world.server.inflight == 0
            peer.ask()
            assert b"connection: close\r\n" in await peer.rest()
            assert await world.ended() == 0

    run(story)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stream_is_cut_at_the_limit(protocol: str) -> None:
    """What runs beyond the limit is cut so that the client sees it, and counted."""

    async def story() -> None:
        async with serve(protocol, drain=0.3) as world:
            peer = await world.connect()
            peer.ask("/stream")
            await peer.until(b"first ")
            world.server.retire()
            assert not (await peer.rest()).endswith(b"0\r\n\r\n")
            assert await world.ended() == 1

    run(story)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hurry(protocol: str) -> None:
    """Asked to hurry, also in the middle of a drain, it cuts."""

    async def story() -> None:
        async with serve(protocol) as world:
            peer = await world.connect()
            peer.ask("/stream")
            await peer.until(b"first ")
            world.server.retire()
            await asyncio.sleep(0.1)
            world.server.hurry(0)
            assert await world.ended() == 1

    run(story)


def test_probe_without_an_answer() -> None:
    """A server that doesn't answer, or answers nonsense, gives None after the time-out and not an exception."""

    async def story() -> None:
        async def deaf(connection: socket.socket) -> None:
            kept.append(connection)

        async def closing(connection: socket.socket) -> None:
            connection.close()

        async def babbling(connection: socket.socket) -> None:
            connection.send(b"hello\r\n")
            connection.close()

        kept: list[socket.socket] = []
        ways: tuple[Callable[[socket.socket], Awaitable[None]], ...] = (deaf, closing, babbling)
        assert [await probe.ask(way, "/", 0.1) for way in ways] == [None, None, None]
        kept[0].close()

    run(story)
