"""The health checks of load balancers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litellm_systemd.runtime.http.refuse import Application

READINESS = "/health/readiness"
#: LiteLLM answers them without a key, below SERVER_ROOT_PATH.
HEALTH_CHECKS = ("/health/liveliness", "/health/liveness", READINESS)


def is_health_check(scope: Any) -> bool:
    path: str = scope.get("path", "")
    return path.endswith(HEALTH_CHECKS)


class HealthChecks:
    """Passes requests to `application`, and answers health checks as load balancers need them.

    A health check by HEAD is passed on as one by GET, which is all that LiteLLM knows. HAProxy's `option httpchk
    HEAD` would get 405, and take the instance out of service. uvicorn sends no body.

    A 503 becomes 200 while `serves_on` returns True: all instances lack the same server then, and still serve what
    does not need it. A load balancer that takes all of them out of service, and an Auto Scaling group that replaces
    them, would make it worse.
    """

    def __init__(self, application: Application, serves_on: Callable[[], bool]) -> None:
        self._application = application
        self._serves_on = serves_on

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not is_health_check(scope):
            await self._application(scope, receive, send)
            return

        async def send_excused(message: Any) -> None:
            if message.get("status") == 503 and self._serves_on():
                message = {**message, "status": 200}
            await send(message)

        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._application({**scope, "method": method}, receive, send_excused)
