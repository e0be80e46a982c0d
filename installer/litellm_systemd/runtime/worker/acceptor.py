"""How the workers share the connections of a listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import socket
from collections.abc import Callable, Collection, Coroutine
from typing import Any

_LOGGER = logging.getLogger(__name__)
#: Seconds for which a worker leaves the waiting connections to a worker with fewer, and how often in a row it does so
#: while the others neither accept nor close connections: they may be busy, or hang.
_PAUSE, _PAUSES = 0.001, 5
#: A worker accepts this many connections for each further pause: one at first, since the others may only be busy.
_BURSTS = (1, 1, 1, 1, 2, 4, 8, 16)
#: Of this many connections a worker may have one more than the others. Without it two workers would take turns: with
#: the pause after each connection, a thousand that arrive at once would take half a second.
_TOLERANCE = 8
#: Connections that a worker accepts before it handles other events.
_BATCH = 16
#: Seconds before the next accept after an error such as EMFILE or ENOBUFS.
_RETRY_DELAY = 1.0


class ConnectionCounts:
    """The number of open connections of each worker, in memory that the main process shares with its workers.

    Each worker has a seat, which the main process assigns. Only its worker writes it; the main process clears it when
    the worker has exited. A wrong count would cost balance and nothing else.
    """

    #: The count of a seat whose worker accepts no connections: above each other one.
    _VACANT = 2**31 - 1

    def __init__(self, seats: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * seats)).cast("i")
        for seat in range(seats):
            self.clear(seat)

    def find_seat(self, taken: Collection[int]) -> int:
        """A seat that is not taken; if there are more workers than seats, the last one."""
        return next((seat for seat in range(len(self._counts) - 1) if seat not in taken), len(self._counts) - 1)

    def set(self, seat: int, count: int) -> None:
        """Publish the count of a worker."""
        self._counts[seat] = count

    def clear(self, seat: int) -> None:
        """The worker accepts no connections any more."""
        self._counts[seat] = self._VACANT

    def least(self) -> int:
        """The smallest count of all workers that accept connections."""
        return min(self._counts)

    def others(self, seat: int) -> tuple[int, ...]:
        return (*self._counts[:seat], *self._counts[seat + 1 :])


class Acceptor:
    """Accepts connections while no other worker has fewer of them.

    The server of an event loop accepts all waiting connections at once (uv__server_io in libuv, the backlog loop in
    asyncio). If many clients connect together, the worker that wakes first would accept nearly all of them, and they
    stay with it: their requests would wait for each other while another worker is idle. Open connections are counted
    and not requests, because a request arrives only after its connection is accepted.

    `connect` serves one connection; it returns when a TLS handshake is complete. `count` returns the number of open
    connections.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[socket.socket], Coroutine[Any, Any, None]],
        count: Callable[[], int],
        counts: ConnectionCounts,
        seat: int,
    ) -> None:
        self._listener = listener
        self._connect = connect
        self._count = count
        self._counts = counts
        self._seat = seat
        self._others: tuple[int, ...] = ()
        #: The pauses, and the bursts after them, since the counts of the other workers changed last.
        self._pauses = self._bursts = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self.publish()
        self._loop.add_reader(listener, self._on_readable)

    @property
    def is_connecting(self) -> bool:
        """Whether an accepted connection is not open yet: its TLS handshake is in progress."""
        return bool(self._connecting)

    def close(self, *, takes_waiting: bool = False) -> None:
        """Stop accepting, with `takes_waiting` after the connections that wait, so that they are not reset."""
        # Not for as long as there are any: clients that connect without end would block the drain.
        for _ in range(socket.SOMAXCONN if takes_waiting else 0):
            if not self._accept():
                break
        self._counts.clear(self._seat)
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    def publish(self) -> bool:
        """Publish the number of open connections. Returns whether no other worker has clearly fewer."""
        count = self._count() + len(self._connecting)
        self._counts.set(self._seat, count)
        least = self._counts.least()
        return count <= least + least // _TOLERANCE

    def _on_readable(self) -> None:
        for _ in range(_BATCH):
            if not self.publish():
                self._leave_to_others()
                return
            if not self._accept():
                return

    def _leave_to_others(self) -> None:
        """Pause. If the others make no progress, accept a few connections."""
        others = self._counts.others(self._seat)
        if others != self._others:
            self._others, self._pauses, self._bursts = others, 0, 0
        elif self._pauses == _PAUSES:
            self._pauses = 0
            for _ in range(_BURSTS[min(self._bursts, len(_BURSTS) - 1)]):
                if not self._accept():
                    break
            self._bursts += 1
        self._pauses += 1
        if self._timer is None:  # otherwise an accept has failed
            self._resume_in(_PAUSE)

    def _resume_in(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._on_readable)

    def _accept(self) -> bool:
        """Accept a connection. Returns whether one was waiting."""
        try:
            connection, _ = self._listener.accept()
        except ConnectionAbortedError:
            return True  # the client has disconnected
        except BlockingIOError:
            return False  # another worker has accepted it
        except OSError as error:
            _LOGGER.error("cannot accept a connection: %s", error.strerror)
            self._resume_in(_RETRY_DELAY)
            return False
        connection.setblocking(False)
        if _is_closed(connection):
            connection.close()
            return True
        task = self._loop.create_task(self._serve(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    async def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has disconnected
            await self._connect(connection)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the client has closed it without sending anything. This is much cheaper than to serve it."""
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:  # it has reset the connection
        return True
