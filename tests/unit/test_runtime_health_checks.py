"""The health checks of load balancers."""

from __future__ import annotations

from typing import Any

import pytest

from litellm_systemd.runtime.http.health_checks import HealthChecks
from tests.unit.running_server import serve


async def gateway(scope: Any, _receive: Any, send: Any) -> None:
    """An application whose database is down: each GET gets 503."""
    status = 503 if scope["method"] == "GET" else 405
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"down"})


@pytest.mark.parametrize(
    ("request_line", "serves_on", "expected"),
    [
        ("GET /health/readiness", True, (200, b"down")),
        ("GET /gateway/health/readiness", True, (200, b"down")),
        ("GET /gateway/health/readiness", False, (503, b"down")),
        ("HEAD /gateway/health/readiness", True, (200, b"")),
        ("HEAD /gateway/health/liveliness", False, (503, b"")),
        ("HEAD /gateway/models", True, (405, b"")),
        ("GET /gateway/models", True, (503, b"down")),
        ("POST /gateway/health/readiness", True, (405, b"down")),
    ],
)
async def test_health_checks(request_line: str, serves_on: bool, expected: tuple[int, bytes]) -> None:
    """HEAD is answered as GET is, without a body. While the instance serves on, a 503 is 200. Both hold below a
    SERVER_ROOT_PATH and for health checks alone.
    """

    def wrap(application: Any) -> Any:
        checks = HealthChecks(gateway, lambda: serves_on)

        async def route(scope: Any, receive: Any, send: Any) -> None:
            await (application if scope["type"] == "lifespan" else checks)(scope, receive, send)

        return route

    async with serve(wrap=wrap) as world:
        peer = await world.connect()
        method, path = request_line.split()
        peer.request(path, "Connection: close", method=method)
        head, _, body = (await peer.read_rest()).partition(b"\r\n\r\n")
    assert (int(head.split()[1]), body) == expected
