"""The process that serves /metrics. It is a child of the main process, which a slow scraper therefore cannot delay.

It reads files alone, and is started before LiteLLM is imported, so that it is small.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from litellm_systemd.contract import METRICS_REFUSED, USER_AGENT
from litellm_systemd.env.retired_keys import RetiredKey, digest_key
from litellm_systemd.runtime.metrics import exposition, store

PATH = "/metrics"
#: Bytes of a request, which has no body. Prometheus sends about 400.
_MAX_HEAD = 16_384
#: Seconds to receive a request, and to send a response.
_RECEIVE_TIMEOUT, _SEND_TIMEOUT = 5.0, 20.0
#: Seconds to complete the responses when the main process exits, and to accept a connection that is about to be.
END_TIMEOUT, _LAST_ACCEPT = 3.0, 0.05
#: Connections at a time. Before a new one, the oldest is closed that has waited for its client for these seconds.
_MAX_CONNECTIONS, _PATIENCE = 32, 0.1
#: Seconds between two attempts to close one.
_ROOM_INTERVAL = 0.02
#: Seconds between two compactions of the files of processes that have exited, and two measurements of memory.
_INTERVAL = 30.0
#: Seconds before an accept is tried again that failed, as with too many open files.
_RETRY_DELAY = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """What the process serves.

    Attributes:
        listener: accepts the scrapers.
        root: the folder of all counts.
        folder: that of this main process, below `root`.
        keys: any of them opens /metrics; () for no key.
        alive: readable when the main process has exited.
        warn: logs one line.
        retired: earlier keys, which open /metrics until their time is over.
    """

    listener: socket.socket
    root: Path
    folder: Path
    keys: tuple[str, ...]
    alive: int
    warn: Callable[[str], None]
    retired: tuple[RetiredKey, ...] = ()


def needs_key(listener: socket.socket) -> bool:
    """Whether other machines reach the listener. Only a UNIX socket and an address of the loopback need no key."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return False
    address = ipaddress.ip_address(name[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (mapped or address).is_loopback


def run(task: Task, mask: set[signal.Signals]) -> None:
    """Serve until the main process has exited. `mask`: the signals to block from then on."""
    # The main process decides when to stop: scrapes see the drain as well.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    asyncio.run(_Exporter(task).serve())


class _Exporter:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._keys = [*(RetiredKey(digest_key(each), sys.maxsize) for each in task.keys), *task.retired]
        #: The connections that wait for their client, to send a request or to close: since when, the oldest first.
        self._waiting: dict[asyncio.Task[None], float] = {}
        self._open: set[asyncio.Task[None]] = set()
        self._listening = True
        self._warned_at = self._measured_at = -3600.0

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._task.alive, ended.set)
        tasks = [loop.create_task(self._accept()), loop.create_task(self._maintain())]
        await ended.wait()
        # A task that is cancelled in the moment in which it accepts a connection would lose it.
        self._listening = False
        await asyncio.wait(tasks[:1], timeout=_LAST_ACCEPT)
        for each in tasks:
            each.cancel()
        if self._open:  # what it has accepted, no other process answers
            await asyncio.wait(self._open, timeout=END_TIMEOUT)
        for each in self._open:
            each.cancel()

    async def _maintain(self) -> None:
        while True:
            try:
                self._measure()
                store.compact(self._task.root)
            except Exception as error:
                self._warn(f"cannot add up the counts in {self._task.root}: {type(error).__name__}: {error}")
            await asyncio.sleep(_INTERVAL)

    def _measure(self) -> None:
        """Measure the memory, at most once a second: it takes some milliseconds of each process."""
        if time.monotonic() - self._measured_at >= 1.0:
            self._measured_at = time.monotonic()
            exposition.measure(self._task.folder)

    def _warn(self, text: str) -> None:
        if time.monotonic() - self._warned_at >= 3600.0:
            self._warned_at = time.monotonic()
            self._task.warn(text)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while self._listening:
            await self._make_room()
            try:
                connection, _ = await loop.sock_accept(self._task.listener)
            except OSError:
                await asyncio.sleep(_RETRY_DELAY)
                continue
            connection.setblocking(False)
            task = loop.create_task(self._serve(connection))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            # Else connections that wait to be accepted would keep the event loop from those that are.
            await asyncio.sleep(0)

    async def _make_room(self) -> None:
        while len(self._open) >= _MAX_CONNECTIONS:
            oldest = next(iter(self._waiting), None)
            if oldest is not None and time.monotonic() - self._waiting[oldest] >= _PATIENCE:
                oldest.cancel()
                await asyncio.wait({oldest})
            else:
                await asyncio.sleep(_ROOM_INTERVAL)

    async def _wait(self, client: Coroutine[Any, Any, bytes]) -> bytes:
        """What the client sends. The connection may be closed meanwhile."""
        task: Any = asyncio.current_task()
        self._waiting[task] = time.monotonic()
        try:
            return await asyncio.wait_for(client, _RECEIVE_TIMEOUT)
        finally:
            self._waiting.pop(task, None)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
            if head := await self._wait(_receive(connection)):
                await asyncio.wait_for(loop.sock_sendall(connection, self._answer(head)), _SEND_TIMEOUT)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                # A close with unread bytes would reset the connection, and the client could lose the response.
                await self._wait(loop.sock_recv(connection, _MAX_HEAD))

    def _answer(self, head: bytes) -> bytes:
        request = _parse(head)
        if request is None:
            return _render(HTTPStatus.BAD_REQUEST)
        method, path, headers = request
        is_head = method == "HEAD"
        if path != PATH:
            return _render(HTTPStatus.NOT_FOUND, f"The metrics are at {PATH}.\n", is_head=is_head)
        if method not in ("GET", "HEAD"):
            return _render(HTTPStatus.METHOD_NOT_ALLOWED, more={"Allow": "GET, HEAD"})
        if needs_key(self._task.listener) and not self._is_right(headers.get("authorization", "")):
            store.record_scrape(self._task.root, METRICS_REFUSED)
            challenge = {"WWW-Authenticate": 'Bearer realm="metrics"'}
            return _render(HTTPStatus.UNAUTHORIZED, more=challenge, is_head=is_head)
        try:
            self._measure()
            body, content_type = exposition.render(
                self._task.root,
                headers.get("accept", ""),
                lambda path: self._warn(f"the counts in {path} are left out: the file is damaged"),
            )
        except Exception as error:
            self._warn(f"cannot read the counts in {self._task.root}: {type(error).__name__}: {error}")
            return _render(HTTPStatus.SERVICE_UNAVAILABLE, "The metrics cannot be read.\n", is_head=is_head)
        if headers.get("user-agent") != USER_AGENT:  # else a periodic verify would hide a missing scraper
            store.record_scrape(self._task.root)
        return _render(HTTPStatus.OK, body.decode(), {"Content-Type": content_type}, is_head=is_head)

    def _is_right(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        digest = digest_key(key.strip().encode("latin-1"))
        # All of them, in constant time.
        found = [hmac.compare_digest(digest, each.digest) and time.time() < each.until for each in self._keys]
        return scheme.lower() == "bearer" and any(found)


async def _receive(connection: socket.socket) -> bytes:
    """The head of a request; empty if the client ends the connection before, or sends too much."""
    loop = asyncio.get_running_loop()
    head = b""
    while b"\r\n\r\n" not in head:
        data = await loop.sock_recv(connection, _MAX_HEAD)
        head += data
        if not data or len(head) > _MAX_HEAD:
            return b""
    return head.partition(b"\r\n\r\n")[0]


def _parse(head: bytes) -> tuple[str, str, dict[str, str]] | None:
    """Method, path without query, and headers by lower-case name; None if this is not HTTP."""
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            return None
        if name.lower() not in headers:
            headers[name.lower()] = value.strip()
        elif name.lower() == "authorization":
            return None
        else:
            headers[name.lower()] += f", {value.strip()}"
    return parts[0], parts[1].partition("?")[0], headers


def _render(
    status: HTTPStatus, body: str | None = None, more: Mapping[str, str] | None = None, *, is_head: bool = False
) -> bytes:
    text = (f"{status.phrase}.\n" if body is None else body).encode()
    headers = {"Content-Type": "text/plain; charset=utf-8", **(more or {})}
    headers |= {"Content-Length": str(len(text)), "Cache-Control": "no-store", "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode() + (b"" if is_head else text)
