"""Logs the providers whose address, or connection, the event loop of a worker waits for.

The resolver of the C library waits for ten seconds and more for silent name servers, and the kernel for minutes where
packets are dropped. LiteLLM logs a request only after its last attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

_LOGGER = logging.getLogger(__name__)
#: Seconds. After five, the resolver asks the next server: one lost packet is no silence (resolv.conf(5)).
_PATIENCE = 6.0
_NO_ADDRESS = "the name servers have not answered for %.100r within %.0f s, and requests wait"
_NO_CONNECTION = "%.100s has not accepted a connection within %.0f s, and requests wait"


def log_waits() -> None:
    """Have the event loops of this process log a lookup or a connection that takes long, while it does."""
    import uvloop

    async def getaddrinfo(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        lookup = super(uvloop.Loop, loop).getaddrinfo(host, port, **options)
        return await _log_wait(loop, lookup, _NO_ADDRESS, host)

    async def sock_connect(loop: Any, sock: Any, address: Any) -> Any:
        connection = super(uvloop.Loop, loop).sock_connect(sock, address)
        where = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
        return await _log_wait(loop, connection, _NO_CONNECTION, where)

    loops: Any = uvloop.Loop
    loops.getaddrinfo, loops.sock_connect = getaddrinfo, sock_connect


async def _log_wait(loop: Any, waiting: Awaitable[Any], text: str, host: Any) -> Any:
    timer = loop.call_later(_PATIENCE, _LOGGER.warning, text, host, _PATIENCE)
    try:
        return await waiting
    finally:
        timer.cancel()
