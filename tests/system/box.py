"""The boxes of `litellm_systemd.box`, with HTTP requests to servers in them for tests."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from litellm_systemd import box
from litellm_systemd.box import Bind, BoxError, Image, Namespaces, end, wait_until, why_not
from litellm_systemd.box.namespaces import cgroup_folders

__all__ = [
    "Answer",
    "Bind",
    "Box",
    "BoxError",
    "Image",
    "JoinedNamespaces",
    "Namespaces",
    "NetworkAccess",
    "end",
    "outside_path",
    "wait_until",
    "why_not",
]

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000  # <sched.h>


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to an HTTP request with its complete body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def outside_path(namespaces: Namespaces, path: Path) -> Path:
    """The path, outside of the namespaces of boxes, of a file in them."""
    return Path(f"/proc/{namespaces._init}/root{path}")


class JoinedNamespaces(Namespaces):
    """The open `Namespaces` of another process, such as the one that started this worker of pytest-xdist.

    Images of one worker are then images of all. Only the other process closes the namespaces.
    """

    def __init__(self, name: str, init: int, member: str) -> None:
        super().__init__()
        self.name, self._init, self._member = name, init, member

    @classmethod
    def ticket(cls, opened: Namespaces) -> tuple[str, int]:
        """The arguments `name` and `init` for other processes."""
        return opened.name, opened._init

    def open(self) -> None:
        self.cgroups = tuple(folder / self.name for folder in cgroup_folders(self._init))

    def close(self) -> None:
        pass

    def new_name(self, kind: str) -> str:
        return f"{super().new_name(kind)}-{self._member}"


class NetworkAccess:
    """Connections from the test in the network namespace at `network_namespace`."""

    @property
    def network_namespace(self) -> Path:
        """The file of the namespace (network_namespaces(7))."""
        raise NotImplementedError

    def connect(self, host: str, port: int, *, timeout: float = 10) -> socket.socket:
        """A TCP connection in that network, for this process.

        A socket belongs to the network namespace in which it was created, and setns(2) changes that of one thread. So
        a new thread enters the namespace and connects.
        """
        result: list[socket.socket | OSError] = []

        def enter_and_connect() -> None:
            try:
                with self.network_namespace.open() as namespace:
                    _setns(namespace.fileno())
                result.append(socket.create_connection((host, port), timeout))
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=enter_and_connect, name=f"connect-{host}")
        thread.start()
        thread.join()
        if isinstance(result[0], OSError):
            raise result[0]
        return result[0]

    def http_connection(self, host: str, port: int, *, timeout: float = 10) -> http.client.HTTPConnection:
        """An open HTTP/1.1 connection to a server there, for streams and for several requests."""
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        connection.sock = self.connect(host, port, timeout=timeout)
        return connection

    def http(
        self,
        method: str,
        url: str,
        *,
        body: str | bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        """Send one HTTP request to a server there. A mapping as `body` is sent as JSON.

        Raises OSError, such as ConnectionRefusedError, or http.client.HTTPException.
        """
        parts = urllib.parse.urlsplit(url)
        all_headers = dict(headers or {})
        if isinstance(body, Mapping):
            body = json.dumps(body)
            all_headers.setdefault("Content-Type", "application/json")
        connection = self.http_connection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout)
        with contextlib.closing(connection):
            target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request(method, target, body, all_headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())


class Box(NetworkAccess, box.Box):
    """A box with connections from the test to its loopback interface."""

    @property
    def network_namespace(self) -> Path:
        return Path(f"/proc/{self.leader}/ns/net")

    def wait_until(self, predicate: Callable[[], T], deadline: float, what: str) -> T:
        """`wait_until` of the base class, with longer pauses: most predicates start programs, and other tests run."""
        begin = time.monotonic()

        def call_and_pause() -> T:
            result = predicate()
            if not result:
                time.sleep(min(max(0.1, (time.monotonic() - begin) / 20), 0.5))
            return result

        return super().wait_until(call_and_pause, deadline, what)


def _setns(descriptor: int) -> None:
    """Move the calling thread to a network namespace: setns(2). os.setns needs Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
