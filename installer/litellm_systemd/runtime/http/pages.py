"""What the gateway answers itself, to any caller, before LiteLLM: `/`, the API document, and pages that are off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from litellm_systemd.runtime.http.refuse import Application, respond


@dataclass(frozen=True, slots=True)
class Page:
    """A complete response."""

    status: int
    content_type: str
    body: bytes


class Pages:
    """Answers requests for which `find_page` returns a page, and passes all others to `application`.

    `wrap` adds what LiteLLM adds to each of its responses. `body_limit` is the number of bytes of a request that are
    received and dropped, 0 for all of it.
    """

    def __init__(
        self,
        application: Application,
        find_page: Callable[[Any], Awaitable[Page | None]],
        wrap: Callable[[Application], Application],
        body_limit: int = 0,
    ) -> None:
        self._application = application
        self._find_page = find_page
        self._wrap = wrap
        self._body_limit = body_limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        page = await self._find_page(scope) if scope["type"] == "http" else None
        if page is None:
            await self._application(scope, receive, send)
            return
        headers = [(b"content-type", page.content_type.encode()), (b"content-length", str(len(page.body)).encode())]
        start = {"type": "http.response.start", "status": page.status, "headers": headers}

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await respond(scope, receive, send, start, page.body, body_limit=self._body_limit)

        await self._wrap(answer)(scope, receive, send)
