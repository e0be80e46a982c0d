"""During the overlap of a rotation a request with the old master key gets the new one, before its key is checked.

So the old key is the same identity to LiteLLM, with the same rights and caches. Afterwards it is a wrong key.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Sequence
from typing import Any

from litellm_systemd.env.retired_keys import RetiredKey, digest_key
from litellm_systemd.runtime.http.refuse import Application

#: The parts of a header or of a query string that may be a key. A browser sends it after the last dot of a protocol.
_WORD = re.compile(rb"[^\s,=&]+")
_SUBPROTOCOL = b"openai-insecure-api-key."
_BASIC = re.compile(rb"basic ", re.IGNORECASE)


class RetiredKeys:
    """Passes requests to `application`, those with one of `keys` with `master_key` instead until its time is over."""

    def __init__(self, application: Application, keys: Sequence[RetiredKey], master_key: str) -> None:
        self._application = application
        self._until = {key.digest: key.until for key in keys}
        self._last = max(self._until.values())
        self._master_key = master_key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if scope["type"] in ("http", "websocket") and time.time() < self._last:
            headers = [(name, self._replace_in_header(value)) for name, value in scope["headers"]]
            scope = {**scope, "headers": headers, "query_string": self._replace(scope.get("query_string", b""))}
        await self._application(scope, receive, send)

    def _replace_in_header(self, value: bytes) -> bytes:
        if scheme := _BASIC.match(value):
            with contextlib.suppress(ValueError):  # the key is the password (LiteLLM's route of Langfuse)
                user, _, key = base64.b64decode(value[scheme.end() :]).partition(b":")
                if (replaced := self._replace(key)) != key:
                    return scheme[0] + base64.b64encode(user + b":" + replaced)
        return self._replace(value)

    def _replace(self, text: bytes) -> bytes:
        return _WORD.sub(self._replace_word, text)

    def _replace_word(self, match: re.Match[bytes]) -> bytes:
        word = match[0]
        prefix = _SUBPROTOCOL if word.startswith(_SUBPROTOCOL) else b""
        # By its digest, so that the time of the comparison reveals nothing about the key.
        is_accepted = time.time() < self._until.get(digest_key(word[len(prefix) :]), 0)
        return prefix + self._master_key if is_accepted else word
