"""uvicorn's server with a late start and a slow end: it accepts when it is told to, and leaves as a lame duck.

What is used of uvicorn's inside (`Server.startup`, `main_loop` and `shutdown`, its protocols' `cycle` and keep-alive
timer) is the same from 0.33 on in both of its HTTP protocols, and held by tests/unit/test_runtime_server.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvicorn

from litellm_systemd.runtime.worker.acceptor import Acceptor

#: Looks at how far a drain has come this often; as uvicorn's main loop.
_TICK = 0.1
#: Time for the tasks of requests that were cut to run their `finally`.
_CUT_TIMEOUT = 2.0


def build_config(application: Callable[..., Awaitable[None]], keepalive_timeout: int) -> uvicorn.Config:
    """Settings of uvicorn as LiteLLM's own command has them (proxy_cli.py), less its log."""
    return uvicorn.Config(
        application,
        interface="asgi3",
        loop="uvloop",
        http="auto",  # httptools, which is a dependency of ours
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=keepalive_timeout,
        workers=1,
    )


class Server(uvicorn.Server):
    """Serves `listeners` from `accept` until `retire`; then lets what runs come to its end.

    `lame_duck_timeout` is how long an idle connection is kept then, `drain_timeout` how long a request may run.
    `cut` counts the requests that ran longer, `drained` the seconds that they were given.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listeners: Sequence[socket.socket],
        *,
        lame_duck_timeout: float,
        drain_timeout: float,
    ) -> None:
        super().__init__(config)
        self.cut = 0
        self.drained = 0.0
        self._listeners = tuple(listeners)
        self._acceptors: list[Acceptor] = []
        self._lame_duck_timeout = lame_duck_timeout
        self._drain_timeout = drain_timeout
        self._hurried_at: float | None = None

    @property
    def inflight(self) -> int:
        """Requests without a complete response; an open WebSocket counts as one."""
        return sum(_is_busy(connection) for connection in self.server_state.connections)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self.server_state.connections)

    def accept(self) -> None:
        """Begin to take connections, unless it is to leave already. Call it in the event loop."""
        if not self.should_exit:
            self._acceptors = [Acceptor(each, self.connect, lambda: self.connections) for each in self._listeners]

    async def connect(self, connection: socket.socket) -> None:
        """Serve one connected socket as if it had come in through the port."""
        await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def retire(self) -> None:
        """Stop accepting, now, and leave when all is answered."""
        if not self.should_exit:
            self.should_exit = True
            for acceptor in self._acceptors:
                acceptor.close()
            # Without systemd nobody else holds them, and a connection that waits in vain is worse than a refused one.
            for listener in self._listeners:
                listener.close()
            self._announce()

    def hurry(self, seconds: float) -> None:
        """Leave, and cut in `seconds` what still runs then."""
        self._hurried_at = time.monotonic() + seconds
        self.retire()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Run the application's start-up; the port is left alone until `accept`."""
        await super().startup(sockets=[])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Drain, cut what is left, and run the application's shutdown."""
        self.retire()
        await self._drain()
        await self._cut_the_rest()
        await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the worker, which knows the difference between retire and hurry."""
        yield

    def _protocol(self) -> asyncio.Protocol:
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _announce(self) -> None:
        """Tell clients with the next answer on each connection that it is the last one there (RFC 9112, 9.6).

        Closing an idle connection at once would be a race: its client may be sending on it just now, and loses the
        request. So it stays open for the lame-duck time and closes after an answer that says `Connection: close`.
        The same holds for a connection whose answer has begun without those words.
        """
        close = (b"connection", b"close")
        self.config.encoded_headers = [*self.config.encoded_headers, close]
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        loop = asyncio.get_running_loop()
        for connection in _http(self.server_state.connections):
            connection.timeout_keep_alive = self._lame_duck_timeout
            if not _is_busy(connection):
                connection._unset_keepalive_if_required()
                connection.timeout_keep_alive_task = loop.call_later(
                    self._lame_duck_timeout, connection.timeout_keep_alive_handler
                )
            elif not connection.cycle.response_started:
                connection.cycle.keep_alive = False

    async def _drain(self) -> None:
        start = time.monotonic()
        ticks = 0
        while not self._is_over(start + self._drain_timeout) and self._is_held(start + self._lame_duck_timeout):
            await self.on_tick(ticks)  # keeps the Date header right
            await asyncio.sleep(_TICK)
            ticks += 1
        self.drained = time.monotonic() - start

    def _is_over(self, limit: float) -> bool:
        return time.monotonic() >= (limit if self._hurried_at is None else min(limit, self._hurried_at))

    def _is_held(self, young_until: float) -> bool:
        """Whether anybody still waits for us: a task, or a connection that may send or receive."""
        if self.server_state.tasks:
            return True
        young = time.monotonic() < young_until
        # An idle connection without a timer has sent half of a request. It gets no longer than the others.
        return any(
            young or _is_busy(connection) or connection.timeout_keep_alive_task is not None
            for connection in _http(self.server_state.connections)
        )

    async def _cut_the_rest(self) -> None:
        self.cut = self.inflight
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CUT_TIMEOUT)
        for connection in list(self.server_state.connections):
            connection.transport.close()


def _is_busy(connection: Any) -> bool:
    if not hasattr(connection, "cycle"):  # a WebSocket
        return True
    return connection.cycle is not None and not connection.cycle.response_complete


def _http(connections: set[Any]) -> list[Any]:
    return [connection for connection in connections if hasattr(connection, "cycle")]
