"""Loopback ports for servers that tests start."""

from __future__ import annotations

import socket

#: Open until this process exits, so that no other process gets their ports.
_HELD: list[socket.socket] = []


def free_port() -> int:
    """A free port of 127.0.0.1 that no other test gets before our server binds it.

    It is bound here, which is in no server's way that says SO_REUSEADDR, as all of ours do (socket(7)). Nothing
    listens there: who connects is refused.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _HELD.append(held)
    return int(held.getsockname()[1])
