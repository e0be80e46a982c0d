"""The authentication gate: it answers a request without the right key before LiteLLM reads the body.

It refuses only what `find_refusal` names (worker/litellm_authentication.py). LiteLLM decides on every other request.
Without a database LiteLLM answers a wrong key with `400 No connected db.`, which no SDK takes for a wrong key.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from litellm_systemd.runtime.failures import IS_EXPECTED
from litellm_systemd.runtime.http.errors import ApiError, build_response
from litellm_systemd.runtime.http.guessing import Guesses
from litellm_systemd.runtime.http.refuse import LOCAL, Application, Reason, RefusalCounter, refuse
from litellm_systemd.runtime.http.unknown_keys import UnknownKeys

#: The key in the `state` of an ASGI scope for whether the request has the right key. It is missing if LiteLLM
#: decides.
HAS_RIGHT_KEY = "litellm_systemd.has_right_key"
#: The hash of a key that may be one of LiteLLM's virtual keys.
VIRTUAL_KEY = "litellm_systemd.virtual_key"
#: The same for whether the request is refused: its connection may be closed before the client gets the refusal.
IS_REFUSED = "litellm_systemd.is_refused"
#: Seconds to close the connection of a refused WebSocket.
_CLOSE_TIMEOUT = 1.0


@dataclass(slots=True)
class KeyLookup:
    """Whether LiteLLM has looked for the key of a request in its database and has not found it."""

    is_unknown: bool = False


#: That of the request that runs now. A task that LiteLLM starts for it inherits the same object.
LOOKUP: ContextVar[KeyLookup] = ContextVar("litellm_systemd_lookup")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused. `has_key` is False if it has no key at all; `key` is a hash of the wrong key."""

    message: str
    has_key: bool
    key: int = 0


class AuthenticationGate:
    """Passes requests to `application`, except those for which `find_refusal` returns a refusal.

    A virtual key that LiteLLM refuses is added to `unknown`, and counts as a guess like any wrong key.

    `wrap` adds what LiteLLM adds to each of its responses, such as the CORS headers without which a browser hides the
    response from its page. `body_limit` is the number of bytes of a refused body that are received and dropped, 0 for
    all of it.
    """

    def __init__(
        self,
        application: Application,
        find_refusal: Callable[[Any], Awaitable[Refusal | None]],
        counter: RefusalCounter,
        wrap: Callable[[Application], Application] = lambda application: application,
        body_limit: int = 0,
        unknown: UnknownKeys | None = None,
    ) -> None:
        self._application = application
        self._unknown = unknown or UnknownKeys()
        self._find_refusal = find_refusal
        self._counter = counter
        self._guesses = Guesses()
        self._wrap = wrap
        self._body_limit = body_limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_request = scope["type"] in ("http", "websocket")
        refusal = await self._find_refusal(scope) if is_request else None
        if refusal is None:
            key = scope.get("state", {}).pop(VIRTUAL_KEY, None)
            if key is not None:
                send = self._watching(scope, send, key)
            await self._application(scope, receive, send)
            return

        scope.get("state", {})[IS_REFUSED] = True

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            client = scope["client"]
            if scope.get("state", {}).get(IS_EXPECTED):
                await _refuse(scope, receive, send, refusal, self._body_limit, close=False)
                return
            if not refusal.has_key:
                reason, delay = Reason.NO_KEY, 0.0
            else:
                delay = self._guesses.count(client[0] if client else LOCAL, refusal.key, time.monotonic())
                reason = Reason.GUESS if delay else Reason.WRONG_KEY
            self._counter.add(client, reason)
            close = delay > 0 and not await self._guesses.delay(delay)
            await _refuse(scope, receive, send, refusal, self._body_limit, close=close)

        await self._wrap(answer)(scope, receive, send)

    def _watching(self, scope: Any, send: Any, key: int) -> Any:
        """`send`, which delays LiteLLM's refusal of an unknown key if the client guesses."""
        lookup = KeyLookup()
        LOOKUP.set(lookup)

        async def send_watched(message: Any) -> None:
            # A provider may answer 401 as well.
            if lookup.is_unknown and (message.get("status") == 401 or message["type"] == "websocket.close"):
                self._unknown.add(key, time.monotonic())
                client = scope["client"]
                delay = self._guesses.count(client[0] if client else LOCAL, key, time.monotonic())
                self._counter.add(client, Reason.GUESS if delay else Reason.WRONG_KEY)
                if delay:
                    await self._guesses.delay(delay)
            await send(message)

        return send_watched


async def _refuse(scope: Any, receive: Any, send: Any, refusal: Refusal, body_limit: int, *, close: bool) -> None:
    error = ApiError(401, refusal.message, "invalid_request_error", "invalid_api_key", "authentication_error")
    # RFC 9110, 11.6.1: a 401 has a challenge. The SDKs of OpenAI and Anthropic obey x-should-retry: without it,
    # Claude Code repeats a request with a wrong ANTHROPIC_AUTH_TOKEN ten times, for more than three minutes.
    headers = [(b"www-authenticate", b"Bearer"), (b"x-should-retry", b"false")]
    if scope["type"] == "websocket":
        await _refuse_handshake(scope, receive, send, build_response(scope, error, *headers))
        return
    await refuse(scope, receive, send, error, *headers, body_limit=body_limit, close=close)


async def _refuse_handshake(scope: Any, receive: Any, send: Any, response: tuple[dict[str, Any], bytes]) -> None:
    """Answer a WebSocket handshake with the response if the server can, otherwise with its own 403."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    start, body = response
    await send({**start, "type": "websocket.http.response.start"})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
    # uvicorn logs an error if the application returns before the connection is closed. The response and the closing
    # put a `websocket.disconnect` each into its queue.
    with contextlib.suppress(asyncio.TimeoutError):
        for _ in range(2):
            await asyncio.wait_for(receive(), _CLOSE_TIMEOUT)
