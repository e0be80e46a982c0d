"""A worker's question to itself: a real request that can't reach another process.

One half of a socket pair goes to the HTTP protocol that serves the port, on the same event loop; the request goes
into the other half. So an answer proves the loop, the protocol and LiteLLM's whole stack of middleware.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

READINESS = "/health/readiness"
LIVELINESS = "/health/liveliness"

#: Hands a connected socket to the server of this process.
Connect = Callable[[socket.socket], Awaitable[object]]


async def ask(connect: Connect, path: str, timeout: float) -> int | None:
    """The status code of `GET path`; None if no answer came within `timeout` seconds."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    try:
        await connect(theirs)
        return await asyncio.wait_for(_get(ours, path), timeout)
    except (OSError, ValueError, asyncio.TimeoutError):
        return None
    finally:
        ours.close()


async def _get(connection: socket.socket, path: str) -> int:
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    answer = bytearray()
    while chunk := await loop.sock_recv(connection, 65536):
        answer += chunk
    with contextlib.suppress(IndexError):
        return int(answer.split(b" ", 2)[1])
    raise ValueError("no HTTP answer")
