"""Lookups and connections of a worker that take long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from litellm_systemd.doctor.check_service import reportable_groups
from litellm_systemd.logs.events import group_events, read_events
from litellm_systemd.runtime.worker import slow_connections
from litellm_systemd.runtime.worker.worker import asyncio_run


async def look_up(loop: asyncio.AbstractEventLoop, _server: socket.socket) -> None:
    found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM, family=socket.AF_INET)
    assert found[0][4] == ("127.0.0.1", 80)


async def connect(loop: asyncio.AbstractEventLoop, server: socket.socket) -> None:
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, server.getsockname())
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize(
    ("wait", "text", "name"),
    [
        (look_up, "the name servers have not answered for 'localhost' within 0 s, and requests wait", "silent-names"),
        (connect, "127.0.0.1:{port} has not accepted a connection within 0 s, and requests wait", "silent-provider"),
    ],
)
def test_long_wait(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wait: Callable[[asyncio.AbstractEventLoop, socket.socket], Awaitable[Any]],
    text: str,
    name: str,
) -> None:
    """What takes long is logged while a request waits for it, as a known message, and succeeds nevertheless."""
    for method in ("getaddrinfo", "sock_connect"):
        monkeypatch.setattr(uvloop.Loop, method, getattr(uvloop.Loop, method))

    async def run() -> None:
        await wait(asyncio.get_running_loop(), server)

    with socket.create_server(("127.0.0.1", 0)) as server:
        asyncio_run(run())
        assert caplog.messages == []
        monkeypatch.setattr(slow_connections, "_PATIENCE", 0)
        asyncio_run(run())
        text = text.format(port=server.getsockname()[1])
    assert caplog.messages[0] == text
    groups = group_events(read_events([{"MESSAGE": text, "PRIORITY": "4"}]))
    assert [each.signature.name for each in reportable_groups(groups, "upstream") if each.signature] == [name]
