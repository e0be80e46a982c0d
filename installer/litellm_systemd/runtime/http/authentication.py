"""The authentication gate: it answers a request without the right key before LiteLLM reads the body.

It refuses only what `find_refusal` names (worker/litellm_authentication.py). LiteLLM decides on every other request.
Without a database LiteLLM answers a wrong key with `400 No connected db.`, which no SDK takes for a wrong key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from litellm_systemd.runtime.channel import OTHER_ADDRESSES, Refusals
from litellm_systemd.runtime.http.errors import ApiError, build_response

#: Seconds to receive the rest of a refused request. nginx has the same limit (lingering_time).
_LINGER = 30.0
#: A worker names this many addresses per second, and counts the requests of further ones under `OTHER_ADDRESSES`.
MAX_ADDRESSES = 100
#: Characters of an address. A trusted proxy passes on what its client sent as one, up to the limit of a header.
_MAX_ADDRESS = 64
#: The name of a client that connected to a UNIX socket.
LOCAL = "a local socket"

Application = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused. `has_key` is False if it has no key at all."""

    message: str
    has_key: bool


class RefusalCounter:
    """The refused requests of this process since the last call of `take`."""

    def __init__(self) -> None:
        self._clients: Counter[str] = Counter()
        self._with_key = 0

    def add(self, client: str, refusal: Refusal) -> None:
        """Count one request."""
        address = client[:_MAX_ADDRESS]
        is_named = address in self._clients or len(self._clients) < MAX_ADDRESSES
        self._clients[address if is_named else OTHER_ADDRESSES] += 1
        self._with_key += refusal.has_key

    def take(self) -> Refusals | None:
        """The numbers for the main process, or None if no request was refused. Starts again at zero."""
        if not self._clients:
            return None
        taken = Refusals(self._with_key, self._clients.total() - self._with_key, dict(self._clients))
        self._clients, self._with_key = Counter(), 0
        return taken


class AuthenticationGate:
    """Passes requests to `application`, except those for which `find_refusal` returns a refusal.

    `wrap` adds what LiteLLM adds to each of its responses, such as the CORS headers without which a browser hides the
    response from its page.
    """

    def __init__(
        self,
        application: Application,
        find_refusal: Callable[[Any], Awaitable[Refusal | None]],
        counter: RefusalCounter,
        wrap: Callable[[Application], Application] = lambda application: application,
    ) -> None:
        self._application = application
        self._find_refusal = find_refusal
        self._counter = counter
        self._wrap = wrap

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        is_request = scope["type"] in ("http", "websocket")
        refusal = await self._find_refusal(scope) if is_request else None
        if refusal is None:
            await self._application(scope, receive, send)
            return

        async def refuse(scope: Any, receive: Any, send: Any) -> None:
            self._counter.add(scope["client"][0] if scope["client"] else LOCAL, refusal)
            await _refuse(scope, receive, send, refusal)

        await self._wrap(refuse)(scope, receive, send)


async def _refuse(scope: Any, receive: Any, send: Any, refusal: Refusal) -> None:
    error = ApiError(401, refusal.message, "invalid_request_error", "invalid_api_key", "authentication_error")
    # RFC 9110, 11.6.1: a 401 has a challenge. The SDKs of OpenAI and Anthropic obey x-should-retry: without it,
    # Claude Code repeats a request with a wrong ANTHROPIC_AUTH_TOKEN ten times, for more than three minutes.
    headers = [(b"www-authenticate", b"Bearer"), (b"x-should-retry", b"false")]
    if scope["type"] == "websocket":
        await _refuse_handshake(scope, receive, send, build_response(scope, error, *headers))
        return
    sent = {name: value.lower() for name, value in scope["headers"]}
    waits = sent.get(b"expect") == b"100-continue"
    if waits:
        # The client may still send the body, or may never do so. Only a closed connection is clear to both sides
        # (RFC 9110, 10.1.1).
        headers.append((b"connection", b"close"))
    start, body = build_response(scope, error, *headers)
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if not waits and (sent.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in sent):
        await _discard_body(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse_handshake(scope: Any, receive: Any, send: Any, response: tuple[dict[str, Any], bytes]) -> None:
    """Answer a WebSocket handshake with the response if the server can, otherwise with its own 403."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    start, body = response
    await send({**start, "type": "websocket.http.response.start"})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


async def _discard_body(receive: Any) -> None:
    """Receive the rest of the body, piece by piece, and drop it.

    The client has the complete response already. If the connection closed while the client still sends, the kernel
    would reset it, and the client could lose the response (RFC 9112, 9.6).
    """

    async def discard() -> None:
        while (await receive()).get("more_body", False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(discard(), _LINGER)
