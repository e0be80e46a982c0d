"""uvicorn's server with changes: it accepts only on request, limits clients, and drains.

It uses internals of uvicorn: `Server.startup`, `main_loop`, `on_tick` and `shutdown`, `cycle` and the keep-alive
timer of the HTTP protocol. tests/unit/test_runtime_draining_server.py checks them.

`get_status` is the health check of a worker by itself: one end of a socket pair goes to the HTTP protocol that serves
the port, on the same event loop, and the request to the other end. No other process can answer it, and the answer
proves that the event loop, the protocol and LiteLLM's middleware work.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import uvicorn

from litellm_systemd.runtime.http.addresses import trusted_networks
from litellm_systemd.runtime.http.connections import Connection, Connections
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.http.protocol import LimitedProtocol
from litellm_systemd.runtime.http.refuse import Reason, RefusalCounter
from litellm_systemd.runtime.leaving_flag import LeavingFlag
from litellm_systemd.runtime.worker.acceptor import Acceptor, ConnectionCounts

LIVELINESS = "/health/liveliness"

#: Passes a connected socket to the server of this process.
Connect = Callable[[socket.socket], Awaitable[object]]


async def get_status(connect: Connect, path: str, timeout: float) -> int | None:
    """The status code of `GET path`, or None without an answer within `timeout` seconds."""
    client_end, server_end = socket.socketpair()
    client_end.setblocking(False)
    server_end.setblocking(False)
    try:
        await connect(server_end)
        return await asyncio.wait_for(_get(client_end, path), timeout)
    except (OSError, ValueError, asyncio.TimeoutError):
        return None
    finally:
        client_end.close()


async def _get(connection: socket.socket, path: str) -> int:
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    answer = bytearray()
    while chunk := await loop.sock_recv(connection, 65536):
        answer += chunk
    with contextlib.suppress(IndexError):
        return int(answer.split(b" ", 2)[1])
    raise ValueError("not an HTTP answer")


#: Seconds between two checks whether the drain is complete, as in uvicorn's main loop.
_TICK = 0.1
#: Seconds by which a tick is late after a pause of this process, as by `systemctl freeze`.
_PAUSE = 1.0
#: The ticks after which slow clients are looked for, and the seconds of these ticks.
_SWEEP_TICKS, _SWEEP_TIME = 10, 1.0
#: Seconds without a byte after which the kernel probes a connection. A Network Load Balancer drops one silently after
#: 350 seconds, while a model may think for longer.
_PROBE_AFTER = 60
#: Seconds for a TLS handshake. A client that is silent for so long sends no request either.
_HANDSHAKE_TIMEOUT = 10.0
#: Seconds to wait for the client's half of the end of a TLS connection.
_SHUTDOWN_TIMEOUT = 5.0
#: Seconds for the tasks of force-closed requests to send a last response and to run their `finally`.
_CANCEL_TIMEOUT = 2.0


def build_config(
    application: Callable[..., Awaitable[None]], keepalive_timeout: int, trusted_proxies: Sequence[str] = ()
) -> uvicorn.Config:
    """The uvicorn settings of LiteLLM's own command (proxy_cli.py), without uvicorn's access log.

    Only `trusted_proxies`, which are networks, and peers on this host set the address of a client.
    """
    return uvicorn.Config(
        application,
        interface="asgi3",
        loop="uvloop",
        http="httptools",  # see `Server._protocol`
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=trusted_networks(trusted_proxies),
        timeout_keep_alive=keepalive_timeout,
        workers=1,
    )


def _fit_open_files(limits: Limits) -> Limits:
    """The limits with room for as many other files, such as connections to models, as for connections of clients.

    Without a free descriptor a worker would accept no client. Outside of systemd a process often may open 1024 files.
    """
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files == resource.RLIM_INFINITY or not limits.connections:
        return limits
    return replace(limits, connections=min(limits.connections, open_files // 2))


def _keep_alive(listener: socket.socket) -> None:
    """Let the kernel probe the connections of a listener, which inherit its options (tcp(7))."""
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_AFTER)


class Server(uvicorn.Server):
    """Accepts connections from `listeners` between `start_accepting` and `start_drain`.

    During a drain an idle connection stays open for `lame_duck_timeout` seconds and an in-flight request may run for
    `drain_timeout` seconds. After the drain `cut` is the number of force-closed requests and `drain_seconds` the
    duration of the drain.

    `counts` holds the number of connections of all workers that accept from `listeners`, this one's at `seat`.
    `counter` counts clients that exceed `limits`. With `tls` it serves HTTPS on `listeners`. `leaving`: whether the
    instance leaves its load balancer, and the port is to close with the drain. `on_drained` is called between the
    drain and the application's shutdown.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listeners: Sequence[socket.socket],
        *,
        lame_duck_timeout: float,
        drain_timeout: float,
        limits: Limits | None = None,
        counter: RefusalCounter | None = None,
        counts: ConnectionCounts | None = None,
        seat: int = 0,
        tls: ssl.SSLContext | None = None,
        leaving: LeavingFlag | None = None,
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_drained = on_drained
        self._tls = tls
        self._leaving = LeavingFlag() if leaving is None else leaving
        self._sends_close = False
        self._limits = _fit_open_files(limits or Limits())
        self._counts = counts or ConnectionCounts(1)
        self._seat = seat
        self._connections = Connections(self._limits, counter or RefusalCounter(), self._is_trusted, self._on_close)
        self.cut = 0
        self.drain_seconds = 0.0
        self._listeners = tuple(listeners)
        self._acceptors: list[Acceptor] = []
        self._lame_duck_timeout = lame_duck_timeout
        self._drain_timeout = drain_timeout
        self._force_close_at: float | None = None

    @property
    def inflight(self) -> int:
        """The number of in-flight requests. An open WebSocket counts as one."""
        return sum(_has_request(connection) for connection in self.server_state.connections)

    @property
    def connections(self) -> int:
        return len(self.server_state.connections)

    def start_accepting(self) -> None:
        """Accept connections, unless a drain has started. Call it in the event loop."""
        if not self.should_exit:
            for each in self._listeners:
                _keep_alive(each)
            self._acceptors = [
                Acceptor(each, self._accept, lambda: self.connections, self._counts, self._seat)
                for each in self._listeners
            ]

    async def connect(self, connection: socket.socket) -> None:
        """Serve a connected socket like a connection that was accepted from the port, but never with TLS."""
        await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    async def _accept(self, connection: socket.socket) -> None:
        """Serve a connection from the port. With TLS, returns or raises OSError when the handshake is over."""
        if self._tls is None:
            await self.connect(connection)
            return
        handshake = _Handshake(connection)
        self._connections.add(handshake)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(handshake),
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":  # such as of a proxy in front that speaks HTTP
                self._connections.report(handshake, Reason.PLAIN_HTTP)
            raise
        finally:
            self._connections.discard(handshake)

    def start_drain(self) -> None:
        """Stop accepting at once, and exit when every in-flight request is answered."""
        if not self.should_exit:
            self.should_exit = self._connections.is_draining = True
            for acceptor in self._acceptors:
                acceptor.close(takes_waiting=bool(self._leaving))
            # Without systemd no other process may hold them. Then a refused connection is better than one that waits
            # for an accept that never happens.
            for listener in self._listeners:
                listener.close()
            self._announce_close()

    def force_close(self, after: float) -> None:
        """Start a drain if none runs, and force-close the requests that are in flight `after` this many seconds."""
        self._force_close_at = time.monotonic() + after
        self.start_drain()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Run the application's startup. `start_accepting` opens the port later."""
        await super().startup(sockets=[])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Drain, force-close the remaining requests, and run the application's shutdown."""
        self.start_drain()
        await self._drain()
        await self._force_close_rest()
        self._on_drained()
        await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the worker has its own for a drain and a force-close."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Look for slow clients. uvicorn calls this every 0.1 seconds."""
        if counter % _SWEEP_TICKS == 0:
            self._connections.sweep(_SWEEP_TIME)
            if self._leaving:
                self._send_close()
        return await super().on_tick(counter)

    def _protocol(self, handshake: Connection | None = None) -> asyncio.Protocol:
        return LimitedProtocol(
            self.config, self.server_state, self.lifespan.state, self._limits, self._connections, handshake
        )

    def _is_trusted(self, address: str) -> bool:
        """Whether many clients may share this address: it is a proxy."""
        return address in self.config.loaded_app.trusted_hosts

    def _on_close(self) -> None:
        if not self.should_exit:
            for acceptor in self._acceptors:
                acceptor.publish()

    def _announce_close(self) -> None:
        """Send `Connection: close` with the next response of each connection (RFC 9112, 9.6).

        Closing an idle connection at once is a race: if its client is sending a request at that moment, the request
        is lost. So an idle connection stays open for LAME_DUCK_TIMEOUT, and closes after a response with `Connection:
        close`. The same applies to a connection whose response has begun without that header.
        """
        self._send_close()
        loop = asyncio.get_running_loop()
        for connection in _http_connections(self.server_state.connections):
            connection.timeout_keep_alive = self._lame_duck_timeout
            if not _has_request(connection):
                connection._unset_keepalive_if_required()
                connection.timeout_keep_alive_task = loop.call_later(
                    self._lame_duck_timeout, connection.timeout_keep_alive_handler
                )

    def _send_close(self) -> None:
        """Close each connection after its next response: its client then connects to another instance or worker."""
        if self._sends_close:
            return
        self._sends_close = True
        close = (b"connection", b"close")
        self.config.encoded_headers = [*self.config.encoded_headers, close]
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        for connection in _http_connections(self.server_state.connections):
            if _has_request(connection) and not connection.cycle.response_started:
                connection.cycle.keep_alive = False

    async def _drain(self) -> None:
        start = time.monotonic()
        ticks = 0
        while not self._is_expired(start + self._drain_timeout) and self._is_busy(start + self._lame_duck_timeout):
            await self.on_tick(ticks)  # updates the Date header
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            ticks += 1
            if (missed := time.monotonic() - due) > _PAUSE:
                # This process was paused: neither it nor its clients had this time.
                start += missed
                if self._force_close_at is not None:
                    self._force_close_at += missed
        self.drain_seconds = time.monotonic() - start

    def _is_expired(self, deadline: float) -> bool:
        return time.monotonic() >= (deadline if self._force_close_at is None else min(deadline, self._force_close_at))

    def _is_busy(self, idle_deadline: float) -> bool:
        """Whether a request is in flight or an idle connection may still send one."""
        if self.server_state.tasks:
            return True
        keeps_idle = time.monotonic() < idle_deadline
        # A client in its TLS handshake sends its request afterwards, like one with an idle connection.
        if keeps_idle and any(acceptor.is_connecting for acceptor in self._acceptors):
            return True
        # An idle connection without a timer has sent a part of a request. It has the same deadline as the others.
        return any(
            keeps_idle
            or _has_request(connection)
            or connection.is_sending
            or connection.timeout_keep_alive_task is not None
            for connection in _http_connections(self.server_state.connections)
        )

    async def _force_close_rest(self) -> None:
        self.cut = self.inflight
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_TIMEOUT)
        for connection in list(self.server_state.connections):
            connection.transport.close()


class _Handshake:
    """A connection during its TLS handshake. It counts for the limits of connections like any idle one."""

    has_right_key = has_complete_request = False

    def __init__(self, connection: socket.socket) -> None:
        self.client: tuple[str, int] = connection.getpeername()[:2]
        self.transport = self
        self._task = asyncio.current_task()

    def wait(self, seconds: float) -> None:
        """Do nothing: the event loop has a timer for the handshake."""

    def abort(self) -> None:
        """Close the connection, because there are too many."""
        if self._task is not None:
            self._task.cancel()


def _has_request(connection: Any) -> bool:
    if not hasattr(connection, "cycle"):  # a WebSocket
        return True
    return connection.cycle is not None and not connection.cycle.response_complete


def _http_connections(connections: set[Any]) -> list[Any]:
    return [connection for connection in connections if hasattr(connection, "cycle")]
