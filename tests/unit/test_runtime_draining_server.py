"""The drain of a worker's server: no request is lost, and it ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable

import pytest
import trustme

from litellm_systemd.env.tls import load_pair
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.worker.draining_server import get_status
from tests.certificates import issue_pair
from tests.unit.running_server import DEADLINE, LARGE, Peer, World, authenticate, serve

AUTHORITY = trustme.CA()
TLS = load_pair(issue_pair(AUTHORITY, "127.0.0.1")).context
TRUST = ssl.create_default_context()
AUTHORITY.configure_trust(TRUST)


@pytest.mark.slow
async def test_start_accepting() -> None:
    """Before `start_accepting` a connection waits in the backlog, and the health check is answered."""
    world = World(1, 1)
    await world.start()
    peer = await world.connect()
    peer.request()
    assert await get_status(world.server.connect, "/", DEADLINE) == 200
    assert world.server.connections == 0
    world.server.start_accepting()
    assert b" 200 OK" in await peer.read_until(b"\r\n")
    world.server.start_drain()
    await world.wait_closed()


async def test_drain_stops_accepting() -> None:
    """A draining server accepts no new connection."""
    async with serve() as world:
        peer = await world.connect()
        peer.request("/stream")
        await peer.read_until(b"first ")
        world.server.start_drain()
        with pytest.raises(OSError, match=r"."):
            await world.connect()


async def test_drain_is_reported_before_the_shutdown() -> None:
    """The end of a drain is reported before the shutdown of LiteLLM, which may hang."""
    async with serve() as world:
        pass
    assert world.application.events == ["lifespan.startup", "drained", "lifespan.shutdown"]


async def test_drain_before_accepting() -> None:
    """A server that drains before `start_accepting` never accepts a connection."""
    world = World(1, 1)
    await world.start()
    world.server.start_drain()
    world.server.start_accepting()
    await world.wait_closed()
    with pytest.raises(OSError, match=r"."):
        await world.connect()


async def test_last_response_of_idle_connection() -> None:
    """During a drain an idle connection gets one more response, with `Connection: close`, and is closed."""
    async with serve() as world:
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


async def test_clients_of_a_leaving_instance() -> None:
    """Before the drain of a leaving instance, clients get `Connection: close` and may connect again."""
    async with serve() as world:
        used, streaming = await world.connect(), await world.connect()
        used.request()
        assert b"connection: close" not in await used.read_until(b"last\r\n0\r\n\r\n")
        streaming.request("/stream")
        await streaming.read_until(b"first ")
        world.leaving.set()
        await world.server.on_tick(0)
        for peer in (used, await world.connect()):
            peer.request()
            assert (await peer.read_rest()).count(b"connection: close\r\n") == 1
        world.application.finish.set()
        assert b"last" in await streaming.read_until(b"0\r\n\r\n")
        world.server.start_drain()
        assert await world.wait_closed() == 0


async def test_waiting_connections_of_a_leaving_instance() -> None:
    """A client that connects just before the port of a leaving instance closes gets its response."""
    async with serve() as world:
        waiting = [socket.create_connection(world.address) for _ in range(40)]
        world.leaving.set()
        world.server.start_drain()
        for each in waiting:
            each.setblocking(False)
            peer = Peer(*await asyncio.open_connection(sock=each))
            peer.request()
            assert (await peer.read_rest()).startswith(b"HTTP/1.1 200")
        assert await world.wait_closed() == 0


async def test_handshake_during_drain() -> None:
    """A client that was in its TLS handshake when the drain began still gets its response."""
    async with serve(tls=TLS) as world:
        plain = await connect_plainly(world)
        world.server.start_drain()
        await asyncio.sleep(0.3)
        assert not world.served.done()
        peer = Peer(*await asyncio.open_connection(sock=plain, ssl=TRUST, server_hostname="127.0.0.1"))
        peer.request()
        assert b"connection: close\r\n" in await peer.read_rest()
        assert await world.wait_closed() == 0


async def test_handshakes_count_as_connections() -> None:
    """Clients in their TLS handshake count for the limit of connections: the oldest one is disconnected."""
    async with serve(tls=TLS, limits=Limits(connections=2), trusts_loopback=False) as world:
        loop = asyncio.get_running_loop()
        oldest, *others = [await connect_plainly(world) for _ in range(3)]
        # Long before the timeout of a handshake.
        assert await asyncio.wait_for(loop.sock_recv(oldest, 1), 5) == b""
        peer = Peer(*await asyncio.open_connection(sock=others[1], ssl=TRUST, server_hostname="127.0.0.1"))
        peer.request()
        await peer.read_until(b"last\r\n0\r\n\r\n")
        others[0].close()


async def connect_plainly(world: World) -> socket.socket:
    """A connection that the server has accepted, and on which the client has not begun the handshake."""
    plain = socket.create_connection(world.address)
    plain.setblocking(False)
    await asyncio.sleep(0.1)
    assert world.server._acceptors[0].is_connecting
    return plain


async def test_idle_connections_close_after_lame_duck_timeout() -> None:
    """Connections without a complete request do not delay a drain beyond LAME_DUCK_TIMEOUT."""
    async with serve(lame_duck=0.3) as world:
        fresh, used, half = [await world.connect() for _ in range(3)]
        used.request()
        await used.read_until(b"last\r\n0\r\n\r\n")
        half.writer.write(b"GET / HT")
        while world.server.connections < 3:
            await asyncio.sleep(0.01)
        world.server.start_drain()
        assert await world.wait_closed() == 0
        assert [await peer.read_rest() for peer in (fresh, used, half)] == [b"", b"", b""]


async def test_stream_survives_a_pause_during_a_drain() -> None:
    """The drain timeout does not count a pause of the process."""
    async with serve(drain=1.0) as world:
        peer = await world.connect()
        peer.request("/stream")
        await peer.read_until(b"first ")
        world.server.start_drain()
        await asyncio.sleep(0.2)
        time.sleep(1.5)  # nothing of this process runs
        await asyncio.sleep(0.2)
        world.application.finish.set()
        assert (await peer.read_rest()).endswith(b"last\r\n0\r\n\r\n")
        assert await world.wait_closed() == 0


async def test_unused_connection_has_its_time_in_a_drain() -> None:
    """A connection that a client has opened long before its first request can still send it during a drain."""
    async with serve(lame_duck=1.0) as world:
        peers = [await world.connect() for _ in range(2)]
        while world.server.connections < 2:
            await asyncio.sleep(0.01)
        world.pass_time(60)
        world.server.start_drain()
        await asyncio.sleep(0.5)
        peers[0].request()
        assert b"connection: close\r\n" in await peers[0].read_rest()
        assert await world.wait_closed() == 0
        assert not world.counter.take()


async def test_stream_completes() -> None:
    """A stream completes during a drain, and its connection accepts one more request after it."""
    async with serve() as world:
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


async def test_stream_is_cut_at_drain_timeout() -> None:
    """A stream that exceeds the drain timeout is counted and ends incomplete, so that the client detects it."""
    async with serve(drain=0.3) as world:
        peer = await world.connect()
        peer.request("/stream")
        await peer.read_until(b"first ")
        world.server.start_drain()
        assert not (await peer.read_rest()).endswith(b"0\r\n\r\n")
        assert await world.wait_closed() == 1


@pytest.mark.parametrize("path", ["/large", "/long"])
async def test_client_that_reads_no_response_does_not_delay_a_drain(path: str) -> None:
    """A drain does not wait for a client without the key that reads nothing, and a minute for one with the key."""
    async with serve(lame_duck=0.1, wrap=authenticate) as world:
        _peers = [await world.request_unread(path, key) for key in ("key: wrong", "key: right")]
        world.server.start_drain()
        world.pass_time(8)
        await asyncio.sleep(0.5)
        assert world.server.connections == 1
        assert not world.served.done()
        world.pass_time(60)
        assert await world.wait_closed() == 0
        assert world.server.drain_seconds < 5


@pytest.mark.parametrize("key", ["right", "wrong"])
async def test_drain_waits_until_the_response_is_read(key: str) -> None:
    """A client that reads its response slowly gets all of it during a drain."""
    async with serve(lame_duck=0.3, wrap=authenticate) as world:
        peer = await world.connect()
        peer.request()
        await peer.read_until(b"last\r\n0\r\n\r\n")
        world.server.start_drain()
        peer.transport.pause_reading()
        peer.request("/large", f"key: {key}")
        await asyncio.sleep(0.8)
        assert not world.served.done()
        peer.transport.resume_reading()
        assert (await peer.read_rest()).count(b"x") == LARGE
        assert await world.wait_closed() == 0


async def test_force_close_during_drain() -> None:
    """A force-close during a drain ends the in-flight requests at once."""
    async with serve() as world:
        peer = await world.connect()
        peer.request("/stream")
        await peer.read_until(b"first ")
        world.server.start_drain()
        await asyncio.sleep(0.1)
        world.server.force_close(0)
        assert await world.wait_closed() == 1


async def test_health_check_without_an_answer() -> None:
    """The health check returns None for a server that does not answer, closes the connection or is no HTTP server."""

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
