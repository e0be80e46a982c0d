"""Where an attack may go, and how much of it."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import resource
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The most that any attack may use, whatever its caller wants.
_MOST_SECONDS, _MOST_CONNECTIONS, _MOST_BYTES = 120.0, 4000, 256 * 2**20
#: Seconds until a connection that is not accepted counts as refused.
_PATIENCE = 10.0
#: Bytes in one write.
PIECE = 64 * 1024
#: Bytes of an answer that are kept.
_KEPT = 64 * 1024
_HEAD = re.compile(rb"HTTP/1\.[01] (\d{3}) .*?\r\n\r\n", re.DOTALL)


class NotAllowedError(ValueError):
    """The target is not on this machine, or a bound is too large."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The size of an attack: seconds in all, connections (0: as many as the attack has by itself), bytes in each.

    Raises:
        NotAllowedError: a bound is not positive or larger than this tool permits.
    """

    seconds: float = 5.0
    connections: int = 0
    bytes: int = _MOST_BYTES

    def __post_init__(self) -> None:
        for name, value, most in (
            ("seconds", self.seconds, _MOST_SECONDS),
            ("connections", self.connections, _MOST_CONNECTIONS),
            ("bytes", self.bytes, _MOST_BYTES),
        ):
            if not 0 <= value <= most:
                raise NotAllowedError(f"{name}={value} is not from 0 to {most}")


@dataclass(frozen=True, slots=True)
class Target:
    """A service on loopback, or on a UNIX socket.

    Attributes:
        host: an IP address of loopback. Names are not accepted, since they may lead elsewhere.
        port: a TCP port.
        path: a UNIX socket, in place of host and port.
        source: the address that the attack comes from, on loopback too. A client on another one is not counted with
            it. Empty: the system's choice.
        forwarded: whether requests may say that they come through a proxy from other addresses.

    Raises:
        NotAllowedError: the target is not on loopback, or the path is not a socket.
    """

    host: str = "127.0.0.1"
    port: int = 0
    path: str = ""
    source: str = ""
    forwarded: bool = False

    def __post_init__(self) -> None:
        if self.path:
            if not Path(self.path).exists() or not stat.S_ISSOCK(Path(self.path).stat().st_mode):
                raise NotAllowedError(f"{self.path} is not a UNIX socket")
            return
        for address in (self.host, *([self.source] if self.source else [])):
            try:
                is_loopback = ipaddress.ip_address(address).is_loopback
            except ValueError:
                is_loopback = False
            if not is_loopback:
                raise NotAllowedError(f"{address} is not an IP address of loopback")
        if not 0 < self.port < 2**16:
            raise NotAllowedError(f"{self.port} is not a TCP port")

    async def connect(self) -> Link:
        """Open a connection. Raises OSError or asyncio.TimeoutError."""
        loop = asyncio.get_running_loop()
        if self.path:
            opening: Any = loop.create_unix_connection(Link, self.path)
        else:
            local = (self.source, 0) if self.source else None
            opening = loop.create_connection(Link, self.host, self.port, local_addr=local)
        link: Link = (await asyncio.wait_for(opening, _PATIENCE))[1]
        return link


class Link(asyncio.Protocol):
    """One connection of an attack. `status` is that of its answer, or 0 as long as there is none."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.sent = 0
        self.status = 0
        self._received = b""
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: Any = None

    @property
    def is_open(self) -> bool:
        return not self.closed.is_set()

    async def send(self, data: bytes) -> bool:
        """Write the data, and wait until the kernel has taken it. Returns whether the connection is still open."""
        if self.is_open:
            self._transport.write(data)
            await asyncio.sleep(0)  # uvloop writes between two callbacks, and only then knows whether to pause
            await self._writable.wait()
            self.sent += len(data) if self.is_open else 0
        return self.is_open

    async def answer(self, seconds: float = 30.0) -> int:
        """Wait for an answer or the end of the connection. Returns the status, or 0 without one."""
        waits = [asyncio.ensure_future(each.wait()) for each in (self._arrived, self.closed)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        return self.status

    def next_answer(self) -> None:
        """Forget the answer so far, before the next request on the same connection."""
        self._received, self.status = b"", 0
        self._arrived.clear()

    def close(self) -> None:
        self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=0)
        if (connection := transport.get_extra_info("socket")) and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._received = (self._received + data)[:_KEPT]
        # The rest of the answer before may arrive first.
        if not self.status and (found := _HEAD.search(self._received)):
            self.status = int(found[1])
            self._arrived.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set()
        self._writable.set()


def clock(seconds: float) -> Callable[[], float]:
    """The seconds that are left, at least 0."""
    end = time.monotonic() + seconds
    return lambda: max(0.0, end - time.monotonic())


def allow_open_files() -> None:
    """Raise the limit of open files as far as this process may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
