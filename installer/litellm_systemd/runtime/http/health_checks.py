"""The health checks of load balancers."""

from __future__ import annotations

from typing import Any

from litellm_systemd.runtime.http.refuse import Application

READINESS = "/health/readiness"
#: LiteLLM answers them without a key, below SERVER_ROOT_PATH.
HEALTH_CHECKS = ("/health/liveliness", "/health/liveness", READINESS)


def is_health_check(scope: Any) -> bool:
    """Whether the path of a request is that of a health check."""
    path: str = scope.get("path", "")
    return path.endswith(HEALTH_CHECKS)


class HeadHealthChecks:
    """Passes requests to `application`, and a health check by HEAD as one by GET, which is all that LiteLLM knows.

    HAProxy's `option httpchk HEAD` would get 405, and take the instance out of service. uvicorn sends no body.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and is_health_check(scope):
            scope = {**scope, "method": "GET"}
        await self._application(scope, receive, send)
