"""The open connections of a worker: how many there may be, and how long one may wait for its client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from litellm_systemd.runtime.http.addresses import client_network
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.http.refuse import Reason, RefusalCounter


class Transport(Protocol):
    """What can be closed."""

    def abort(self) -> None:
        """Close the connection at once. `close` would wait until the client has read what is sent."""


class Connection(Protocol):
    """What this module needs of an HTTP connection, or of one in its TLS handshake."""

    @property
    def client(self) -> tuple[str, int] | None:
        """The address of the peer; None for a local socket."""

    @property
    def transport(self) -> Transport:
        """What the connection is closed by."""

    @property
    def has_right_key(self) -> bool:
        """Whether any of its requests had the right key."""

    @property
    def has_complete_request(self) -> bool:
        """Whether a request has arrived completely whose response the client has not read yet, but is reading."""

    def wait(self, seconds: float) -> None:
        """Count time that has passed, and close the connection if its client is too slow."""


class Connections:
    """All HTTP connections of this process.

    Above a limit the oldest one is closed that has not sent the right key and awaits no response. If there is none,
    the new connection is accepted nevertheless. So a client with the key always gets in, and keeps its connection.

    The limit for an address does not apply to peers for which `is_exempt` returns True, and neither limit to local
    sockets, such as those of the health checks. `on_close` is called when a connection has closed.
    """

    def __init__(
        self,
        limits: Limits,
        counter: RefusalCounter,
        is_exempt: Callable[[str], bool],
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._counter = counter
        self._is_exempt = is_exempt
        self._on_close = on_close
        self._all: dict[Connection, None] = {}
        #: Those that may be closed, by age, with the address that they count for. Those that have sent the right key
        #: since are removed when one must be closed.
        self._unproven: dict[Connection, str] = {}
        self._by_address: dict[str, dict[Connection, None]] = {}
        #: Whether the worker drains: then clients that read no responses have less time.
        self.is_draining = False

    def add(self, connection: Connection) -> None:
        """Count a new connection, and close an older one if there are too many."""
        self._all[connection] = None
        if connection.client is None:
            return
        peers = self._count_unproven(connection)
        if 0 < self._limits.connections_per_address < len(peers):
            self._close_oldest(peers, connection, Reason.ADDRESS)
        if 0 < self._limits.connections < len(self._all):
            self._close_oldest(self._unproven, connection, Reason.CONNECTIONS)

    def replace(self, handshake: Connection, connection: Connection) -> None:
        """Count a connection instead of its TLS handshake, which was counted. No other one is closed for it."""
        if handshake in self._all:
            self._forget(handshake)
        self._all[connection] = None
        self._count_unproven(connection)

    def discard(self, connection: Connection) -> None:
        """Forget a connection that has closed, or that has become a WebSocket."""
        if connection in self._all:
            self._forget(connection)
            self._on_close()

    def report(self, connection: Connection, reason: Reason) -> None:
        """Count a request that was refused, or a connection that was closed, for the journal."""
        self._counter.add(connection.client, reason)

    def report_silent(self, connection: Connection) -> None:
        """Count a connection that was closed without a request, unless a proxy has opened it ahead of one."""
        if connection.client is None or not self._is_exempt(connection.client[0]):
            self.report(connection, Reason.SILENT)

    def count_response(self, status: int) -> None:
        """Count an error that no application has sent."""
        self._counter.count_response(status)

    def abort(self, connection: Connection, reason: Reason) -> None:
        """Close a connection at once, and count it for the journal."""
        self.report(connection, reason)
        self.discard(connection)
        connection.transport.abort()

    def sweep(self, seconds: float) -> None:
        """Close the connections of slow clients. `seconds` have passed since the last call."""
        for each in tuple(self._all):
            each.wait(seconds)

    def _close_oldest(self, candidates: Iterable[Connection], new: Connection, reason: Reason) -> None:
        for each in tuple(candidates):
            if each.has_right_key:
                self._prove(each)
            elif each is not new and not each.has_complete_request:
                self.abort(each, reason)
                return

    def _count_unproven(self, connection: Connection) -> dict[Connection, None]:
        """Count for its address. Returns the connections that count for it."""
        if connection.client is None:
            return {}
        address = connection.client[0]
        unit = "" if self._is_exempt(address) else client_network(address)
        self._unproven[connection] = unit
        if not unit:
            return {}
        peers = self._by_address.setdefault(unit, {})
        peers[connection] = None
        return peers

    def _forget(self, connection: Connection) -> None:
        del self._all[connection]
        self._prove(connection)

    def _prove(self, connection: Connection) -> None:
        """Never close a connection because there are too many."""
        unit = self._unproven.pop(connection, "")
        if unit:
            del self._by_address[unit][connection]
            if not self._by_address[unit]:
                del self._by_address[unit]
