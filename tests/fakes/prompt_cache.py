"""The prompt cache of Bedrock: exact prefixes, cache marks, look-back, a minimum of tokens, two TTLs.

A prefix is the serialised tools, then the system prompt, then the messages, up to a block. A request writes the
prefix at each of its marks. At each mark it looks for a written prefix that ends at that block or at one of the 19
before, and reads the longest. One changed character, or another order of keys, changes each prefix behind it. Another
`thinking` or `tool_choice` changes the prefixes that include messages.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html ("approximately 20 content blocks"),
https://platform.claude.com/docs/en/build-with-claude/prompt-caching (look-back, what invalidates the cache).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.fakes.prompt import Part

#: The number of blocks at which a mark looks for a written prefix, its own included.
LOOK_BACK = 20
_LIFETIMES = {"5m": timedelta(minutes=5), "1h": timedelta(hours=1)}


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Tokens of a prompt: read from the cache, written to it by TTL, and processed without it."""

    read: int
    written: dict[str, int]
    uncached: int


@dataclass
class PromptCache:
    """The prefixes that were written, by digest, with TTL and time of expiry. `clock` returns the time."""

    clock: Callable[[], datetime]
    _entries: dict[bytes, tuple[str, datetime]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, model: str, minimum: int, parts: list[Part], settings: Any) -> CacheUse:
        """Look up and write the prefixes of a request.

        Args:
            model: caches of different models are separate.
            minimum: a prefix with fewer tokens is neither read nor written.
            parts: the prompt.
            settings: what the cache of the messages depends on besides their text.
        """
        prefixes = _prefixes(model, parts, settings)
        marks = [index for index, part in enumerate(parts) if part.mark and prefixes[index][1] >= minimum]
        with self._lock:
            read = max((self._look_back(prefixes, index) for index in marks), default=0)
            written, covered = dict.fromkeys(_LIFETIMES, 0), read
            for index in marks:
                digest, tokens = prefixes[index]
                ttl = parts[index].mark or "5m"
                if tokens > covered:
                    written[ttl] += tokens - covered
                    covered = tokens
                if not self._refresh(digest):
                    self._entries[digest] = ttl, self.clock() + _LIFETIMES[ttl]
        return CacheUse(read, written, (prefixes[-1][1] if prefixes else 0) - covered)

    def _look_back(self, prefixes: list[tuple[bytes, int]], mark: int) -> int:
        """The tokens of the longest written prefix that this mark can see."""
        for digest, tokens in prefixes[mark : (mark - LOOK_BACK if mark >= LOOK_BACK else None) : -1]:
            if self._refresh(digest):
                return tokens
        return 0

    def _refresh(self, digest: bytes) -> bool:
        """Whether a prefix is in the cache. If so, its lifetime starts again."""
        ttl, expires = self._entries.get(digest, ("5m", None))
        if expires is None or expires <= self.clock():
            return False
        self._entries[digest] = ttl, self.clock() + _LIFETIMES[ttl]
        return True


def _prefixes(model: str, parts: list[Part], settings: Any) -> list[tuple[bytes, int]]:
    """The digest and the tokens of the prefix that ends at each part."""
    digest, tokens, role = hashlib.sha256(model.encode()), 0, ""
    found = []
    for part in parts:
        if part.role != role:
            if part.role == "user" and role in ("", "tools", "system"):
                digest.update(json.dumps(settings).encode())
            role = part.role
            digest.update(f"\n{role}\n".encode())
        digest.update(json.dumps(part.block).encode())
        tokens += part.tokens
        found.append((digest.digest(), tokens))
    return found
