"""What clients of tests do with the connections that they keep."""

from __future__ import annotations

import http.client
import select


def is_stale(connection: http.client.HTTPConnection) -> bool:
    """Whether the other side has closed an idle connection. As httpx and urllib3, a client then opens another one."""
    return connection.sock is not None and bool(select.select([connection.sock], [], [], 0)[0])
