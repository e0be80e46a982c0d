"""The boxes of `litellm_systemd.box`, and HTTP to what serves in them, which only tests need."""

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
    """An answer to an HTTP request, its body read to the end."""

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
    """A box whose loopback the test can reach."""

    def connect(self, host: str, port: int, *, timeout: float = 10) -> socket.socket:
        """A TCP connection out of the box's own network, for this process to use.

        A socket belongs to the network it was made in, and setns(2) moves a single thread: so one thread goes in,
        connects, and leaves the socket behind.
        """
        outcome: list[socket.socket | OSError] = []

        def enter_and_connect() -> None:
            try:
                with Path(f"/proc/{self.leader}/ns/net").open() as namespace:
                    _setns(namespace.fileno())
                outcome.append(socket.create_connection((host, port), timeout))
            except OSError as error:
                outcome.append(error)

        thread = threading.Thread(target=enter_and_connect, name=f"connect-{self.name}")
        thread.start()
        thread.join()
        if isinstance(outcome[0], OSError):
            raise outcome[0]
        return outcome[0]

    def http_connection(self, host: str, port: int, *, timeout: float = 10) -> http.client.HTTPConnection:
        """An open HTTP/1.1 connection to a server in the box, for streams and for several requests in a row."""
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
        """One HTTP request to a server in the box. A mapping as `body` is sent as JSON.

        Raises OSError (ConnectionRefusedError and the like) or http.client.HTTPException as they come.
        """
        parts = urllib.parse.urlsplit(url)
        sent = dict(headers or {})
        if isinstance(body, Mapping):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        connection = self.http_connection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout)
        with contextlib.closing(connection):
            target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request(method, target, body, sent)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())


def _setns(descriptor: int) -> None:
    """setns(2) to a network namespace, for the calling thread alone. os.setns came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
