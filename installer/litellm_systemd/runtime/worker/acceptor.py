"""Accepts connections from a socket that several workers share, so that each worker gets a fair part of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

_LOGGER = logging.getLogger(__name__)
#: Before a worker accepts a connection it waits this many seconds per open connection, up to the maximum.
_DELAY_PER_CONNECTION = 0.001
_MAX_DELAY = 0.005
#: Seconds before the next accept after an error such as EMFILE or ENOBUFS.
_RETRY_DELAY = 1.0


class Acceptor:
    """Accepts one connection at a time, and later the more connections are open: idle workers come first.

    The server of an event loop accepts all waiting connections at once (uv__server_io in libuv, the backlog loop in
    asyncio). If many clients connect together, the worker that wakes first would accept nearly all of them, and they
    stay with it: their requests would wait for each other while another worker is idle.

    `count` returns the number of open connections, `connect` serves one connection.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[socket.socket], Coroutine[Any, Any, None]],
        count: Callable[[], int],
    ) -> None:
        self._listener = listener
        self._connect = connect
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop.add_reader(listener, self._on_readable)

    def close(self) -> None:
        """Stop accepting."""
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    def _on_readable(self) -> None:
        open_connections = self._count() + len(self._connecting)
        if open_connections:
            self._resume_in(min(open_connections * _DELAY_PER_CONNECTION, _MAX_DELAY), self._accept)
        else:
            self._accept()

    def _resume_in(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._resume, then)

    def _resume(self, then: Callable[[], None]) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._on_readable)
        then()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker has accepted it, or the client has disconnected
        except OSError as error:
            _LOGGER.error("cannot accept a connection: %s", error.strerror)
            self._resume_in(_RETRY_DELAY, lambda: None)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has disconnected
            await self._connect(connection)
