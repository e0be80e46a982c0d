"""Counts the responses by their status for /metrics. It is active only with METRICS."""

from __future__ import annotations

from typing import Any, cast

from litellm_systemd.runtime.http.refuse import Application, Metrics

#: The server address of a worker's own health check: a socket pair has no name. Clients connect to an address or
#: path.
_HEALTH_CHECK = ("", None)
#: The key in the `state` of an ASGI scope for whether the client gets no response of the application any more: the
#: connection has closed, or the server itself has sent an error.
IS_GONE = "litellm_systemd.is_gone"
#: The same for whether the response is a planned 503 of a health check, which is no error to alert about.
IS_PLANNED = "litellm_systemd.is_planned"


class ResponseCounter:
    """Passes requests to `application` and counts the response of each, before the client gets its first byte.

    So a client that has a response finds it counted. Not counted are a request that ends without a response, and the
    health checks of an instance that is leaving.
    """

    def __init__(self, application: Application, metrics: Metrics) -> None:
        self._application = application
        self._count = metrics.count_response

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not is_of_client(scope):
            await self._application(scope, receive, send)
            return
        is_counted = False

        async def count(message: Any) -> None:
            nonlocal is_counted
            if not is_counted and (status := find_status(message)) is not None:
                is_counted = True
                self._count_unless_gone(scope, status)
            await send(message)

        try:
            await self._application(scope, receive, count)
        except Exception:
            if not is_counted:
                self._count_unless_gone(scope, 500)  # uvicorn sends it then
            raise

    def _count_unless_gone(self, scope: Any, status: int) -> None:
        if not {IS_GONE, IS_PLANNED} & scope.get("state", {}).keys():
            self._count(status)


def is_of_client(scope: Any) -> bool:
    """Whether this is a request of a client: not a health check of the worker by itself, nor the lifespan."""
    return scope["type"] in ("http", "websocket") and scope.get("server") != _HEALTH_CHECK


def find_status(message: Any) -> int | None:
    """The status code in a message to the client, or None."""
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
        return cast(int, message["status"])
    return {"websocket.accept": 101, "websocket.close": 403}.get(message["type"])
