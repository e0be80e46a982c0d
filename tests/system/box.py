"""The boxes of `litellm_systemd.box`, with HTTP requests to servers in them for tests."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import socket
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litellm_systemd import box
from litellm_systemd.box import Bind, BoxError, Image, Namespaces, end, wait_until, why_not

__all__ = ["Answer", "Bind", "Box", "BoxError", "Image", "Namespaces", "end", "wait_until", "why_not"]

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


class Box(box.Box):
    """A box with connections from the test to its loopback interface."""

    def connect(self, host: str, port: int, *, timeout: float = 10) -> socket.socket:
        """A TCP connection in the network of the box, for this process.

        A socket belongs to the network namespace in which it was created, and setns(2) changes that of one thread. So
        a new thread enters the network of the box and connects.
        """
        result: list[socket.socket | OSError] = []

        def enter_and_connect() -> None:
            try:
                with Path(f"/proc/{self.leader}/ns/net").open() as namespace:
                    _setns(namespace.fileno())
                result.append(socket.create_connection((host, port), timeout))
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=enter_and_connect, name=f"connect-{self.name}")
        thread.start()
        thread.join()
        if isinstance(result[0], OSError):
            raise result[0]
        return result[0]

    def http_connection(self, host: str, port: int, *, timeout: float = 10) -> http.client.HTTPConnection:
        """An open HTTP/1.1 connection to a server in the box, for streams and for several requests."""
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
        """Send one HTTP request to a server in the box. A mapping as `body` is sent as JSON.

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


def _setns(descriptor: int) -> None:
    """Move the calling thread to a network namespace: setns(2). os.setns needs Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
