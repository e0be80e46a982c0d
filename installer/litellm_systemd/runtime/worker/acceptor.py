"""Takes connections from a socket that other workers take from, too: a fair share of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

_LOGGER = logging.getLogger(__name__)
#: A worker waits so many seconds for each connection that it has, before it takes one more; and so many at most.
_PATIENCE = 0.001
_MOST = 0.005
#: Seconds until another attempt, when there is no room for a connection (EMFILE, ENOBUFS and the like).
_RELIEF = 1.0


class Acceptor:
    """Takes connections one at a time, and the later the more it holds: who holds fewer comes first.

    An event loop's own server takes all that wait at once (uv__server_io in libuv, asyncio's backlog loop). Of
    clients that connect together, the worker that wakes first would get nearly all, and they stay with it: their
    requests then wait for each other while another worker idles. `count` says how many connections there are,
    `connect` serves one.
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
        self._pause: asyncio.TimerHandle | None = None
        self._coming: set[asyncio.Task[None]] = set()
        self._loop.add_reader(listener, self._wait)

    def close(self) -> None:
        """Take no more."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()

    def _wait(self) -> None:
        held = self._count() + len(self._coming)
        if held:
            self._resume_in(min(held * _PATIENCE, _MOST), self._take)
        else:
            self._take()

    def _resume_in(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, self._resume, then)

    def _resume(self, then: Callable[[], None]) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._wait)
        then()

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was first, or the client has left
        except OSError as error:
            _LOGGER.error("no connection can be accepted: %s", error.strerror)
            self._resume_in(_RELIEF, lambda: None)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has left meanwhile
            await self._connect(connection)
