"""During the overlap of a rotation a request with the old master key gets the new one, before its key is checked.

So the old key is the same identity to LiteLLM, with the same rights and caches. Afterwards it is a wrong key.

The new key is exchanged only where LiteLLM reads a key. LiteLLM returns other parts of a request in its responses,
such as x-litellm-call-id: a client that knows the old key alone must not learn the new one.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from litellm_systemd.contract import USER_AGENT
from litellm_systemd.env.retired_keys import RetiredKey, digest_key
from litellm_systemd.runtime.http.refuse import Application, name_client

#: The headers in which LiteLLM reads a key (SpecialHeaders in litellm/proxy/_types.py, user_api_key_auth_websocket).
_HEADERS = frozenset(
    {
        b"api-key",
        b"authorization",
        b"litellm_user_api_key",
        b"ocp-apim-subscription-key",
        b"sec-websocket-protocol",
        b"x-api-key",
        b"x-goog-api-key",
        b"x-litellm-api-key",
    }
)
#: The parts of a header that may be a key. A browser sends it after the last dot of a protocol.
_WORD = re.compile(rb"[^\s,]+")
_SUBPROTOCOL = b"openai-insecure-api-key."
_BASIC = re.compile(rb"basic ", re.IGNORECASE)
#: A key in a query string, as Google's clients send it.
_PARAMETER = re.compile(rb"((?:^|&)key=)([^&]+)")
#: Characters of a header with a key: of a longer one no word is compared, because clients decide on their number.
_MAX_HEADER = 4096


class RetiredKeys:
    """Passes requests to `application`, those with one of `keys` with `master_key` instead until its time is over.

    `find_headers` returns the names of further headers in which LiteLLM reads a key. `on_use` gets a message
    for each request with an old key, the same one for each request of a client.
    """

    def __init__(
        self,
        application: Application,
        keys: Sequence[RetiredKey],
        master_key: str,
        find_headers: Callable[[], Iterable[str]],
        on_use: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._application = application
        self._until = {key.digest: key.until for key in keys}
        self._last = max(self._until.values())
        self._master_key = master_key.encode()
        self._find_headers = find_headers
        self._on_use = on_use

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and time.time() < self._last:
            exchange = _Exchange(self._until, self._master_key)
            names = {*_HEADERS, *(name.lower().encode() for name in self._find_headers())}
            headers = [
                (name, exchange.in_header(value) if name.lower() in names else value)
                for name, value in scope["headers"]
            ]
            query = exchange.in_query(scope.get("query_string", b""))
            if exchange.old:
                if not _is_own(scope):
                    self._on_use(_describe_use(scope, self._until[digest_key(exchange.old)]))
                scope, send = {**scope, "headers": headers, "query_string": query}, exchange.restoring(send)
        await self._application(scope, receive, send)


def _is_own(scope: Any) -> bool:
    """Whether `rotate-key` tries the old key."""
    return any(name.lower() == b"user-agent" and value == USER_AGENT.encode() for name, value in scope["headers"])


def _describe_use(scope: Any, until: int) -> str:
    # A trusted proxy passes on what its client sent as an address: it may contain control characters.
    client = name_client(scope.get("client")).encode("unicode_escape").decode()
    end = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
    return f"{client} uses the old master key, which is refused from {end}"


class _Exchange:
    """The exchange of the keys of one request. `old` is the old key that it has; empty if none is accepted."""

    def __init__(self, until: dict[str, int], master_key: bytes) -> None:
        self.old = b""
        self._until = until
        self._new = master_key

    def in_header(self, value: bytes) -> bytes:
        if len(value) > _MAX_HEADER:
            return value
        if scheme := _BASIC.match(value):
            with contextlib.suppress(ValueError):  # of Langfuse: the key is the password, or the user
                parts = base64.b64decode(value[scheme.end() :]).split(b":")
                return scheme[0] + base64.b64encode(b":".join(map(self._key, parts)))
        return _WORD.sub(self._word, value)

    def in_query(self, query: bytes) -> bytes:
        return _PARAMETER.sub(lambda match: match[1] + self._key(match[2]), query, count=1)

    def restoring(self, send: Any) -> Any:
        """`send`, without the new key in what repeats a key: redirections, and the protocol of a WebSocket."""

        async def send_restored(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (name, value.replace(self._new, self.old) if name.lower() == b"location" else value)
                    for name, value in message.get("headers", ())
                ]
                message = {**message, "headers": headers}
            elif message["type"] == "websocket.accept" and message.get("subprotocol"):
                protocol = message["subprotocol"].encode("latin-1").replace(self._new, self.old)
                message = {**message, "subprotocol": protocol.decode("latin-1")}
            await send(message)

        return send_restored

    def _word(self, match: re.Match[bytes]) -> bytes:
        word = match[0]
        prefix = _SUBPROTOCOL if word.startswith(_SUBPROTOCOL) else b""
        return prefix + self._key(word[len(prefix) :])

    def _key(self, key: bytes) -> bytes:
        # By its digest, so that the time of the comparison reveals nothing about the key.
        if time.time() >= self._until.get(digest_key(key), 0):
            return key
        self.old = key
        return self._new
