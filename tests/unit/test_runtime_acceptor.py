"""How connections are distributed over the workers."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from litellm_systemd.runtime.worker import acceptor
from litellm_systemd.runtime.worker.acceptor import Acceptor, ConnectionCounts

DEADLINE = 30.0


class Worker:
    """A worker that keeps the connections that it accepts."""

    def __init__(self, listener: socket.socket, counts: ConnectionCounts, seat: int = 0) -> None:
        self.connections: list[socket.socket] = []
        self.acceptor = Acceptor(listener, self._keep, lambda: len(self.connections), counts, seat)

    async def _keep(self, connection: socket.socket) -> None:
        self.connections.append(connection)


async def _until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(wait(), DEADLINE)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        yield listener


async def test_simultaneous_clients_are_distributed(listener: socket.socket) -> None:
    """If sixteen clients connect together, all are accepted, and each of two workers accepts at least five."""
    counts = ConnectionCounts(2)
    workers = Worker(listener, counts), Worker(listener.dup(), counts, 1)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(16)]
    await _until(lambda: sum(len(worker.connections) for worker in workers) == len(clients))
    assert min(len(worker.connections) for worker in workers) >= 5


async def test_a_single_worker_accepts_at_once(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """A worker without others accepts simultaneous clients without a pause, more of them than in one batch."""
    monkeypatch.setattr(acceptor, "_PAUSE", DEADLINE)
    worker = Worker(listener, ConnectionCounts(4))
    clients = [socket.create_connection(listener.getsockname()) for _ in range(40)]
    await _until(lambda: len(worker.connections) == len(clients))


async def test_the_worker_with_fewest_connections_accepts_at_once(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    """With thousands of open connections the worker with the fewest accepts without a pause."""
    monkeypatch.setattr(acceptor, "_PAUSE", DEADLINE)
    counts = ConnectionCounts(3)
    counts.set(1, 3000)
    worker = Worker(listener, counts)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(40)]
    await _until(lambda: len(worker.connections) == len(clients))


async def test_workers_do_not_take_turns_with_many_connections(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    """A worker with a few more of many connections accepts without a pause, one with many more does not."""
    monkeypatch.setattr(acceptor, "_PAUSE", DEADLINE)
    counts = ConnectionCounts(2)
    counts.set(1, 160)
    worker = Worker(listener, counts)
    worker.connections = [listener] * 165
    clients = [socket.create_connection(listener.getsockname()) for _ in range(40)]
    await _until(lambda: len(worker.connections) > 180)
    await asyncio.sleep(0.1)
    assert len(worker.connections) == 181
    assert len(clients) == 40


async def test_a_closed_connection_is_not_served(listener: socket.socket) -> None:
    """A connection that its client has reset, or closed without a request, never reaches the server."""
    for linger in (False, True):
        with socket.create_connection(listener.getsockname()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
    worker = Worker(listener, ConnectionCounts(1))
    client = socket.create_connection(listener.getsockname())
    await _until(lambda: bool(worker.connections))
    assert [each.getpeername() for each in worker.connections] == [client.getsockname()]


async def test_idle_worker_accepts_first(listener: socket.socket) -> None:
    """A new client gets the worker without connections, not the one that has eight."""
    counts = ConnectionCounts(2)
    busy = Worker(listener, counts)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(8)]
    await _until(lambda: len(busy.connections) == len(clients))
    idle = Worker(listener.dup(), counts, 1)
    clients.append(socket.create_connection(listener.getsockname()))
    await _until(lambda: len(idle.connections) == 1)
    assert len(busy.connections) == 8


async def test_a_hung_worker_is_not_awaited(listener: socket.socket) -> None:
    """If the worker with the fewest connections hangs, another one accepts, and soon many at a time."""
    counts = ConnectionCounts(2)
    counts.set(1, 0)
    worker = Worker(listener, counts)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(60)]
    sizes = [0]

    def is_complete() -> bool:
        sizes.append(len(worker.connections))
        return sizes[-1] == len(clients)

    await _until(is_complete)
    assert max(after - before for before, after in itertools.pairwise(sizes)) >= 8


def test_seats() -> None:
    """Each worker has a seat of its own; workers beyond the last seat share that one."""
    counts = ConnectionCounts(3)
    assert [counts.find_seat(taken) for taken in ((), (0,), (1, 0), (0, 1, 2), (1, 2))] == [0, 1, 2, 2, 0]


class FailingSocket(socket.socket):
    """A socket whose first accept fails because the process has no descriptor left."""

    fails = True

    def accept(self) -> tuple[socket.socket, Any]:
        if self.fails:
            self.fails = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.mark.slow
async def test_accept_error(caplog: pytest.LogCaptureFixture, listener: socket.socket) -> None:
    """An accept that fails for lack of descriptors is logged, and the connection is accepted later."""
    with caplog.at_level(logging.ERROR), FailingSocket(fileno=listener.dup().detach()) as failing:
        failing.setblocking(False)
        worker = Worker(failing, ConnectionCounts(1))
        client = socket.create_connection(listener.getsockname())
        await _until(lambda: len(worker.connections) == 1)
        worker.acceptor.close()
        client.close()
    assert "cannot accept a connection: Too many open files" in caplog.text


@pytest.mark.slow
async def test_closed_acceptor(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """A closed acceptor accepts no connection, not even one that it left to others first."""
    delay = 1.0  # long enough for the next lines on a busy machine
    monkeypatch.setattr(acceptor, "_PAUSE", delay)
    counts = ConnectionCounts(2)
    counts.set(1, 1)
    closed = Worker(listener.dup(), counts)
    first = socket.create_connection(listener.getsockname())
    await _until(lambda: len(closed.connections) == 1)
    counts.set(1, 0)
    second = socket.create_connection(listener.getsockname())
    await asyncio.sleep(0.1)
    closed.acceptor.close()
    await asyncio.sleep(1.5 * delay)
    other = Worker(listener, counts, 1)
    await _until(lambda: len(other.connections) == 1)
    assert len(closed.connections) == 1
    first.close()
    second.close()


async def test_clients_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that connect again and again do not keep a worker from closing its port."""

    class Crowd(socket.socket):
        """A listener at which a client always waits, which leaves at once."""

        accepted = 0

        def accept(self) -> tuple[socket.socket, Any]:
            self.accepted += 1
            assert self.accepted < 10_000
            left, right = socket.socketpair()
            right.close()
            return left, ""

    monkeypatch.setattr(socket, "SOMAXCONN", 64)
    with Crowd() as crowd:
        Worker(crowd, ConnectionCounts(1)).acceptor.close(takes_waiting=True)
        assert crowd.accepted == 64
