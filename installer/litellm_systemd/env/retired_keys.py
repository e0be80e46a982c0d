"""The master keys that `rotate-key` has replaced, and until when the service accepts each of them.

They are in one variable of the service, as digests: a key that is no longer used is stored nowhere. A digest
outlives its overlap, so that an install recognizes an old key in a `.env`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from litellm_systemd.contract import RETIRED_KEYS

#: The number of keys that are remembered.
_MAX_KEYS = 8


@dataclass(frozen=True, slots=True)
class RetiredKey:
    """The SHA-256 of a replaced key, in hex, and the Unix time until which the service accepts it."""

    digest: str
    until: int


def digest_key(key: str | bytes) -> str:
    """The digest of a key, by which it is recognized."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def read_retired_keys(environment: Mapping[str, str]) -> tuple[RetiredKey, ...]:
    """The replaced keys, the latest first. What is not one is skipped: a service must start nevertheless."""
    found = []
    for word in environment.get(RETIRED_KEYS, "").split():
        digest, _, until = word.partition(":")
        if until.isdecimal():
            found.append(RetiredKey(digest, int(until)))
    return tuple(found)


def render_retired_keys(keys: Sequence[RetiredKey]) -> str:
    """The value of the variable; the oldest keys are dropped."""
    return " ".join(f"{key.digest}:{key.until}" for key in keys[:_MAX_KEYS])
