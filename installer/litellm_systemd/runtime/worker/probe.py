"""The health check of a worker by itself: a real HTTP request that cannot reach another process.

One end of a socket pair goes to the HTTP protocol that serves the port, on the same event loop. The request is sent
to the other end. So an answer proves that the event loop, the protocol and LiteLLM's middleware work.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

READINESS = "/health/readiness"
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
