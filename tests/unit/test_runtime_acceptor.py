"""How connections are distributed over the workers."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from litellm_systemd.runtime.worker import draining_server
from litellm_systemd.runtime.worker.draining_server import Acceptor
from litellm_systemd.runtime.worker.worker import asyncio_run

DEADLINE = 30.0


class Worker:
    """A worker that keeps the connections that it accepts."""

    def __init__(self, listener: socket.socket, *, alone: bool = False) -> None:
        self.connections: list[socket.socket] = []
        self.acceptor = Acceptor(listener, self._keep, lambda: len(self.connections), alone=alone)

    async def _keep(self, connection: socket.socket) -> None:
        self.connections.append(connection)


async def _until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(wait(), DEADLINE)


def _run(scenario: Callable[[socket.socket], Coroutine[Any, Any, None]]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        asyncio_run(scenario(listener))


def test_simultaneous_clients_are_distributed() -> None:
    """If sixteen clients connect together, all are accepted, and each of two workers accepts at least five."""

    async def scenario(listener: socket.socket) -> None:
        workers = Worker(listener), Worker(listener.dup())
        clients = [socket.create_connection(listener.getsockname()) for _ in range(16)]
        await _until(lambda: sum(len(worker.connections) for worker in workers) == len(clients))
        assert min(len(worker.connections) for worker in workers) >= 5

    _run(scenario)


def test_a_single_worker_accepts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without others accepts simultaneous clients without a delay."""
    monkeypatch.setattr(draining_server, "_DELAY_PER_CONNECTION", DEADLINE)
    monkeypatch.setattr(draining_server, "_MAX_DELAY", DEADLINE)

    async def scenario(listener: socket.socket) -> None:
        worker = Worker(listener, alone=True)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(16)]
        await _until(lambda: len(worker.connections) == len(clients))

    _run(scenario)


def test_idle_worker_accepts_first() -> None:
    """A new client gets the worker without connections, not the one that has eight."""

    async def scenario(listener: socket.socket) -> None:
        busy = Worker(listener)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(8)]
        await _until(lambda: len(busy.connections) == len(clients))
        idle = Worker(listener.dup())
        clients.append(socket.create_connection(listener.getsockname()))
        await _until(lambda: len(idle.connections) == 1)
        assert len(busy.connections) == 8

    _run(scenario)


class FailingSocket(socket.socket):
    """A socket whose first accept fails because the process has no descriptor left."""

    fails = True

    def accept(self) -> tuple[socket.socket, Any]:
        if self.fails:
            self.fails = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.mark.slow
def test_accept_error(caplog: pytest.LogCaptureFixture) -> None:
    """An accept that fails for lack of descriptors is logged, and the connection is accepted later."""

    async def scenario(listener: socket.socket) -> None:
        with FailingSocket(fileno=listener.dup().detach()) as failing:
            failing.setblocking(False)
            worker = Worker(failing)
            client = socket.create_connection(listener.getsockname())
            await _until(lambda: len(worker.connections) == 1)
            worker.acceptor.close()
            client.close()

    with caplog.at_level(logging.ERROR):
        _run(scenario)
    assert "cannot accept a connection: Too many open files" in caplog.text


@pytest.mark.slow
def test_closed_acceptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed acceptor accepts no connection, not even one that was waiting for its delay."""
    delay = 1.0  # long enough for the next lines on a busy machine
    monkeypatch.setattr(draining_server, "_DELAY_PER_CONNECTION", delay)
    monkeypatch.setattr(draining_server, "_MAX_DELAY", delay)

    async def scenario(listener: socket.socket) -> None:
        closed = Worker(listener.dup())
        first = socket.create_connection(listener.getsockname())
        await _until(lambda: len(closed.connections) == 1)
        second = socket.create_connection(listener.getsockname())
        await asyncio.sleep(0)
        closed.acceptor.close()
        await asyncio.sleep(1.5 * delay)
        other = Worker(listener)
        await _until(lambda: len(other.connections) == 1)
        assert len(closed.connections) == 1
        first.close()
        second.close()

    _run(scenario)
