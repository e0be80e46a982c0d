"""The limits of the number of connections, in a running server."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from typing import Any

import pytest
import trustme

from litellm_systemd.env.tls import load_pair
from litellm_systemd.runtime.channel import CONNECTION, Refusals
from litellm_systemd.runtime.http.authentication import AuthenticationGate, Refusal
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.http.refuse import RefusalCounter
from tests.certificates import issue_pair
from tests.unit.running_server import LARGE, Peer, World, authenticate, serve

AUTHORITY = trustme.CA()
TLS = load_pair(issue_pair(AUTHORITY, "127.0.0.1")).context
TRUST = ssl.create_default_context()
AUTHORITY.configure_trust(TRUST)


async def connect(world: World, number: int = 1) -> list[Peer]:
    """Open connections, and wait until the server has accepted each of them."""
    peers = []
    for _ in range(number):
        before = world.server.connections
        peers.append(await world.connect())
        while world.server.connections == before and not world.counter._counts:
            await asyncio.sleep(0.001)
    return peers


async def is_closed(peer: Peer) -> bool:
    """Whether the server has closed the connection, after what it has done so far."""
    try:
        return await asyncio.wait_for(peer.reader.read(), 0.05) == b""
    except asyncio.TimeoutError:
        return False


async def answer(peer: Peer, *headers: str) -> bytes:
    peer.request("/", *headers)
    return await peer.read_until(b"last\r\n0\r\n\r\n")


async def test_oldest_connection_without_the_key_is_closed() -> None:
    """Above the limit a new client is served, and the oldest connection closed that has not sent the right key.

    Connections with the key, and those whose response is being sent, stay open.
    """
    async with serve(limits=Limits(connections=5), wrap=authenticate) as world:
        keyed, streaming, silent, half, wrong = await connect(world, 5)
        await answer(keyed, "key: right")
        streaming.request("/stream")
        await streaming.read_until(b"first ")
        half.writer.write(b"GET / HT")
        await answer(wrong)
        (new,) = await connect(world)
        assert await answer(new)
        assert [await is_closed(each) for each in (keyed, streaming, silent, half, wrong, new)] == [
            *(False, False, True, False, False, False)
        ]
        for closed in (half, wrong):
            (new,) = await connect(world)
            assert await answer(new, "key: right")
            assert await is_closed(closed)
        assert await answer(keyed, "key: right")
        world.application.finish.set()
        await streaming.read_until(b"last\r\n0\r\n\r\n")
        reason = {"above MAX_CONNECTIONS": 3}
        assert world.counter.take() == (Refusals(CONNECTION, reason, {"127.0.0.1": 3}),)


async def test_no_client_with_the_key_is_refused() -> None:
    """If all connections have sent the right key, a further one is served too."""
    async with serve(limits=Limits(connections=3), wrap=authenticate) as world:
        peers = []
        for _ in range(6):
            peers += await connect(world)
            await answer(peers[-1], "key: right")
        assert [await is_closed(each) for each in peers] == [False] * 6


async def test_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process may open few files, silent clients take half of them at most."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (6, 6))
    async with serve() as world:
        first, *others = await connect(world, 4)
        assert [await is_closed(each) for each in (first, *others)] == [True, False, False, False]


async def test_limit_of_an_address() -> None:
    """The connections of one address are limited, unless they have sent the right key or many clients share it."""
    limits = Limits(connections_per_address=3)
    async with serve(limits=limits, wrap=authenticate, trusts_loopback=False) as world:
        team = await connect(world, 3)
        for each in team:
            await answer(each, "key: right")
        attacker = await connect(world, 5)
        team += await connect(world)
        await answer(team[-1], "key: right")
        closed = [await is_closed(each) for each in (*team, *attacker)]
        assert closed == [*(False,) * 4, *(True,) * 3, *(False,) * 2]
        assert world.counter.take()[0].reasons == {"above MAX_CONNECTIONS_PER_ADDRESS": 3}
    async with serve(limits=limits) as world:
        assert not any([await is_closed(each) for each in await connect(world, 8)])


@pytest.mark.parametrize("limits", [Limits(connections=2), Limits(connections_per_address=1)])
async def test_tls_client_at_the_limit(limits: Limits) -> None:
    """With HTTPS a client with the key gets in, although all connections that the limit allows are taken."""
    async with serve(limits=limits, wrap=authenticate, trusts_loopback=False, tls=TLS) as world:
        peers = []
        for _ in range(5):
            peers.append(await world.connect(ssl=TRUST))
            assert b"200 OK" in await answer(peers[-1], "key: right")
        assert [await is_closed(each) for each in peers] == [False] * 5


async def test_end_of_a_tls_handshake_closes_no_other_connection() -> None:
    """A connection counts once: when its handshake is complete, no other connection is closed for it."""
    limits = Limits(connections=2, connections_per_address=2)
    async with serve(limits=limits, wrap=authenticate, trusts_loopback=False, tls=TLS) as world:
        early = socket.create_connection(world.address)
        early.setblocking(False)
        await asyncio.sleep(0.1)
        late = await world.connect(ssl=TRUST)
        await answer(late)
        peer = Peer(*await asyncio.open_connection(sock=early, ssl=TRUST, server_hostname="127.0.0.1"))
        await answer(peer)
        assert [await is_closed(each) for each in (late, peer)] == [False, False]
        assert not world.counter.take()


@pytest.mark.parametrize(("path", "tls"), [("/large", None), ("/long", None), ("/long", TLS)])
async def test_client_that_reads_no_response(path: str, tls: ssl.SSLContext | None) -> None:
    """A connection whose client does not read closes for others: the server keeps no more of them than the limit."""
    async with serve(limits=Limits(connections=2), wrap=authenticate, tls=tls) as world:
        trust = TRUST if tls else None
        _unread = await world.request_unread(path, ssl=trust)
        keyed = await world.request_unread(path, "key: right", ssl=trust)
        world.pass_time(4)
        assert world.server.connections == 2
        world.pass_time(4)
        new = await world.connect(ssl=trust)
        assert await answer(new)
        assert world.server.connections == 2
        assert world.counter.take()[0].reasons == {"above MAX_CONNECTIONS": 1}
        keyed.transport.resume_reading()
        assert (await keyed.read_until(b"\r\n0\r\n\r\n")).count(b"x") == LARGE


@pytest.mark.parametrize("headers", [(), ("Connection: close",)])
@pytest.mark.parametrize("path", ["/large", "/long"])
async def test_time_to_read_a_response(path: str, headers: tuple[str, ...]) -> None:
    """A client without the key has a minute to go on reading its response, one with the key any time."""
    async with serve(wrap=authenticate) as world:
        _unread = await world.request_unread(path, *headers)
        keyed = await world.request_unread(path, "key: right", *headers)
        world.pass_time(55)
        await asyncio.sleep(0.05)
        assert world.server.connections == 2
        world.pass_time(10_000)
        await asyncio.sleep(0.05)
        assert world.server.connections == 1
        assert world.counter.take()[0].reasons == {"that read no responses": 1}
        keyed.transport.resume_reading()
        assert (await keyed.read_until(b"\r\n0\r\n\r\n")).count(b"x") == LARGE


async def test_pipelined_requests_whose_client_reads_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The end of a connection with several requests is no error in the log."""
    async with serve() as world:
        peer = await world.request_unread("/long")
        peer.request()
        await asyncio.sleep(0.1)
        world.pass_time(65)
        await asyncio.sleep(0.1)
        assert world.server.connections == 0
    assert not [each for each in caplog.records if each.levelname in {"WARNING", "ERROR"}]


@pytest.mark.parametrize("pipelined", [1, 2])
async def test_delayed_refusals_make_room(pipelined: int) -> None:
    """Connections that wait for the delayed refusal of a guessed key are closed before those of other clients."""

    def guard(application: Any) -> Any:
        return AuthenticationGate(application, find_refusal, RefusalCounter(), body_limit=0)

    async def find_refusal(scope: Any) -> Refusal | None:
        keys = [value for name, value in scope["headers"] if name == b"key"]
        return Refusal("wrong", has_key=True, key=hash(keys[0])) if keys and keys[0] != b"right" else None

    async with serve(limits=Limits(connections=5), wrap=guard) as world:
        guesses = await connect(world, 5)
        for number, each in enumerate(guesses * 2):
            each.request("/", f"key: {number}")
            await each.read_until(b'"}}')
        for number, each in enumerate(guesses * pipelined):
            each.request("/", f"key: later {number}")
        await asyncio.sleep(0.1)
        early, late = await connect(world, 2)
        assert b"200 OK" in await answer(early, "key: right")
        assert b"200 OK" in await answer(late, "key: right")


async def test_drain_closes_what_is_slow() -> None:
    """The limits do not delay a drain: silent and incomplete connections end with it."""
    async with serve(lame_duck=0.2) as world:
        _silent, half, refused = await connect(world, 3)
        half.writer.write(b"GET / HT")
        refused.writer.write(b"nonsense\r\n\r\n")
        assert b" 400 " in await refused.read_until(b"\r\n")
        world.server.start_drain()
        assert await world.wait_closed() == 0
