"""Connections are shared out: see `Acceptor`."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from litellm_systemd.runtime.worker import acceptor
from litellm_systemd.runtime.worker.acceptor import Acceptor
from litellm_systemd.runtime.worker.worker import asyncio_run

DEADLINE = 30.0


class Worker:
    """One of several that take from a socket. It keeps what it gets."""

    def __init__(self, listener: socket.socket) -> None:
        self.connections: list[socket.socket] = []
        self.acceptor = Acceptor(listener, self._keep, lambda: len(self.connections))

    async def _keep(self, connection: socket.socket) -> None:
        self.connections.append(connection)


async def _until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(wait(), DEADLINE)


def _run(story: Callable[[socket.socket], Coroutine[Any, Any, None]]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        asyncio_run(story(listener))


def test_clients_that_come_at_once_are_shared_out() -> None:
    """Of sixteen clients that connect together, each of two workers gets its share, and none waits for ever."""

    async def story(listener: socket.socket) -> None:
        workers = Worker(listener), Worker(listener.dup())
        clients = [socket.create_connection(listener.getsockname()) for _ in range(16)]
        await _until(lambda: sum(len(worker.connections) for worker in workers) == len(clients))
        assert min(len(worker.connections) for worker in workers) >= 5

    _run(story)


def test_who_has_less_comes_first() -> None:
    """A new client goes to the worker that has no other, though the one with eight was asked first."""

    async def story(listener: socket.socket) -> None:
        busy = Worker(listener)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(8)]
        await _until(lambda: len(busy.connections) == len(clients))
        idle = Worker(listener.dup())
        clients.append(socket.create_connection(listener.getsockname()))
        await _until(lambda: len(idle.connections) == 1)
        assert len(busy.connections) == 8

    _run(story)


class Full(socket.socket):
    """A socket of a process that had no descriptor left, once."""

    full = True

    def accept(self) -> tuple[socket.socket, Any]:
        if self.full:
            self.full = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.mark.slow
def test_no_room_for_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Without a descriptor left it says so, and takes the connection when there is room again."""

    async def story(listener: socket.socket) -> None:
        with Full(fileno=listener.dup().detach()) as full:
            full.setblocking(False)
            worker = Worker(full)
            client = socket.create_connection(listener.getsockname())
            await _until(lambda: len(worker.connections) == 1)
            worker.acceptor.close()
            client.close()

    with caplog.at_level(logging.ERROR):
        _run(story)
    assert "no connection can be accepted: Too many open files" in caplog.text


@pytest.mark.slow
def test_closed_it_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `close` a connection is left to others, even one that it was about to take."""
    pause = 1.0  # long enough for the next lines, on a busy machine too
    monkeypatch.setattr(acceptor, "_PATIENCE", pause)
    monkeypatch.setattr(acceptor, "_MOST", pause)

    async def story(listener: socket.socket) -> None:
        leaving = Worker(listener.dup())
        first = socket.create_connection(listener.getsockname())
        await _until(lambda: len(leaving.connections) == 1)
        second = socket.create_connection(listener.getsockname())
        await asyncio.sleep(0)
        leaving.acceptor.close()
        await asyncio.sleep(1.5 * pause)
        staying = Worker(listener)
        await _until(lambda: len(staying.connections) == 1)
        assert len(leaving.connections) == 1
        first.close()
        second.close()

    _run(story)
